"""This module measures how well a picture codec gives real pictures back.

It knows no language model and trains nothing. PSNR is of 8-bit pixels on white, averaged over
pictures; "inside" is of the pixels that the picture itself covers. Beside each figure stands what a
thumbnail of 8 × 8 pixels, enlarged again, would give: less than that, and the codes are worth
nothing.
"""

from __future__ import annotations

import importlib.util
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from onnuri.codecs.base import Codec
from onnuri.codecs.grid import square
from onnuri.config import Config
from onnuri.data.picture_store import PictureStore, within_square

PHOTOGRAPHS = {
    "skimage": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "moon.png",
        "motorcycle_left.png",
        "rocket.jpg",
    ),
    "sklearn": ("china.jpg", "flower.jpg"),
}
"""photographs within two packages, which are never trained on"""
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
"""where each package has them"""
THUMBNAIL = 8
"""pixels per side of the thumbnail beside which a codec stands"""
AT_ONCE = 64
"""pictures that are held at once"""


class GivenPicture(NamedTuple):
    """A GivenPicture is a picture as a codec is given it."""

    group: str
    pixels: np.ndarray
    """uint8 [S, S, 3]"""
    cover: np.ndarray
    """bool [S, S]: pixels that are the picture's, not its ground"""


class PictureFigures(Config):
    """A PictureFigures holds what was measured of one group of pictures."""

    n: int
    psnr: float
    """mean in dB"""
    psnr_low: float
    psnr_high: float
    """bounds of the mean's 95 % interval"""
    psnr_inside: float
    """of the pixels that the picture covers, in dB"""
    thumbnail: float
    """PSNR in dB of a thumbnail of 8 × 8 pixels enlarged by bicubic interpolation"""


class CodecFigures(Config):
    """A CodecFigures holds what was measured of a codec: figures per group, and of all."""

    codes_in_use: int
    codes: int
    groups: dict[str, PictureFigures]


def psnr(output: np.ndarray, truth: np.ndarray, where: np.ndarray | None = None) -> float:
    """Return the PSNR in dB between uint8 arrays [..., H, W, 3], over all pixels or those of a mask
    [..., H, W]."""
    error = (output.astype(np.float64) - truth) ** 2
    mean = error.mean() if where is None else error[where].mean()
    return float(10 * np.log10(255**2 / max(mean, 1e-6)))


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Return a picture uint8 [S, S, 3] as its thumbnail gives it back."""
    image = Image.fromarray(pixels)
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC))


def of_store(store: PictureStore, numbers: Iterable[int], side: int) -> Iterator[GivenPicture]:
    """Yield pictures of a store by their numbers, on white, a group per style."""
    for number in numbers:
        image = Image.fromarray(store.pixels[number].transpose(1, 2, 0)).convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        pixels = np.asarray(Image.alpha_composite(ground, image).convert("RGB"))
        alpha = np.asarray(image.getchannel("A").resize((side, side), Image.Resampling.BOX))
        yield GivenPicture(store.items[number].style, square(pixels, side), alpha > 127)


def photographs(side: int) -> Iterator[GivenPicture]:
    """Yield the middle of each photograph of scikit-image and, where it is installed, of
    scikit-learn."""
    for package, names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        folder = Path(spec.origin).parent / FOLDERS[package]
        for name in names:
            with Image.open(folder / name) as image:
                pixels = np.asarray(image.convert("RGB"))
            middle = within_square(pixels, side)[..., :3]
            yield GivenPicture("photographs", middle, np.ones((side, side), bool))


def measure(codec: Codec, pictures: Iterable[GivenPicture]) -> CodecFigures:
    """Return how well a codec gives pictures of its own side back."""
    rows: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    in_use: set[int] = set()
    batch: list[GivenPicture] = []
    for picture in (*pictures, None):
        if picture is not None:
            batch.append(picture)
        if not batch or (picture is not None and len(batch) < AT_ONCE):
            continue
        codes = codec.encode_batch([each.pixels for each in batch])
        in_use.update(int(code) for sequence in codes for code in sequence)
        for each, output in zip(batch, codec.decode_batch(codes), strict=True):
            inside = psnr(output, each.pixels, each.cover) if each.cover.any() else float("nan")
            row = (psnr(output, each.pixels), inside, psnr(thumbnail(each.pixels), each.pixels))
            rows[each.group].append(row)
            rows["all"].append(row)
        batch = []
    groups = {name: _figures(np.array(values)) for name, values in sorted(rows.items())}
    return CodecFigures(codes_in_use=len(in_use), codes=codec.num_codes, groups=groups)


def _figures(rows: np.ndarray) -> PictureFigures:
    """Return the figures of rows [n, 3] of PSNR, PSNR inside, and that of the thumbnail."""
    mean, inside, small = np.nanmean(rows, 0)
    spread = 1.96 * rows[:, 0].std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else float("inf")
    return PictureFigures(
        n=len(rows),
        psnr=round(float(mean), 3),
        psnr_low=round(float(mean - spread), 3),
        psnr_high=round(float(mean + spread), 3),
        psnr_inside=round(float(inside), 3),
        thumbnail=round(float(small), 3),
    )
