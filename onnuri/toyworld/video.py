"""This module renders a scene as a video: the sprites of its picture, placed anew in every frame,
which costs little more than a picture.

It knows nothing of codecs. A video has 17 frames at 8 per second; frame 0 is the picture.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnuri.modality import IMAGE_SIZE, VIDEO_FPS, VIDEO_FRAMES
from onnuri.toyworld.image import background, compose, sprites
from onnuri.toyworld.scene import Scene


@dataclasses.dataclass(frozen=True)
class RenderedVideo:
    """A RenderedVideo holds the frames of a scene and which object each pixel shows."""

    frames: np.ndarray
    """uint8 [F, H, W, 3]"""
    masks: np.ndarray
    """uint8 [F, H, W]: 0 background, i + 1 where things[i] is"""


def render(scene: Scene, size: int = IMAGE_SIZE, every: int = 1) -> RenderedVideo:
    """Return all frames of a scene. With `every` n, only each n-th frame is drawn and then
    repeated, for a codec that looks at no others."""
    layers, behind = sprites(scene, size), background(scene, size)
    rendered_frames = [
        compose(scene, layers, k / VIDEO_FPS, behind) for k in range(0, VIDEO_FRAMES, every)
    ]
    frames = [rendered_frames[k // every] for k in range(VIDEO_FRAMES)]
    return RenderedVideo(np.stack([m[0] for m in frames]), np.stack([m[1] for m in frames]))
