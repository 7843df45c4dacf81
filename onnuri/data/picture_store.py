"""This module holds pictures with their names as training reads them: one array of pixels, which is
mapped and not read, and one line per picture.

    FOLDER/pixels.npy    uint8 [N, 4, S, S], red, green, blue and alpha of each picture
    FOLDER/items.jsonl   what each picture is (`PictureItem`)

It knows no codec and no model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from onnuri import files
from onnuri.config import Config
from onnuri.data.augment import AugmentConfig, Draw, draw
from onnuri.errors import ConfigError

PIXELS, ITEMS = "pixels.npy", "items.jsonl"


class PictureItem(Config):
    """A PictureItem says what a picture is."""

    concept: str
    """what it shows, by a name that all its pictures share"""
    style: str = ""
    """how it is drawn; pictures of one concept and style are of one pair"""
    kind: str = ""
    """what sort of thing it is, by which figures are counted apart"""
    names: tuple[str, ...] = ()
    """its names and tags in any language; the first of each language is the name"""
    split: str = "train"
    may_mirror: bool = False
    """whether its mirror image shows the same: letters, flags and clocks do not"""
    is_whole: bool = False
    """whether it has a ground of its own, no pixel of which is transparent; `write` sees to it"""


class PictureStore:
    """A PictureStore gives pictures and what they are by number."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `write` made. Raises ConfigError if it holds no pictures, or others
        than its lines say."""
        try:
            self.pixels = np.load(folder / PIXELS, mmap_mode="r")
            lines = (folder / ITEMS).read_text(encoding="utf-8").splitlines()
            self.items = [PictureItem.from_json(json.loads(line)) for line in lines]
        except (OSError, ValueError) as error:
            raise ConfigError(
                str(folder), f"holds no pictures to train on ({error})", "write it anew"
            ) from None
        if self.pixels.ndim != 4 or self.pixels.shape[:2] != (len(self.items), 4):
            raise ConfigError(
                str(folder),
                f"has pixels {self.pixels.shape} and {len(self.items)} lines",
                "write it anew",
            )

    def __len__(self) -> int:
        return len(self.items)

    @property
    def styles(self) -> set[str]:
        """Return the styles of the pictures that are trained on."""
        return {item.style for item in self.items if item.split == "train"}

    def vary(
        self, numbers: Sequence[int], settings: AugmentConfig, rng: np.random.Generator
    ) -> tuple[Tensor, Draw]:
        """Return pictures uint8 [n, 4, S, S] by their numbers, and how they are drawn to vary."""
        items = [self.items[number] for number in numbers]
        drawn = draw(
            rng,
            settings,
            may_mirror=np.array([item.may_mirror for item in items]),
            is_whole=np.array([item.is_whole for item in items]),
        )
        return torch.from_numpy(np.stack([self.pixels[number] for number in numbers])), drawn

    def of_split(self, split: str) -> np.ndarray:
        """Return the numbers int64 [n] of the pictures of a split."""
        numbers = [number for number, item in enumerate(self.items) if item.split == split]
        return np.array(numbers, np.int64)


def write(
    folder: Path, pictures: Iterable[tuple[PictureItem, np.ndarray]], count: int, side: int
) -> None:
    """Write `count` pictures uint8 [H, W, 3 or 4] of any size, each within a square of `side`
    pixels around which it is transparent. Raises ConfigError if there are fewer."""
    with files.whole_folder(folder) as part:
        shape = (count, 4, side, side)
        pixels = np.lib.format.open_memmap(part / PIXELS, "w+", np.uint8, shape)
        lines = []
        for number, (item, picture) in enumerate(_checked(pictures, count, folder)):
            square = within_square(picture, side)
            pixels[number] = square.transpose(2, 0, 1)
            item = item.replace(is_whole=bool(square[..., 3].min() == 255))
            lines.append(json.dumps(item.to_json(), ensure_ascii=False) + "\n")
        pixels.flush()
        (part / ITEMS).write_text("".join(lines), encoding="utf-8")


def _checked(
    pictures: Iterable[tuple[PictureItem, np.ndarray]], count: int, folder: Path
) -> Iterator[tuple[PictureItem, np.ndarray]]:
    """Yield pictures. Raises ConfigError if they are not as many as was said."""
    number = 0
    for pair in pictures:
        if number == count:
            raise ConfigError(str(folder), f"gets more than {count} pictures", "count them anew")
        yield pair
        number += 1
    if number < count:
        raise ConfigError(
            str(folder), f"gets {number} of {count} pictures", "see what was left out"
        )


def within_square(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture uint8 [H, W, 3 or 4] within a square uint8 [side, side, 4], its longer side
    whole, centred on transparent ground. An opaque picture's shorter side fills the square
    instead, and its middle is kept."""
    image = Image.fromarray(picture).convert("RGBA")
    is_opaque = image.getchannel("A").getextrema() == (255, 255)
    ratio = side / (min(image.size) if is_opaque else max(image.size))
    width, height = (max(1, round(size * ratio)) for size in image.size)
    # Pillow weighs colours by alpha
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (side, side))
    square.paste(resized, ((side - width) // 2, (side - height) // 2))
    return np.asarray(square)
