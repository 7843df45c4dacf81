"""This module implements the video codec, which turns 17 frames into 43 codes and back, causally:
the first frame's image codes, then motion chunk by chunk.

The networks are those of `visual.py`, shared with the image codec: an image is a one-frame video.
Every chunk of four frames has one code per object: its box's path from where the last chunk left
it. Frames stream as chunks arrive, equal to the whole. Changes of an object other than place and
size are not coded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec, SlotLayout
from onnuri.modality import VIDEO_FRAMES, Modality
from onnuri.toyworld.codecs.image import (
    ImageCodec,
    encode_pictures,
    locate,
    paint,
    to_array,
    to_tensor,
)
from onnuri.toyworld.codecs.visual import LARGEST, SMALLEST, fields_of, restore_boxes, video_spec

CHUNK = 4
"""number of frames per chunk"""
STRIDE = 2
"""objects are located in one frame of so many"""
REACH = 36
"""pixels that an object may move between two such frames"""
_UNITS = torch.tensor([16.0, 16.0, 0.5, 0.5])
"""units of a path's four numbers per frame: pixels for x and y, natural logarithm for the sides"""


def path_of(boxes: Tensor, start: Tensor) -> Tensor:
    """Return boxes [..., 4 frames, 4] as a path [..., 16] relative to a starting box [..., 4]."""
    offsets = torch.cat(
        [boxes[..., :2] - start[..., None, :2], torch.log(boxes[..., 2:] / start[..., None, 2:])],
        -1,
    )
    return (offsets / _UNITS).flatten(-2)


def boxes_of(path: Tensor, start: Tensor) -> Tensor:
    """Return the boxes [..., 4 frames, 4] of a path [..., 16] from a starting box [..., 4]: the
    inverse of `path_of`."""
    offsets = path.unflatten(-1, (CHUNK, 4)) * _UNITS
    sides = start[..., None, 2:] * torch.exp(offsets[..., 2:].clamp(-1.5, 1.5))
    return torch.cat([start[..., None, :2] + offsets[..., :2], sides.clamp(SMALLEST, LARGEST)], -1)


def follow(boxes: Tensor, present: Tensor, count: int) -> Tensor:
    """Return the boxes [F, count, 4] of the first frame's `count` objects in every frame, from
    detections [F, 3, 4] and their presence [F, 3].

    Detections are matched by least distance; an object that is not detected stays where it was.
    """
    track = [boxes[0, :count]]
    for frame in range(1, len(boxes)):
        current, detections = track[-1].clone(), boxes[frame][present[frame]]
        if count and len(detections):
            distance = torch.cdist(current[:, :2], detections[:, :2]).numpy()
            for a, b in zip(*linear_sum_assignment(distance)):
                if distance[a, b] < REACH:
                    current[a] = detections[b]
        track.append(current)
    return torch.stack(track)


def between(track: Tensor) -> Tensor:
    """Return the boxes of every frame [17, count, 4] from those of every second frame [9, count,
    4], by cubic interpolation (Catmull–Rom).

    A cubic overshoots where a size jumps; a side stays at least one pixel, since its logarithm must
    be finite.
    """
    ends = torch.cat([2 * track[:1] - track[1:2], track, 2 * track[-1:] - track[-2:-1]])
    middle = (9 * (ends[1:-2] + ends[2:-1]) - ends[:-3] - ends[3:]) / 16
    middle = torch.cat([middle[..., :2], middle[..., 2:].clamp_min(1.0)], -1)
    return torch.cat([torch.stack([track[:-1], middle], 1).flatten(0, 1), track[-1:]])


class VideoCodec(ImageCodec):
    """A VideoCodec encodes videos uint8 [F, H, W, 3] as 43 codes for 17 frames: longer videos are
    cut, shorter ones repeat their last frame."""

    modality: ClassVar[Modality] = "video"

    @staticmethod
    def new_spec() -> CodecSpec:
        """Return the spec of a new codec."""
        return video_spec()

    @property
    def still(self) -> SlotLayout:
        """Return the layout of the first frame's codes: all before the motion."""
        layout = super().still
        return layout.replace(order=layout.order[: layout.order.index("motion")])

    @property
    def chunks(self) -> int:
        """Return the number of chunks that follow the first frame."""
        layout = super().still
        return layout.order.count("motion") // layout.slots

    def save(self, folder: Path) -> None:
        """Write the spec to the image codec's folder, whose networks are shared, and the networks
        too if the folder has none."""
        if not (folder / "model.safetensors").exists():
            super().save(folder)
        self.spec.save_beside(folder)

    @classmethod
    def load(
        cls, folder: Path, spec: CodecSpec | None = None, beside: Sequence[Codec] = ()
    ) -> Self:
        """Return the codec of a folder, with the networks of an image codec that was loaded from it
        (in `beside`), or its own."""
        image = next((codec for codec in beside if isinstance(codec, ImageCodec)), None)
        if image is None:
            return super().load(folder, spec)
        return cls(
            image.config, image.visual, spec or CodecSpec.read_beside(folder, cls.modality)
        ).eval()

    @torch.inference_mode()
    def encode_batch(self, items: list[np.ndarray]) -> list[np.ndarray]:
        """Return the codes int64 [43] of every video."""
        return [self._encode(frames).numpy() for frames in items]

    def _encode(self, frames: np.ndarray) -> Tensor:
        """Return the codes int64 [43] of one video's frames uint8 [F, H, W, 3]."""
        order = np.minimum(np.arange(0, VIDEO_FRAMES, STRIDE), len(frames) - 1)
        unique, frame_index = np.unique(order, return_inverse=True)
        pictures = to_tensor(list(frames[unique]))
        layout = self.still
        still = encode_pictures(self.visual, layout, pictures[:1])
        boxes, detected, _ = locate(self.visual, pictures, layout.slots)
        _, _, digits, present, _ = fields_of(layout, still)
        count = int(present.sum())
        track = between(follow(boxes, detected, count)[frame_index])
        start, codes = restore_boxes(digits[0, :count], layout), []
        field = layout.field("motion")
        for chunk in range(self.chunks):
            path = path_of(
                track[1 + CHUNK * chunk : 1 + CHUNK * (chunk + 1)].transpose(0, 1), start
            )
            motion = self.visual.path_codes.encode(self.visual.path_encoder(path))
            # from the decoded boxes, so that errors do not add up
            start = self._decode_chunk(motion, start)[..., -1, :]
            codes.append(torch.cat([motion, motion.new_full((layout.slots - count,), field.codes)]))
        return torch.cat([still[0], torch.cat(codes) + layout.base("motion")])

    def _decode_chunk(self, motion: Tensor, start: Tensor) -> Tensor:
        """Return the boxes [..., 4 frames, 4] of motion digits [...] from starting boxes [...,
        4]."""
        return boxes_of(self.visual.path_decoder(self.visual.path_codes.decode(motion)), start)

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return the video uint8 [17, 128, 128, 3] of every sequence of codes."""
        videos = [
            np.concatenate(parts, 1)
            for k in range(0, len(codes), 16)
            if (parts := list(self._stream(torch.from_numpy(np.stack(codes[k : k + 16])).long())))
        ]
        return [video for batch in videos for video in batch]

    @torch.inference_mode()
    def decode_stream(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the frames uint8 [1 or 4, H, W, 3] of one video's codes [43]: the first frame, then
        chunk by chunk."""
        for part in self._stream(torch.from_numpy(np.asarray(codes)).long()[None]):
            yield part[0]

    def _stream(self, codes: Tensor) -> Iterator[np.ndarray]:
        """Yield the frames uint8 [B, 1 or 4, H, W, 3] of codes [B, 43], chunk by chunk."""
        layout, paths = self.still, self.still.field("motion").codes
        first = layout.item_codes
        still, motion = codes[:, :first], codes[:, first:].unflatten(1, (self.chunks, layout.slots))
        last_boxes = restore_boxes(fields_of(layout, still)[2], layout)
        yield to_array(next(paint(self.visual, layout, still)))[:, None]
        for chunk in range(self.chunks):
            digits = motion[:, chunk] - layout.base("motion")
            path_boxes = self._decode_chunk(digits.clamp(0, paths - 1), last_boxes)
            present = ((digits >= 0) & (digits < paths))[..., None, None]
            boxes = torch.where(present, path_boxes, last_boxes[..., None, :].expand_as(path_boxes))
            last_boxes = boxes[..., -1, :]
            yield np.stack(
                [to_array(p) for p in paint(self.visual, layout, still, boxes.permute(2, 0, 1, 3))],
                1,
            )
