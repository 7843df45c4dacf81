"""This module implements the shape codec, which turns coloured voxels into 33 codes and back:
connected components, each coded by form, colour and place.

It knows nothing of the world's solids. A component is cut out of the grid under its box and coded
by a 3-D convolutional network with FSQ; colour, centre and extent are scalars on fixed scales (FSQ
with nothing to learn). Of more than three components the three largest are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from onnuri import config
from onnuri.codecs.base import Codec
from onnuri.codecs.fsq import FSQ
from onnuri.codecs.spec import CodecSpec, Field, SlotLayout
from onnuri.modality import VOXELS, Modality
from onnuri.toyworld.codecs.objects import OBJECTS, ObjectOrder
from onnuri.toyworld.codecs.sprites import hat

CROP = 24
"""cells per side of a component's crop"""
MARGIN = 1.15
"""a crop shows this many times the box"""
SMALLEST, LARGEST = 0.06, 2.0
"""smallest and largest side of a box in world units, between which 256 codes lie evenly in the
logarithm"""
SPECK = 8
"""components of fewer voxels are ignored"""


def shape_spec() -> CodecSpec:
    """Return the spec of a new shape codec."""
    fields = (
        Field(name="color", count=1, codes=512, weight=3.0),
        Field(name="form", count=4, codes=512, weight=0.7),
        Field(name="center", count=3, codes=256, weight=0.7, label_smoothing_sigma=3.0),
        Field(name="extent", count=3, codes=256, label_smoothing_sigma=2.0),
    )
    layout = SlotLayout(
        fields=fields, order=("form", "color", "center", "extent") * OBJECTS, slots=OBJECTS
    )
    return CodecSpec(
        name="shape",
        codec="object_shape",
        modality="shape",
        codebook="shape",
        codebooks=(layout.num_codes,),
        shape=layout,
        max_codes=layout.item_codes,
    )


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3-D convolution of kernel 3 with group normalization and SiLU."""
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.SiLU()
    )


def components(
    voxels: np.ndarray, order: ObjectOrder = "left", most: int = OBJECTS
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return up to `most` components of voxels uint8 [64, 64, 64, 4], the largest, in the given
    order as seen from the front.

    Each is a crop float32 [24, 24, 24] of occupancy, a box float32 [6] of centre and extent in
    world units, and RGB float32 [3] in [0, 1].
    """
    labels, count = ndimage.label(voxels[..., 3] > 127, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    largest = [int(k) + 1 for k in np.argsort(-sizes, kind="stable")[:most] if sizes[k] >= SPECK]
    windows = ndimage.find_objects(labels)
    parts = [_component(voxels, labels, k, windows[k - 1]) for k in largest]
    if order == "diagonal":
        return sorted(parts, key=lambda c: c[1][0] - c[1][2])
    return sorted(parts, key=lambda c: (c[1][0], c[1][2]))


def _component(
    voxels: np.ndarray, labels: np.ndarray, k: int, window: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the crop [24, 24, 24], box [6] and RGB [3] of component `k`, whose bounding slices are
    `window`."""
    window = tuple(slice(max(s.start - 3, 0), s.stop + 3) for s in window)
    others = (labels[window] != k) & (labels[window] != 0)
    alpha = np.where(others, 0, voxels[window][..., 3]).astype(np.float32) / 255
    low, high = [], []
    # sub-voxel: how full the outermost layer is tells where the surface lies in it
    for axis in range(3):
        profile = alpha.max(axis=tuple(a for a in range(3) if a != axis))
        inside = np.flatnonzero(profile > 0.5)
        cell_before, cell_after = (
            profile[inside[0] - 1] if inside[0] else 0.0,
            profile[min(inside[-1] + 1, len(profile) - 1)],
        )
        low.append(window[axis].start + inside[0] + 0.5 - (profile[inside[0]] - 0.5) - cell_before)
        high.append(
            window[axis].start + inside[-1] + 0.5 + (profile[inside[-1]] - 0.5) + cell_after
        )
    lowest, highest = np.array(low) * 2 / VOXELS - 1, np.array(high) * 2 / VOXELS - 1
    extent = np.maximum(highest - lowest, SMALLEST)
    box = np.concatenate([(lowest + highest) / 2, extent]).astype(np.float32)
    rgb = (voxels[window][..., :3] * alpha[..., None]).sum((0, 1, 2)) / alpha.sum() / 255
    return cut(alpha, box, [s.start for s in window]), box, rgb.astype(np.float32)


def cut(alpha: np.ndarray, box: np.ndarray, start: list[int]) -> np.ndarray:
    """Return the occupancy [24, 24, 24] that a box × MARGIN shows of a window of the grid that
    begins at cell `start`, by trilinear sampling."""
    steps = (torch.arange(CROP) + 0.5) / CROP - 0.5
    part = torch.from_numpy(np.ascontiguousarray(alpha))
    weights = []
    for axis in range(3):
        world = float(box[axis]) + steps * float(box[3 + axis]) * MARGIN
        weights.append(hat((world + 1) * VOXELS / 2 - 0.5 - start[axis], part.shape[axis]))
    return torch.einsum("xyz,ax,by,cz->abc", part, *weights).numpy()


def put(grid: np.ndarray, crop: np.ndarray, box: np.ndarray, rgb: np.ndarray) -> None:
    """Paint a crop's occupancy and colour into voxels uint8 [64, 64, 64, 4], wherever it is fuller
    than what is there."""
    reach = box[3:] * MARGIN / 2
    low = np.clip(np.floor((box[:3] - reach + 1) * VOXELS / 2).astype(int), 0, VOXELS - 1)
    high = np.clip(np.ceil((box[:3] + reach + 1) * VOXELS / 2).astype(int) + 1, low + 1, VOXELS)
    weights = []
    for axis in range(3):
        world = (torch.arange(int(low[axis]), int(high[axis])) + 0.5) * 2 / VOXELS - 1
        cells = ((world - float(box[axis])) / (float(box[3 + axis]) * MARGIN) + 0.5) * CROP - 0.5
        weights.append(hat(cells, CROP))
    occupancy = torch.einsum("abc,xa,yb,zc->xyz", torch.from_numpy(crop), *weights).numpy()
    alpha = (occupancy.clip(0, 1) * 255).round().astype(np.uint8)
    window = grid[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    fuller = alpha > window[..., 3]
    window[fuller] = np.concatenate(
        [
            np.broadcast_to((rgb * 255).round().astype(np.uint8), (*alpha.shape, 3)),
            alpha[..., None],
        ],
        -1,
    )[fuller]


class ShapeCodec(Codec):
    """A ShapeCodec encodes voxels uint8 [64, 64, 64, 4] as 33 codes."""

    modality: ClassVar[Modality] = "shape"

    class Config(config.Config):
        """A Config holds the width of the networks and the order of components."""

        width: int = 16
        order: ObjectOrder = "left"
        """order in which components are encoded"""

    def __init__(self, settings: Any = None, spec: CodecSpec | None = None) -> None:
        super().__init__(settings or self.Config(), spec or shape_spec())
        w = self.config.width
        self.encoder = nn.Sequential(
            block(1, w, 2),
            block(w, 2 * w, 2),
            block(2 * w, 2 * w),
            block(2 * w, 4 * w, 2),
            nn.Flatten(),
            nn.Linear(27 * 4 * w, 128),
            nn.SiLU(),
            nn.Linear(128, 12),
        )
        self.stem = nn.Sequential(
            nn.Linear(12, 128), nn.SiLU(), nn.Linear(128, 27 * 4 * w), nn.SiLU()
        )
        up = nn.Upsample(scale_factor=2)
        # eight values a cell at half the resolution: convolving few channels at the full one took
        # four fifths of a step
        self.decoder = nn.Sequential(
            up, block(4 * w, 4 * w), up, block(4 * w, 2 * w), nn.Conv3d(2 * w, 8, 3, 1, 1)
        )
        self.fsq = FSQ((8, 8, 8))

    @property
    def layout(self) -> SlotLayout:
        """Return the layout of a shape's codes."""
        assert self.spec.slots
        return self.spec.slots

    def form(self, crops: Tensor) -> Tensor:
        """Return the unquantized form [N, 4, 3] of crops [N, 24, 24, 24]."""
        return self.encoder(crops[:, None] * 2 - 1).view(-1, 4, 3)

    def solid(self, form: Tensor) -> Tensor:
        """Return the occupancy logits [N, 24, 24, 24] of quantized forms [N, 4, 3]."""
        low = self.stem(form.flatten(1)).view(len(form), -1, 3, 3, 3)
        cells = self.decoder(low).unflatten(1, (2, 2, 2))
        return cells.permute(0, 4, 1, 5, 2, 6, 3).reshape(len(form), CROP, CROP, CROP)

    @torch.inference_mode()
    def encode_batch(self, items: list[np.ndarray]) -> list[np.ndarray]:
        """Return the codes int64 [33] of every item of voxels."""
        components_of_items = [
            components(item, self.config.order, self.layout.slots) for item in items
        ]
        crops = [c[0] for parts in components_of_items for c in parts]
        form = (
            self.fsq.encode(self.form(torch.from_numpy(np.stack(crops)))).numpy()
            if crops
            else np.zeros((0, 4))
        )
        rows, first = [], 0
        for parts in components_of_items:
            rows.append(
                _encode_components(
                    self.layout, [(form[first + k], c[1], c[2]) for k, c in enumerate(parts)]
                )
            )
            first += len(parts)
        return rows

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return the voxels uint8 [64, 64, 64, 4] of every sequence of codes."""
        grids = [np.zeros((VOXELS,) * 3 + (4,), np.uint8) for _ in codes]
        grid_parts = [
            (grid, *part)
            for grid, row in zip(grids, codes)
            for part in _decode_components(self.layout, np.asarray(row))
        ]
        if grid_parts:
            form = self.fsq.decode(torch.from_numpy(np.stack([p[1] for p in grid_parts])).long())
            for (grid, _, box, rgb), crop in zip(
                grid_parts, torch.sigmoid(self.solid(form)).numpy()
            ):
                put(grid, crop, box, rgb)
        return grids

    def training_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Return the loss [] of a batch {"crops": [B, 24, 24, 24] in [0, 1]}, cross-entropy and
        Dice of the occupancy, and its IoU."""
        truth = batch["crops"]
        form = self.fsq(self.form(truth))
        form_count = torch.where(
            torch.rand(len(form), 1, 1) < 0.7, 4, torch.randint(1, 5, (len(form), 1, 1))
        )
        logits = self.solid(
            form * (torch.arange(4)[:, None] < form_count)
        )  # nested dropout (Rippel et al. 2014)
        occupancy = torch.sigmoid(logits)
        dice = 1 - 2 * (occupancy * truth).sum((1, 2, 3)) / (occupancy**2 + truth**2).sum(
            (1, 2, 3)
        ).clamp_min(1)
        loss = F.binary_cross_entropy_with_logits(logits, truth) + dice.mean()
        full = form_count.flatten() == 4
        a, b = occupancy[full] > 0.5, truth[full] > 0.5
        return loss, {"iou": float((a & b).sum() / (a | b).sum().clamp_min(1))}

    def code_features(self) -> Tensor:
        """Return a feature vector per code, float32 [codes, F]: FSQ digits, colours and coordinates
        in blocks of columns, and columns that say which field the code belongs to and whether it
        means absence."""
        fields = self.layout.fields
        features = torch.zeros(self.layout.num_codes, 14 + len(fields))
        row = 0
        for k, field in enumerate(fields):
            line = torch.arange(field.codes) / field.codes
            waves = torch.stack(
                [2 * line - 1]
                + [
                    f(2 * math.pi * m * line)
                    for m in (0.5, 1, 2, 4)
                    for f in (torch.sin, torch.cos)
                ],
                1,
            )
            values = (
                self.fsq.decode(torch.arange(field.codes))
                if field.name in ("form", "color")
                else waves
            )
            column = {"form": 0, "color": 3}.get(field.name, 5)
            features[row : row + field.codes, column : column + values.shape[1]] = values
            features[row : row + field.span, 14 + k] = 1.0
            features[row + field.codes, :14] = 0
            features[row + field.codes, 14 + k] = -1.0
            row += field.span
        return features


def _encode_components(
    layout: SlotLayout, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return the codes int64 [K] of up to `slots` components (form digits [4], box [6], RGB [3]);
    the remaining slots get the codes for absence."""
    places, sides = layout.field("center").codes, layout.field("extent").codes
    each = []
    for form, box, rgb in parts:
        color = np.asarray((rgb * 7).round().clip(0, 7).astype(int) @ np.array([1, 8, 64]))
        center = ((box[:3] + 1) / 2 * places).astype(int).clip(0, places - 1)
        span = math.log(LARGEST / SMALLEST)
        extent = (np.log(box[3:] / SMALLEST) / span * (sides - 1)).round().clip(0, sides - 1)
        each.append({"form": form, "color": color[None], "center": center, "extent": extent})
    row, times = [], Counter[str]()
    for name in layout.order:
        field, slot = layout.field(name), times[name]
        times[name] += 1
        values = each[slot][name] if slot < len(each) else np.full(field.count, field.codes)
        row += [int(value) + layout.base(name) for value in values]
    return np.array(row, dtype=np.int64)


def _decode_components(
    layout: SlotLayout, row: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the components (form digits [4], box [6], RGB [3]) that `_encode_components`
    encoded, without those of which a code is absent."""
    each: list[dict[str, np.ndarray]] = [{} for _ in range(layout.slots)]
    times, position = Counter[str](), 0
    for name in layout.order:
        count = layout.field(name).count
        each[times[name]][name] = row[position : position + count] - layout.base(name)
        times[name] += 1
        position += count
    places, sides = layout.field("center").codes, layout.field("extent").codes
    parts = []
    for values in each:
        if all(
            ((value >= 0) & (value < layout.field(name).codes)).all()
            for name, value in values.items()
        ):
            color = int(values["color"][0])
            rgb = np.array([color % 8, color // 8 % 8, color // 64]) / 7
            extent = SMALLEST * np.exp(
                values["extent"] / (sides - 1) * math.log(LARGEST / SMALLEST)
            )
            box = np.concatenate([(values["center"] + 0.5) * 2 / places - 1, extent])
            parts.append((values["form"], box.astype(np.float32), rgb.astype(np.float32)))
    return parts
