"""This module holds the networks of the image and video codecs: they find objects, and code what
and where each is, and what lies behind them.

It knows nothing of the world's solids, colours or words: any picture is described by three objects
at most. Codes are few and semantic, as in MPEG-4's video objects and slot tokenizers (Slot-MLLM,
2025): per object four codes of form (silhouette and shading, free of colour), one of colour, four
of place; four codes of background. A sprite is colour × shade + highlight, so that any form goes
with any colour. FSQ throughout (see `fsq.py`).

Training uses boxes and masks beside the pictures; encoding does not.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri import config
from onnuri.codecs.fsq import FSQ
from onnuri.codecs.spec import CodecSpec, Field, SlotLayout
from onnuri.toyworld.codecs.objects import OBJECTS, ObjectOrder

CROP = 40
"""pixels per side of a crop and of a sprite"""
PICTURE = 128
"""pixels per side of a picture; boxes are given in them"""
SMALLEST, LARGEST = 4.0, 110.0
"""smallest and largest side of a box in pixels, between which 128 codes lie evenly in the
logarithm"""


VIDEO_CHUNKS = 4
"""number of chunks of four frames after a video's first frame"""
_FIELDS = (
    Field(name="background", count=4, codes=512, weight=0.2, optional=False),
    Field(name="color", count=1, codes=512, weight=3.0),
    Field(name="form", count=4, codes=512, weight=0.7),
    Field(name="x", count=1, codes=256, weight=0.7, label_smoothing_sigma=3.0),
    Field(name="y", count=1, codes=256, weight=0.7, label_smoothing_sigma=3.0),
    Field(name="width", count=1, codes=128, label_smoothing_sigma=1.5),
    Field(name="height", count=1, codes=128, label_smoothing_sigma=1.5),
    Field(name="motion", count=1, codes=1000),
)
_OBJECT = ("form", "color", "x", "y", "width", "height")
_PLACE = ("x", "y", "width", "height")
"""the digits of a box, in their order"""
_IMAGE_ORDER = ("background", *(_OBJECT * OBJECTS))
_VIDEO_ORDER = (*_IMAGE_ORDER, *(("motion",) * OBJECTS * VIDEO_CHUNKS))
"""the motion code of chunk c and object o stands at 31 + 3 c + o: chunk by chunk, so that frames
stream"""


def image_spec() -> CodecSpec:
    """Return the spec of a new image codec."""
    return _spec("image", _IMAGE_ORDER)


def video_spec() -> CodecSpec:
    """Return the spec of a new video codec, whose codes are the first frame's image codes, then
    motion codes."""
    return _spec("video", _VIDEO_ORDER)


def _spec(name: str, order: tuple[str, ...]) -> CodecSpec:
    """Return the spec of a codec of this module, whose items have the fields in `order`."""
    layout = SlotLayout(fields=_FIELDS, order=order, slots=OBJECTS)
    return CodecSpec(
        name=name,
        codec=f"object_{name}",
        modality=name,
        codebook="visual",
        codebooks=(layout.num_codes,),
        shape=layout,
        max_codes=layout.item_codes,
    )


class VisualConfig(config.Config):
    """A VisualConfig holds the sizes of the networks and the settings of detection."""

    finder_width: int = 24
    crop_width: int = 32
    sprite_width: int = 32
    threshold: float = 0.3
    """lowest peak of the heat map that counts as an object"""
    order: ObjectOrder = "left"
    """order in which objects are encoded"""


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 2-D convolution of kernel 3 with group normalization and SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(4, outputs), nn.SiLU()
    )


class Finder(nn.Module):
    """A Finder predicts where objects are: a heat map of centres and boxes at stride 4, and the
    foreground at stride 2 (Zhou et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = block(3, width // 2)
        self.middle = nn.Sequential(block(width // 2, width, 2), block(width, width))
        self.coarse = nn.Sequential(
            block(width, 2 * width, 2), block(2 * width, 2 * width), block(2 * width, 2 * width)
        )
        self.join = block(3 * width, 2 * width)
        self.head = nn.Conv2d(2 * width, 5, 1)
        self.mask = nn.Sequential(
            block(2 * width + width // 2, width // 2), nn.Conv2d(width // 2, 1, 1)
        )
        nn.init.constant_(self.head.bias[:1], -3.0)  # type: ignore[index]

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return for pictures [B, 3, 128, 128] heat logits [B, 32, 32], boxes [B, 4, 32, 32] in
        pixels and mask logits [B, 1, 64, 64]."""
        fine = self.fine(F.avg_pool2d(pictures, 2) - 0.45)
        middle = self.middle(fine)
        joined = self.join(
            torch.cat([middle, F.interpolate(self.coarse(middle), scale_factor=2.0)], 1)
        )
        out = self.head(joined)
        mask = self.mask(torch.cat([F.interpolate(joined, scale_factor=2.0), fine], 1))
        cells = (torch.arange(32, dtype=out.dtype) + 0.5) * 4
        x, y = out[:, 1] * 4 + cells, out[:, 2] * 4 + cells[:, None]
        sides = 24 * torch.exp(out[:, 3:5].clamp(-2.5, 2))
        return out[:, 0], torch.stack([x, y, sides[:, 0], sides[:, 1]], 1), mask


class CropEncoder(nn.Module):
    """A CropEncoder maps a crop [B, 4, 40, 40] (RGB and foreground) to a vector [B, outputs]."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            block(4, width // 2, 2),
            block(width // 2, width, 2),
            block(width, width),
            block(width, 2 * width, 2),
            nn.Flatten(),
            nn.Linear(50 * width, 128),
            nn.SiLU(),
            nn.Linear(128, outputs),
        )

    def forward(self, crops: Tensor) -> Tensor:
        """Return the vectors [B, outputs] of crops [B, 4, 40, 40]."""
        return self.layers(crops)


class SpriteDecoder(nn.Module):
    """A SpriteDecoder maps a form [B, 12] to maps [B, 3, 40, 40] of alpha, shade and highlight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Linear(12, 128), nn.SiLU(), nn.Linear(128, 50 * width), nn.SiLU()
        )
        self.layers = nn.Sequential(
            nn.Upsample(scale_factor=2),
            block(2 * width, 2 * width),
            nn.Upsample(scale_factor=2),
            block(2 * width, width),
            nn.Upsample(scale_factor=2),
            block(width, width // 2),
            nn.Conv2d(width // 2, 3, 3, 1, 1),
        )

    def forward(self, form: Tensor) -> Tensor:
        """Return the maps [B, 3, 40, 40] of forms [B, 12]."""
        maps = self.layers(self.stem(form).view(len(form), -1, 5, 5))
        return torch.cat(
            [
                torch.sigmoid(2 * maps[:, :1]),
                torch.sigmoid(maps[:, 1:2]) * 1.2,
                torch.sigmoid(maps[:, 2:] - 3),
            ],
            1,
        )


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return a perceptron with two hidden layers and SiLU."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )


class Visual(nn.Module):
    """A Visual holds all networks of the visual codec, which `ImageCodec` and `VideoCodec` share. B
    pictures, N objects."""

    def __init__(self, settings: VisualConfig) -> None:
        super().__init__()
        self.settings = settings
        self.finder = Finder(settings.finder_width)
        self.refiner = CropEncoder(settings.crop_width // 2, 4)
        self.form_encoder = CropEncoder(settings.crop_width, 12)
        self.sprite_decoder = SpriteDecoder(settings.sprite_width)
        self.color_encoder, self.color_decoder = mlp(6, 64, 3), mlp(3, 64, 3)
        self.background_encoder, self.background_decoder = mlp(256, 128, 12), mlp(12, 128, 3 * 64)
        self.path_encoder, self.path_decoder = mlp(16, 128, 3), mlp(3, 128, 16)
        self.form_codes, self.path_codes = FSQ((8, 8, 8)), FSQ((10, 10, 10))
        nn.init.zeros_(self.refiner.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.refiner.layers[-1].bias)  # type: ignore[arg-type]

    def refine(self, crops: Tensor, boxes: Tensor) -> Tensor:
        """Return boxes [N, 4] corrected by what their crops [N, 4, 40, 40] show."""
        shift = self.refiner(crops) * 0.2
        sides = boxes[:, 2:] * torch.exp(shift[:, 2:].clamp(-1, 1))
        return torch.cat(
            [boxes[:, :2] + shift[:, :2] * boxes[:, 2:], sides.clamp(SMALLEST, LARGEST)], 1
        )

    def form(self, crops: Tensor) -> Tensor:
        """Return the unquantized form [N, 4, 3] of crops [N, 4, 40, 40]."""
        return self.form_encoder(crops).view(-1, 4, 3)

    def color(self, crops: Tensor) -> Tensor:
        """Return the unquantized colour [N, 3] of crops [N, 4, 40, 40], from the foreground's mean
        and spread."""
        weight = crops[:, 3:] ** 2
        total = weight.sum((2, 3)) + 1e-3
        mean = (crops[:, :3] * weight).sum((2, 3)) / total
        spread = (
            ((crops[:, :3] - mean[..., None, None]) ** 2 * weight).sum((2, 3)) / total + 1e-6
        ).sqrt()
        return self.color_encoder(torch.cat([mean, spread * 3], 1) * 2 - 0.6)

    def background(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Return the unquantized background [B, 4, 3] of pictures [B, 3, 128, 128], from what the
        mask [B, 1, 64, 64] leaves uncovered, at 8 × 8."""
        clear = 1 - F.max_pool2d(mask, 5, 1, 2).clamp(0, 1)
        weight = F.avg_pool2d(clear, 8)
        mean = F.avg_pool2d(F.avg_pool2d(pictures, 2) * clear, 8) / (weight + 1e-3)
        colors = torch.where(
            weight > 0.05,
            mean,
            (mean * weight).sum((2, 3), True) / (weight.sum((2, 3), True) + 1e-3),
        )
        features = torch.cat([(colors - 0.45) * 5, weight], 1)
        return self.background_encoder(features.flatten(1)).view(-1, 4, 3)

    def paint_background(self, quantized: Tensor, size: int = 128) -> Tensor:
        """Return the backgrounds [B, 3, size, size] of quantized codes [B, 4, 3]."""
        low = torch.sigmoid(self.background_decoder(quantized.flatten(1))).view(-1, 3, 8, 8)
        return F.interpolate(low, (size, size), mode="bilinear", align_corners=True)

    def sprites(self, form: Tensor, color: Tensor) -> Tensor:
        """Return the sprites, premultiplied RGBA [N, 4, 40, 40], of quantized form [N, 4, 3] and
        colour [N, 3]."""
        maps = self.sprite_decoder(form.flatten(1))
        albedo = torch.sigmoid(self.color_decoder(color))[..., None, None]
        alpha = maps[:, :1]
        return torch.cat([(albedo * maps[:, 1:2] + maps[:, 2:]) * alpha, alpha], 1)


def composite(behind: Tensor, layers: Tensor) -> Tensor:
    """Return pictures [B, 3, H, W]: premultiplied layers [B, O, 4, H, W] over a background [B, 3,
    H, W], the first lowest."""
    # not indexing: its gradient would be a picture-sized tensor of zeros each time
    for layer in layers.unbind(1):
        color, alpha = layer.split((3, 1), 1)
        behind = behind * (1 - alpha) + color
    return behind


def peaks(
    heat: Tensor,
    boxes: Tensor,
    threshold: float,
    order: ObjectOrder = "left",
    objects: int = OBJECTS,
) -> tuple[Tensor, Tensor]:
    """Return up to O objects per picture, in order, from a heat map [B, 32, 32] and boxes [B, 4,
    32, 32]: boxes [B, O, 4] and whether each is present, bool [B, O]."""
    score = torch.sigmoid(heat)
    score = score * (F.max_pool2d(score[:, None], 3, 1, 1)[:, 0] == score)
    best, index = score.flatten(1).topk(2 * objects, 1)
    peak_boxes = boxes.flatten(2).transpose(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
    present = best > threshold
    for k in range(1, 2 * objects):  # a second peak within another's box is the same object
        gap = (peak_boxes[:, k : k + 1, :2] - peak_boxes[:, :k, :2]).abs()
        same = (gap < 0.35 * peak_boxes[:, :k, 2:]).all(-1) & present[:, :k]
        present[:, k] &= ~same.any(1)
    present &= present.cumsum(1) <= objects
    rank = peak_boxes[..., 0] if order == "left" else peak_boxes[..., 0] + peak_boxes[..., 1]
    picks = torch.where(present, rank, torch.inf).argsort(1)[:, :objects]
    return peak_boxes.gather(1, picks[..., None].expand(-1, -1, 4)), present.gather(1, picks)


def quantize_boxes(boxes: Tensor, layout: SlotLayout) -> Tensor:
    """Return boxes [..., 4] as digits int64 [..., 4]: the centre evenly over the picture, the sides
    evenly in the logarithm.

    With 256 and 128 codes these are half pixels and 2.6 %.
    """
    places, sides = layout.field("x").codes, layout.field("width").codes
    center = (boxes[..., :2] * (places / PICTURE)).floor().clamp(0, places - 1)
    span = math.log(LARGEST / SMALLEST)
    size = (
        (torch.log(boxes[..., 2:].clamp_min(1e-3) / SMALLEST) / span * (sides - 1))
        .round()
        .clamp(0, sides - 1)
    )
    return torch.cat([center, size], -1).long()


def restore_boxes(digits: Tensor, layout: SlotLayout) -> Tensor:
    """Return the boxes float32 [..., 4] of digits [..., 4]: the inverse of `quantize_boxes`."""
    places, sides = layout.field("x").codes, layout.field("width").codes
    size = SMALLEST * torch.exp(
        digits[..., 2:].float() / (sides - 1) * math.log(LARGEST / SMALLEST)
    )
    return torch.cat([(digits[..., :2].float() + 0.5) / (places / PICTURE), size], -1)


def visual_features(visual: Visual, layout: SlotLayout) -> Tensor:
    """Return a feature vector per code of the visual codebook, float32 [codes, F], that holds what
    the code means as numbers; every field has its own block of columns."""
    blocks: dict[str, Tensor] = {}
    digits = visual.form_codes.decode(torch.arange(visual.form_codes.num_codes))
    with torch.no_grad():
        colors = torch.sigmoid(visual.color_decoder(digits)) * 2 - 1
        paths = visual.path_decoder(
            visual.path_codes.decode(torch.arange(visual.path_codes.num_codes))
        )
    for field in layout.fields:
        line = torch.arange(field.codes) / field.codes
        waves = [f(2 * math.pi * k * line) for k in (0.5, 1, 2, 4) for f in (torch.sin, torch.cos)]
        blocks[field.name] = {
            "background": digits,
            "form": digits,
            "color": torch.cat([colors, digits], 1),
            "motion": paths,
        }.get(field.name, torch.stack([2 * line - 1, *waves], 1))
    width = sum(b.shape[1] + 1 for b in blocks.values())
    features, row, column = torch.zeros(layout.num_codes, width), 0, 0
    for field in layout.fields:
        values = blocks[field.name]
        features[row : row + field.codes, column : column + values.shape[1]] = values
        features[row : row + field.span, column + values.shape[1]] = 1.0
        if field.optional:
            features[row + field.codes, column + values.shape[1]] = -1.0
        row, column = row + field.span, column + values.shape[1] + 1
    return features


def grid_of(
    layout: SlotLayout,
    form: Tensor,
    color: Tensor,
    digits: Tensor,
    present: Tensor,
    background: Tensor,
) -> Tensor:
    """Return an image's fields as codes int64 [B, K], in the layout's order; absent objects get
    every field's last code."""
    values = {
        "form": form,
        "color": color[..., None],
        **{n: digits[..., k : k + 1] for k, n in enumerate(_PLACE)},
    }
    parts, times = [], Counter[str]()
    for name in layout.order:
        field, slot = layout.field(name), times[name]
        times[name] += 1
        if field.optional:
            part = torch.where(present[:, slot, None], values[name][:, slot], field.codes)
        else:
            part = background
        parts.append(part + layout.base(name))
    return torch.cat(parts, 1)


def fields_of(layout: SlotLayout, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields that `grid_of` encoded: form [B, O, 4], colour [B, O], digits [B, O, 4],
    presence bool [B, O], background [B, 4].

    An object is present if all its codes are.
    """
    field_codes: dict[str, list[Tensor]] = {name: [] for name in layout.order}
    position = 0
    for name in layout.order:
        count = layout.field(name).count
        field_codes[name].append(codes[:, position : position + count] - layout.base(name))
        position += count
    present = torch.ones(len(codes), layout.slots, dtype=torch.bool)
    values = {}
    for name, parts in field_codes.items():
        field, stacked = layout.field(name), torch.stack(parts, 1)
        if field.optional:
            present &= ((stacked >= 0) & (stacked < field.codes)).all(-1)
        values[name] = stacked.clamp(0, field.codes - 1)
    digits = torch.cat([values[name] for name in _PLACE], -1)
    return values["form"], values["color"][..., 0], digits, present, values["background"][:, 0]
