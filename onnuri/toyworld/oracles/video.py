"""This module is the oracle of videos: it describes the first frame as a picture, and compares
every blob's path with the world's motions."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from onnuri.modality import IMAGE_SIZE, VIDEO_FPS, VIDEO_FRAMES
from onnuri.toyworld.oracles.image import Blob, blobs, describe
from onnuri.toyworld.scene import MOTIONS, Description, motion_path

STRIDE = 2
"""the oracle looks at one frame in so many"""


def observe(frames: np.ndarray) -> Description:
    """Return the objects of a video uint8 [17, 128, 128, 3], with their motions."""
    blobs_of_frames = [blobs(frame) for frame in frames[::STRIDE]]
    first = describe(blobs_of_frames[0])
    things = tuple(
        dataclasses.replace(t, motion=motion_of(path(blobs_of_frames, k)))
        for k, t in enumerate(first.things)
    )
    return dataclasses.replace(first, things=things)


def path(blobs_of_frames: list[list[Blob]], index: int) -> np.ndarray:
    """Return one blob's path float [F, 3] from the first frame on: offset right and up in world
    units, and scale."""
    blob = start = blobs_of_frames[0][index]
    points = []
    for frame_blobs in blobs_of_frames:
        nearby = [b for b in frame_blobs if np.hypot(b.x - blob.x, b.y - blob.y) < 26]
        if nearby:
            blob = min(
                nearby,
                key=lambda b: np.hypot(b.x - blob.x, b.y - blob.y) + 0.02 * abs(b.area - blob.area),
            )
        half = IMAGE_SIZE / 2
        points.append(
            ((blob.x - start.x) / half, (start.y - blob.y) / half, np.sqrt(blob.area / start.area))
        )
    return np.array(points)


@functools.cache
def _templates() -> np.ndarray:
    """Return the paths of all motions, float [M, F, 3]."""
    times = np.arange(0, VIDEO_FRAMES, STRIDE) / VIDEO_FPS
    return np.array([[motion_path(m, t) for t in times] for m in MOTIONS])


def motion_of(track: np.ndarray) -> str:
    """Return the motion whose path is nearest to a track [F, 3]; a change of scale by 0.1 weighs as
    much as a move by 0.1."""
    error = ((_templates() - track[None]) ** 2).sum((1, 2))
    return MOTIONS[int(np.argmin(error))]
