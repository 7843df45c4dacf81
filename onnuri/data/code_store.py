"""This module holds the codes of a store's pictures, several views of each: as it is, slightly
varied on white, as the model is to draw it, and widely varied, as the model may be shown it.

    FOLDER/codes.npy     uint16 [N, V, K], V views of K codes of each picture
    FOLDER/views.json    which views are what (`Views`)

Codes of pictures that are not trained on have the first view alone; the others repeat it. A store
that was interrupted goes on where it was. It knows no model.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from onnuri import files
from onnuri.codecs.grid import GridCodec
from onnuri.config import Config
from onnuri.data.augment import AugmentConfig, apply
from onnuri.data.picture_store import PictureStore
from onnuri.errors import ConfigError

CODES, VIEWS = "codes.npy", "views.json"
AT_ONCE = 64
"""pictures that are encoded together"""
CHUNK = 512
"""pictures whose codes are written together"""

DRAWN = AugmentConfig(
    zoom=(0.88, 1.02),
    rotation=4.0,
    shift=0.04,
    crop=1.1,
    brightness=0.03,
    contrast=0.05,
    saturation=0.08,
    plain=0.0,
    white=1.0,
)
"""variation of what the model is to draw"""
SEEN = AugmentConfig(plain=0.1)
"""variation of what the model is shown"""


class Views(Config):
    """A Views says how many views of each picture there are, and how they vary."""

    drawn: int = 2
    """views that the model is to draw, beside the picture as it is"""
    seen: int = 6
    """views that the model is shown"""
    drawn_as: AugmentConfig = DRAWN
    seen_as: AugmentConfig = SEEN
    seed: int = 0

    @property
    def count(self) -> int:
        """Return the number of all views of a picture."""
        return 1 + self.drawn + self.seen


class CodeStore:
    """A CodeStore gives the codes of views of pictures by the pictures' numbers."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that `write` made. Raises ConfigError if it holds no codes."""
        try:
            self.codes = np.load(folder / CODES, mmap_mode="r")
            about = json.loads((folder / VIEWS).read_text(encoding="utf-8"))
            self.views = Views.from_json(about)
        except (OSError, ValueError) as error:
            raise ConfigError(
                str(folder), f"holds no codes of pictures ({error})", "write it anew"
            ) from None

    def plain(self, number: int) -> np.ndarray:
        """Return the codes int64 [K] of a picture as it is."""
        return np.asarray(self.codes[number, 0], np.int64)

    def drawn(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Return the codes int64 [K] of a view that the model is to draw."""
        return np.asarray(self.codes[number, rng.integers(1 + self.views.drawn)], np.int64)

    def seen(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Return the codes int64 [K] of a view that the model is shown."""
        return np.asarray(self.codes[number, rng.integers(self.views.count)], np.int64)


def write(folder: Path, store: PictureStore, codec: GridCodec, views: Views) -> None:
    """Write the codes of all pictures of a store. Raises ConfigError for a codec whose codes need
    more than 16 bits."""
    if codec.num_codes > 2**16:
        raise ConfigError(
            f"a codec of {codec.num_codes} codes",
            "has more than 16 bits hold",
            "give it levels whose product is 65,536 at most",
        )
    chunks = folder.with_name(folder.name + ".chunks")
    files.make_folder(chunks)
    starts = range(0, len(store), CHUNK)
    for start in track(starts, "codes", len(starts), transient=True):
        path = chunks / f"{start:08}.npy"
        if not path.exists():
            codes = _chunk(store, range(start, min(start + CHUNK, len(store))), codec, views)
            file = io.BytesIO()
            np.save(file, codes)
            files.write_bytes(file.getvalue(), path)
    with files.whole_folder(folder) as part:
        whole = [np.load(chunks / f"{start:08}.npy") for start in starts]
        np.save(part / CODES, np.concatenate(whole))
        files.write_json(views.to_json(), part / VIEWS)
    for path in chunks.iterdir():
        path.unlink()
    chunks.rmdir()


def _chunk(store: PictureStore, numbers: range, codec: GridCodec, views: Views) -> np.ndarray:
    """Return the codes uint16 [n, V, K] of some pictures."""
    codes = np.zeros((len(numbers), views.count, codec.config.cells**2), np.uint16)
    kinds = [AugmentConfig(plain=1.0), views.drawn_as, views.seen_as]
    kinds = [kinds[0], *[kinds[1]] * views.drawn, *[kinds[2]] * views.seen]
    trained = np.array([store.items[number].split == "train" for number in numbers])
    for view, variation in enumerate(kinds):
        chosen = np.flatnonzero(trained) if view else np.arange(len(numbers))
        for first in range(0, len(chosen), AT_ONCE):
            some = chosen[first : first + AT_ONCE]
            own = [numbers[k] for k in some]
            rng = np.random.default_rng([views.seed, view, own[0]])
            codes[some, view] = view_codes(store, own, codec, variation, rng)
    codes[~trained, 1:] = codes[~trained, :1]
    return codes


@torch.inference_mode()
def view_codes(
    store: PictureStore,
    numbers: list[int],
    codec: GridCodec,
    variation: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the codes int64 [n, K] of pictures of a store, each varied anew."""
    pixels, drawn = store.vary(numbers, variation, rng)
    pictures, _ = apply(pixels.to(codec.device), drawn.to(codec.device), codec.config.side)
    values = codec.encoder(2 * pictures[:, None] - 1)
    return np.asarray(codec.quantizer.encode(values)[:, 0].cpu().numpy())
