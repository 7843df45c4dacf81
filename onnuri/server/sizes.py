"""Pictures and videos at the sizes that clients ask for: drawn at the model's own size, then
scaled, as the answer says.

The model draws squares; in a size that is no square, the picture's edges are extended to fill the
rest. Knows no route and no model.
"""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from onnuri.modality import IMAGE_SIZE, VIDEO_FPS, VIDEO_FRAMES
from onnuri.server.errors import invalid

SIZE = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
SECONDS = VIDEO_FRAMES // VIDEO_FPS
LEAST, MOST = 16, 2048
"""pixels a side"""
LONGEST = 20
"""seconds of a video that is shown slower"""


def size_of(size: str | None, name: str, even: bool = False) -> tuple[int, int]:
    """Return the width and height in pixels that a field asks for, the model's own where it is
    empty. With `even`, odd sides are refused. Raises APIError, which calls the field `name`."""
    if size in (None, "", "auto"):
        return IMAGE_SIZE, IMAGE_SIZE
    sides = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", str(size))
    if not sides or not all(
        LEAST <= int(side) <= MOST and not (even and int(side) % 2) for side in sides.groups()
    ):
        rule = f"is not WIDTHxHEIGHT of {LEAST} to {MOST} {'even ' if even else ''}pixels"
        raise invalid(
            f"{name} {str(size)!r:.40}",
            f"{rule}; give one such as 512x512, or 'auto' ({SIZE}, as it is drawn)",
            field=name,
        )
    return int(sides[1]), int(sides[2])


def seconds_of(seconds: str | float | None, name: str) -> float:
    """Return the length of a video in seconds that a field asks for, the model's own where it is
    empty. Raises APIError, which calls the field `name`."""
    try:
        is_empty = seconds in (None, "", "auto")
        wish = SECONDS if is_empty else float(seconds)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        wish = 0
    if not 1 <= wish <= LONGEST:
        raise invalid(
            f"{name} {str(seconds)!r:.40}",
            f"is not 1 to {LONGEST}; give one of these, or nothing ({SECONDS}, as it is made)",
            field=name,
        )
    return wish


def fit_into(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a picture uint8 [H, W, 3] scaled to fit into `size` (width, height), centred, its
    edges extended to fill the rest."""
    width, height = size
    if picture.shape[:2] == (height, width):
        return picture
    scale = min(width / picture.shape[1], height / picture.shape[0])
    inner = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    scaled = np.asarray(Image.fromarray(picture).resize(inner, Image.Resampling.BICUBIC))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    return np.pad(
        scaled,
        ((top, height - inner[1] - top), (left, width - inner[0] - left), (0, 0)),
        mode="edge",
    )
