"""The oracle of videos: the first frame as a picture, and every blob's path against the world's
motions."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from onnuri.modality import IMAGE_SIZE, VIDEO_FPS, VIDEO_FRAMES
from onnuri.toyworld.oracles.image import Blob, blobs, describe
from onnuri.toyworld.scene import MOTIONS, Description, motion_path

STRIDE = 2
"""every second frame is looked at"""


def observe(frames: np.ndarray) -> Description:
    """Objects of a video uint8 [17, 128, 128, 3], with their motions."""
    looked = [blobs(frame) for frame in frames[::STRIDE]]
    first = describe(looked[0])
    moved = tuple(
        dataclasses.replace(t, motion=motion_of(path(looked, k)))
        for k, t in enumerate(first.things)
    )
    return dataclasses.replace(first, things=moved)


def path(looked: list[list[Blob]], index: int) -> np.ndarray:
    """One blob's path float [F, 3]: world offset right and up, and scale, from the first frame
    on."""
    blob = start = looked[0][index]
    made = []
    for found in looked:
        near = [b for b in found if np.hypot(b.x - blob.x, b.y - blob.y) < 26]
        if near:
            blob = min(
                near,
                key=lambda b: np.hypot(b.x - blob.x, b.y - blob.y) + 0.02 * abs(b.area - blob.area),
            )
        half = IMAGE_SIZE / 2
        made.append(
            ((blob.x - start.x) / half, (start.y - blob.y) / half, np.sqrt(blob.area / start.area))
        )
    return np.array(made)


@functools.cache
def _templates() -> np.ndarray:
    """Paths of all motions [M, F, 3]."""
    times = np.arange(0, VIDEO_FRAMES, STRIDE) / VIDEO_FPS
    return np.array([[motion_path(m, t) for t in times] for m in MOTIONS])


def motion_of(track: np.ndarray) -> str:
    """The motion whose path is nearest; a change of scale by a tenth weighs as much as a move by
    0.1."""
    error = ((_templates() - track[None]) ** 2).sum((1, 2))
    return MOTIONS[int(np.argmin(error))]
