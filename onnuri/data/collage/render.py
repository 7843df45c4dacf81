"""This module draws a collage: cut-out pictures in their sizes and colours at their places, on
white or on a pale ground. It knows no sentence and no store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from onnuri.data.augment import LUMA
from onnuri.data.collage.scene import CollageScene, Place, Size, Tint

LONE: dict[Size | None, float] = {"small": 0.34, None: 0.58, "large": 0.9}
"""side of a lone thing's box, as a share of the picture's, by its size"""
PLACED: dict[Size | None, float] = {"small": 0.3, None: 0.42, "large": 0.56}
"""the same of one that is at an edge"""
HALF, THIRD = 0.45, 0.28
"""side of the boxes of two and of three in a row"""
JITTER = 0.02
"""largest shift and relative change of size, either way"""
COLORS: dict[Tint, tuple[float, float, float]] = {
    "red": (1.0, 0.25, 0.2),
    "green": (0.25, 0.85, 0.3),
    "blue": (0.3, 0.45, 1.0),
    "gray": (0.72, 0.72, 0.72),
}
"""red, green and blue of each tint"""
TINTED = 0.85
"""share of the tint in a thing's colours"""
WHITE = 0.6
"""share of collages on white"""
DIRECTIONS: dict[Place, tuple[float, float]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
}
"""to the right and downward, from the middle"""


class Box(NamedTuple):
    """A Box is a square in a picture of side 1."""

    thing: int
    """index among the scene's things"""
    x: float
    y: float
    """of its middle"""
    side: float


def boxes(scene: CollageScene, rng: np.random.Generator | None = None) -> list[Box]:
    """Return where a scene's things stand; with `rng`, shifted and sized a little at random."""
    placed = [Box(k, *at) for k, at in _places(scene, rng)]
    if rng is None:
        return placed
    return [
        Box(
            box.thing,
            box.x + rng.uniform(-JITTER, JITTER),
            box.y + rng.uniform(-JITTER, JITTER),
            box.side * (1 + rng.uniform(-2 * JITTER, 0)),
        )
        for box in placed
    ]


def _places(
    scene: CollageScene, rng: np.random.Generator | None
) -> list[tuple[int, tuple[float, float, float]]]:
    """Return (index of the thing, (x, y, side)) of each box of a scene."""
    if scene.kind == "one":
        size = scene.things[0].size
        if scene.place is None:
            return [(0, (0.5, 0.5, LONE[size]))]
        side, (dx, dy) = PLACED[size], DIRECTIONS[scene.place]
        away = (1 - side) / 2
        return [(0, (0.5 + dx * away, 0.5 + dy * away, side))]
    quarter = [(x, y, HALF) for y in (0.25, 0.75) for x in (0.25, 0.75)]
    if scene.kind == "two":
        if scene.place == "left":
            return [(0, (0.25, 0.5, HALF)), (1, (0.75, 0.5, HALF))]
        return [(0, (0.5, 0.25, HALF)), (1, (0.5, 0.75, HALF))]
    if scene.kind == "many":
        return list(enumerate(quarter[: len(scene.things)]))
    if scene.number == 4:
        return [(0, at) for at in quarter]
    side = {2: HALF, 3: THIRD}[scene.number]
    middles = [(k + 0.5) / scene.number for k in range(scene.number)]
    upright = rng is not None and rng.random() < 0.3
    return [(0, (0.5, m, side) if upright else (m, 0.5, side)) for m in middles]


def render(
    scene: CollageScene, pictures: Sequence[np.ndarray], side: int, rng: np.random.Generator
) -> np.ndarray:
    """Return a collage uint8 [side, side, 3] of a scene; `pictures` uint8 [4, S, S], red, green,
    blue and alpha, are of its things."""
    ground = np.full(3, 255.0)
    if rng.random() >= WHITE:
        ground = rng.uniform(170, 255, 3)
    canvas = Image.new("RGBA", (side, side), (*(int(v) for v in ground), 255))
    for box in boxes(scene, rng):
        cut = trimmed(tinted(pictures[box.thing], scene.things[box.thing].tint))
        scale = box.side * side / max(cut.size)
        size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
        cut = cut.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
        left = round(box.x * side - cut.width / 2)
        top = round(box.y * side - cut.height / 2)
        layer = Image.new("RGBA", canvas.size)
        layer.paste(cut, (left, top))
        canvas = Image.alpha_composite(canvas, layer)
    return np.asarray(canvas.convert("RGB"))


def tinted(picture: np.ndarray, tint: Tint | None) -> np.ndarray:
    """Return a picture uint8 [4, S, S] in shades of a tint; as it is without one."""
    if tint is None:
        return picture
    colors = picture[:3].astype(np.float32)
    light = np.tensordot(np.array(LUMA, np.float32), colors, 1)
    shades = (0.25 * 255 + 0.75 * light) * np.array(COLORS[tint], np.float32)[:, None, None]
    mixed = TINTED * shades + (1 - TINTED) * colors
    return np.concatenate([mixed.clip(0, 255).astype(np.uint8), picture[3:]])


def trimmed(picture: np.ndarray) -> Image.Image:
    """Return the part of a picture uint8 [4, S, S] that is not transparent."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    return image.crop(image.getchannel("A").getbbox() or (0, 0, *image.size))
