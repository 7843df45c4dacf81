"""This module implements the image codec, which turns any picture into 31 codes and back to 128 ×
128. The networks are those of `visual.py`, shared with video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from onnuri import config
from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec, SlotLayout
from onnuri.modality import IMAGE_SIZE, Modality
from onnuri.toyworld.codecs.objects import OBJECTS
from onnuri.toyworld.codecs.sprites import crop, place
from onnuri.toyworld.codecs.visual import (
    CROP,
    Visual,
    VisualConfig,
    composite,
    fields_of,
    grid_of,
    image_spec,
    peaks,
    quantize_boxes,
    restore_boxes,
    visual_features,
)

AT_ONCE = 64
"""number of pictures that go through the networks together"""


def to_tensor(pictures: list[np.ndarray]) -> Tensor:
    """Return pictures uint8 [H, W, 3] of any size as one float32 [B, 3, 128, 128] in [0, 1]."""
    resized = [
        p
        if p.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE)
        else np.asarray(Image.fromarray(p).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))
        for p in pictures
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255


def to_array(pictures: Tensor) -> np.ndarray:
    """Return pictures float32 [B, 3, H, W] in [0, 1] as uint8 [B, H, W, 3]."""
    return (
        (pictures.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )


def locate(
    visual: Visual, pictures: Tensor, objects: int = OBJECTS
) -> tuple[Tensor, Tensor, Tensor]:
    """Return up to O objects of pictures [B, 3, 128, 128]: boxes [B, O, 4], whether each is
    present, bool [B, O], and the foreground [B, 1, 64, 64]."""
    heat, boxes, mask = visual.finder(pictures)
    rough_boxes, present = peaks(
        heat, boxes, visual.settings.threshold, visual.settings.order, objects
    )
    foreground = torch.sigmoid(mask)
    flat_boxes = rough_boxes.reshape(-1, 4)
    flat_boxes = visual.refine(cut(pictures, foreground, flat_boxes), flat_boxes)
    return flat_boxes.view(-1, objects, 4), present, foreground


def cut(pictures: Tensor, foreground: Tensor, boxes: Tensor) -> Tensor:
    """Return the crops [B × O, 4, 40, 40] (RGB and foreground) of boxes [B × O, 4], equally many
    per picture."""
    picture_boxes = boxes.view(len(pictures), -1, 4)
    return torch.cat(
        [crop(pictures, picture_boxes, CROP), crop(foreground, picture_boxes, CROP)], 2
    ).flatten(0, 1)


def encode_pictures(visual: Visual, layout: SlotLayout, pictures: Tensor) -> Tensor:
    """Return the codes int64 [B, K] of pictures [B, 3, 128, 128], in an image's layout."""
    boxes, present, foreground = locate(visual, pictures, layout.slots)
    digits = quantize_boxes(boxes, layout)
    crops = cut(pictures, foreground, restore_boxes(digits, layout).view(-1, 4))
    form = visual.form_codes.encode(visual.form(crops)).view(-1, layout.slots, 4)
    color = visual.form_codes.encode(visual.color(crops)).view(-1, layout.slots)
    background = visual.form_codes.encode(visual.background(pictures, foreground))
    return grid_of(layout, form, color, digits, present, background)


def paint(
    visual: Visual, layout: SlotLayout, codes: Tensor, boxes: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield pictures float32 [B, 3, 128, 128] of codes [B, K]: one for every set of boxes of [F, B,
    O, 4], or a single one with the boxes of the codes."""
    form, color, digits, present, background = fields_of(layout, codes)
    behind = visual.paint_background(visual.form_codes.decode(background))
    sprites = visual.sprites(
        visual.form_codes.decode(form).flatten(0, 1), visual.form_codes.decode(color).flatten(0, 1)
    )
    sprites = sprites * present.flatten().view(-1, 1, 1, 1)
    for frame_boxes in boxes if boxes is not None else restore_boxes(digits, layout)[None]:
        layers = place(sprites, frame_boxes.reshape(-1, 4))
        yield composite(behind, layers.view(-1, layout.slots, 4, IMAGE_SIZE, IMAGE_SIZE))


class ImageCodec(Codec):
    """An ImageCodec encodes pictures uint8 [H, W, 3] as 31 codes each, and decodes to 128 × 128."""

    modality: ClassVar[Modality] = "image"

    class Config(config.Config):
        """A Config holds the settings of the networks."""

        visual: VisualConfig = VisualConfig()

    def __init__(
        self, settings: Any = None, visual: Visual | None = None, spec: CodecSpec | None = None
    ) -> None:
        super().__init__(settings or self.Config(), spec or self.new_spec())
        self.visual = visual or Visual(self.config.visual)

    @staticmethod
    def new_spec() -> CodecSpec:
        """Return the spec of a new codec."""
        return image_spec()

    @property
    def still(self) -> SlotLayout:
        """Return the layout of a picture's codes."""
        assert self.spec.slots
        return self.spec.slots

    @torch.inference_mode()
    def encode_batch(self, items: list[np.ndarray]) -> list[np.ndarray]:
        """Return the codes int64 [31] of every picture."""
        codes = [
            encode_pictures(self.visual, self.still, to_tensor(items[k : k + AT_ONCE]))
            for k in range(0, len(items), AT_ONCE)
        ]
        return list(torch.cat(codes).numpy())

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return the picture uint8 [128, 128, 3] of every sequence of codes."""
        stacked = torch.from_numpy(np.stack(codes)).long()
        return [
            p
            for k in range(0, len(codes), AT_ONCE)
            for p in to_array(next(paint(self.visual, self.still, stacked[k : k + AT_ONCE])))
        ]

    @property
    def partial_counts(self) -> tuple[int, ...]:
        """Return the positions at which an object begins: a picture can be shown before each of
        them."""
        return tuple(sorted({gate for gate in self.still.slot_gates if gate is not None}))

    def partial(self, codes: np.ndarray) -> np.ndarray:
        """Return the picture of an item of which only these first codes are known; the other
        objects are absent."""
        absent = [hi - 1 for _, hi in self.still.position_ranges[len(codes) :]]
        picture: np.ndarray = self.decode(np.concatenate([codes, np.array(absent, np.int64)]))
        return picture

    def code_features(self) -> Tensor:
        """Return a feature vector per code, float32 [codes, F], as `visual_features` describes
        it."""
        return visual_features(self.visual, self.still)
