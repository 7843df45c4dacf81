"""This module is a second renderer on which nothing trains: it shows the same scenes under other
light, texture and camera, for tests only.

Two coloured lights and light from the sky instead of one lamp, no highlight, stripes or dots on
every solid, a camera that stands higher and to a side, and a speckled background of another kind.
Places on the screen are those of `image.py`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.ndimage import gaussian_filter

from onnuri.modality import IMAGE_SIZE
from onnuri.toyworld.image import compose, direction, sprites
from onnuri.toyworld.scene import Scene


def render(scene: Scene) -> np.ndarray:
    """Return the picture uint8 [128, 128, 3] of a scene under another light, texture and camera."""
    rng = np.random.default_rng([3, scene.seed])
    side = float(rng.choice([-1.0, 1.0]))
    changed_scene = dataclasses.replace(
        scene,
        elevation=float(rng.uniform(0.40, 0.50)),
        azimuth=side * float(rng.uniform(0.20, 0.32)),
        light=(side * 1.2, 0.35),
    )
    return compose(changed_scene, sprites(changed_scene, shader=_shade), 0.0, _background(rng))[0]


def _shade(
    scene: Scene, points: np.ndarray, normal: np.ndarray, albedo: tuple[float, float, float]
) -> np.ndarray:
    """Return the colours [N, 3] of points on a solid under two lights and the sky, with stripes or
    dots."""
    key, fill = direction(*scene.light), direction(-scene.light[0], 0.2)
    sky = 0.5 + 0.5 * normal[:, 2:]
    light = (
        0.42 * np.array([0.95, 1.0, 1.08]) * sky
        + 0.5 * np.array([1.08, 1.0, 0.9]) * np.maximum(normal @ key, 0)[:, None]
        + 0.22 * np.maximum(normal @ fill, 0)[:, None]
        + 0.12
    )
    if scene.seed % 2:
        texture = np.sin(9 * points[:, 2] + 4 * points[:, 0])
    else:
        texture = np.sin(8 * points[:, 0]) * np.sin(8 * points[:, 1] + 1) * np.sin(8 * points[:, 2])
    return np.array(albedo) * light * (1 + 0.13 * texture[:, None])


def _background(rng: np.random.Generator) -> np.ndarray:
    """Return a background float32 [128, 128, 3] in [0, 1]: a tinted grey with soft speckles."""
    speckles = gaussian_filter(rng.normal(size=(IMAGE_SIZE, IMAGE_SIZE)), 2.5)
    tint = rng.uniform(0.40, 0.52, 3) + 0.0
    return (tint + 0.035 * (speckles / speckles.std())[..., None]).astype(np.float32).clip(0, 1)
