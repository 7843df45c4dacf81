"""The visual codec of image and video: find objects, code what each is and where, and what lies
behind them.

Knows nothing of the world's solids, colours or words: any picture gets an answer, of three objects
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
"""pixels of a crop and of a sprite"""
PICTURE = 128
"""pixels of a picture's side, in which boxes are given"""
SMALLEST, LARGEST = 4.0, 110.0
"""pixels of a box's side; 128 codes between them, evenly in the logarithm"""


VIDEO_CHUNKS = 4
"""A video's 17 frames are its first frame and four chunks of four."""
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
    """Return what a new image codec's codes look like."""
    return _spec("image", _IMAGE_ORDER)


def video_spec() -> CodecSpec:
    """Return what a new video codec's codes look like: its first frame's image codes, then motion
    codes."""
    return _spec("video", _VIDEO_ORDER)


def _spec(name: str, order: tuple[str, ...]) -> CodecSpec:
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
    """Sizes of the parts."""

    finder_width: int = 24
    crop_width: int = 32
    sprite_width: int = 32
    threshold: float = 0.3
    """least peak of the heat map that counts as an object"""
    order: ObjectOrder = "left"
    """in which objects are written down"""


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.GroupNorm(4, outputs), nn.SiLU()
    )


class Finder(nn.Module):
    """Where objects are: heat map of centres and boxes at stride 4, foreground at stride 2 (Zhou et
    al. 2019)."""

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
        """[B, 3, 128, 128] → heat logits [B, 32, 32], boxes [B, 4, 32, 32] in pixels, mask logits
        [B, 1, 64, 64]."""
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
    """A crop [B, 4, 40, 40] (RGB and foreground) to a vector."""

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
        return self.layers(crops)


class SpriteDecoder(nn.Module):
    """Form [B, 12] to maps [B, 3, 40, 40]: alpha, shade, highlight."""

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
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )


class Visual(nn.Module):
    """All networks of the visual codec; `ImageCodec` and `VideoCodec` share one. B pictures, N
    objects."""

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
        """Better boxes [N, 4] from what the given ones show."""
        shift = self.refiner(crops) * 0.2
        sides = boxes[:, 2:] * torch.exp(shift[:, 2:].clamp(-1, 1))
        return torch.cat(
            [boxes[:, :2] + shift[:, :2] * boxes[:, 2:], sides.clamp(SMALLEST, LARGEST)], 1
        )

    def form(self, crops: Tensor) -> Tensor:
        """Unquantized form [N, 4, 3]."""
        return self.form_encoder(crops).view(-1, 4, 3)

    def color(self, crops: Tensor) -> Tensor:
        """Unquantized colour [N, 3] from the foreground's mean and spread."""
        weight = crops[:, 3:] ** 2
        total = weight.sum((2, 3)) + 1e-3
        mean = (crops[:, :3] * weight).sum((2, 3)) / total
        spread = (
            ((crops[:, :3] - mean[..., None, None]) ** 2 * weight).sum((2, 3)) / total + 1e-6
        ).sqrt()
        return self.color_encoder(torch.cat([mean, spread * 3], 1) * 2 - 0.6)

    def background(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Unquantized background [B, 4, 3] from what the mask [B, 1, 64, 64] leaves, at 8 × 8."""
        clear = 1 - F.max_pool2d(mask, 5, 1, 2).clamp(0, 1)
        weight = F.avg_pool2d(clear, 8)
        mean = F.avg_pool2d(F.avg_pool2d(pictures, 2) * clear, 8) / (weight + 1e-3)
        filled = torch.where(
            weight > 0.05,
            mean,
            (mean * weight).sum((2, 3), True) / (weight.sum((2, 3), True) + 1e-3),
        )
        features = torch.cat([(filled - 0.45) * 5, weight], 1)
        return self.background_encoder(features.flatten(1)).view(-1, 4, 3)

    def paint_background(self, quantized: Tensor, size: int = 128) -> Tensor:
        """[B, 4, 3] → [B, 3, size, size]."""
        low = torch.sigmoid(self.background_decoder(quantized.flatten(1))).view(-1, 3, 8, 8)
        return F.interpolate(low, (size, size), mode="bilinear", align_corners=True)

    def sprites(self, form: Tensor, color: Tensor) -> Tensor:
        """Quantized form [N, 4, 3] and colour [N, 3] → premultiplied RGBA [N, 4, 40, 40]."""
        maps = self.sprite_decoder(form.flatten(1))
        albedo = torch.sigmoid(self.color_decoder(color))[..., None, None]
        alpha = maps[:, :1]
        return torch.cat([(albedo * maps[:, 1:2] + maps[:, 2:]) * alpha, alpha], 1)


def composite(behind: Tensor, layers: Tensor) -> Tensor:
    """Premultiplied layers [B, O, 4, H, W] over a background [B, 3, H, W], the first lowest."""
    for layer in layers.unbind(
        1
    ):  # not indexing: its gradient would be a picture-sized tensor of zeros each time
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
    """Return up to O objects per picture, in order: boxes [B, O, 4] and whether each is there, bool
    [B, O]."""
    score = torch.sigmoid(heat)
    score = score * (F.max_pool2d(score[:, None], 3, 1, 1)[:, 0] == score)
    best, index = score.flatten(1).topk(2 * objects, 1)
    found = boxes.flatten(2).transpose(1, 2).gather(1, index[..., None].expand(-1, -1, 4))
    there = best > threshold
    for k in range(1, 2 * objects):  # a second peak within another's box is the same object
        gap = (found[:, k : k + 1, :2] - found[:, :k, :2]).abs()
        same = (gap < 0.35 * found[:, :k, 2:]).all(-1) & there[:, :k]
        there[:, k] &= ~same.any(1)
    there &= there.cumsum(1) <= objects
    rank = found[..., 0] if order == "left" else found[..., 0] + found[..., 1]
    chosen = torch.where(there, rank, torch.inf).argsort(1)[:, :objects]
    return found.gather(1, chosen[..., None].expand(-1, -1, 4)), there.gather(1, chosen)


def quantize_boxes(boxes: Tensor, layout: SlotLayout) -> Tensor:
    """Return boxes [..., 4] as digits int64 [..., 4]: evenly over the picture for the centre,
    evenly in the logarithm for sides.

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
    """Return digits [..., 4] as boxes, float32: the inverse of `quantize_boxes`."""
    places, sides = layout.field("x").codes, layout.field("width").codes
    size = SMALLEST * torch.exp(
        digits[..., 2:].float() / (sides - 1) * math.log(LARGEST / SMALLEST)
    )
    return torch.cat([(digits[..., :2].float() + 0.5) / (places / PICTURE), size], -1)


def visual_features(visual: Visual, layout: SlotLayout) -> Tensor:
    """A vector for every code of the visual codebook [codes, F]: what it says, in numbers; one
    block a field."""
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
    there: Tensor,
    background: Tensor,
) -> Tensor:
    """Return the fields of an image as codes int64 [B, K], in the layout's order; absent objects
    get every field's last code."""
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
            part = torch.where(there[:, slot, None], values[name][:, slot], field.codes)
        else:
            part = background
        parts.append(part + layout.base(name))
    return torch.cat(parts, 1)


def fields_of(layout: SlotLayout, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return what `grid_of` wrote: form [B, O, 4], colour [B, O], digits [B, O, 4], there [B, O],
    background [B, 4].

    An object is there if all its codes are.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in layout.order}
    at = 0
    for name in layout.order:
        count = layout.field(name).count
        found[name].append(codes[:, at : at + count] - layout.base(name))
        at += count
    there = torch.ones(len(codes), layout.slots, dtype=torch.bool)
    values = {}
    for name, parts in found.items():
        field, stacked = layout.field(name), torch.stack(parts, 1)
        if field.optional:
            there &= ((stacked >= 0) & (stacked < field.codes)).all(-1)
        values[name] = stacked.clamp(0, field.codes - 1)
    digits = torch.cat([values[name] for name in _PLACE], -1)
    return values["form"], values["color"][..., 0], digits, there, values["background"][:, 0]
