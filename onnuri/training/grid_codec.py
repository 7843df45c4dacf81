"""This module trains the picture codec (`codecs/grid.py`) on pictures with their names.

The codec learns to give pictures back, in squares, edges and colours. Beside it, and thrown away
at the end, stand two small networks that learn which name belongs to which picture from the
quantized digits alone (as UniTok does, Ma et al. 2025, arXiv 2502.20321): digits that tell a name
are digits that a language model can learn from. No network that later judges pictures has a part
in it.

A batch holds pictures as they are stored and what was drawn to vary them, so that the work on
pixels is done where the codec is.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri.codecs.grid import CellBlock, GridCodec, known_cells
from onnuri.config import Config
from onnuri.data.augment import AugmentConfig, Draw, apply
from onnuri.data.picture_store import PictureItem, PictureStore
from onnuri.errors import ConfigError
from onnuri.modality import fold

LONGEST = 3
"""letters of an n-gram, at most"""
NAME_WIDTH = 192
"""channels in which names and pictures are compared"""
MERGED = 2
"""cells per side that are one token where names and pictures are compared, at a quarter of the
cost"""


class GridLossConfig(Config):
    """A GridLossConfig weighs the parts of the codec's loss."""

    absolute: float = 1.0
    """of the absolute error"""
    squared: float = 6.0
    """of the squared error, by which PSNR goes; errors in [0, 1] are small once squared"""
    edges: float = 0.5
    """of the absolute error of differences between neighbours"""
    cover: float = 2.0
    """weight of a pixel of what is cut out, where its ground has 1"""
    commitment: float = 40.0
    """of the squared distance of values to those that codes stand for, where these are a codebook's
    (van den Oord et al. 2017, arXiv 1711.00937)"""
    names: float = 0.05
    """of telling which name belongs to which picture"""
    buckets: int = 2**15
    """rows of the table of names' n-grams"""
    unknown: float = 0.1
    """share of pictures of which only the first cells are known, as while one is being made"""


class PictureBatch(NamedTuple):
    """A PictureBatch holds B pictures with a name each."""

    pixels: Tensor
    """uint8 [B, 4, S, S], as they are stored"""
    drawn: Draw
    known: Tensor
    """int64 [B]: cells that the decoder is given"""
    ngrams: Tensor
    """int64 [N]: n-grams of all names, end to end"""
    starts: Tensor
    """int64 [B]: where each name's begin"""
    concepts: Tensor
    """int64 [B]: equal for pictures of one concept"""

    def to(self, device: torch.device) -> PictureBatch:
        """Return the batch on a device."""
        return PictureBatch(
            self.pixels.to(device, non_blocking=True),
            self.drawn.to(device),
            self.known.to(device, non_blocking=True),
            self.ngrams.to(device, non_blocking=True),
            self.starts.to(device, non_blocking=True),
            self.concepts.to(device, non_blocking=True),
        )


def ngrams(name: str, buckets: int) -> list[int]:
    """Return the n-grams of a name, of one to three letters and of whole words, as rows of a table
    of `buckets`."""
    folded = fold(name)
    marked = f"<{folded}>"
    pieces = [marked[k : k + n] for n in range(1, LONGEST + 1) for k in range(len(marked) - n + 1)]
    pieces += [f"<{word}>" for word in folded.split()]
    return [zlib.crc32(piece.encode()) % buckets for piece in pieces]


class NameTower(nn.Module):
    """A NameTower turns names and the quantized values of pictures into vectors that are near each
    other where they belong together."""

    def __init__(self, channels: int, side: int, buckets: int) -> None:
        """Build the networks for pictures of `side` cells per side."""
        super().__init__()
        self.side, self.merged = side, MERGED if side % MERGED == 0 else 1
        self.table = nn.EmbeddingBag(buckets, NAME_WIDTH, mode="mean")
        self.of_name = nn.Sequential(
            nn.Linear(NAME_WIDTH, 2 * NAME_WIDTH), nn.GELU(), nn.Linear(2 * NAME_WIDTH, NAME_WIDTH)
        )
        self.of_values = nn.Linear(channels * self.merged**2, NAME_WIDTH)
        tokens = (side // self.merged) ** 2
        self.places = nn.Parameter(torch.randn(tokens, NAME_WIDTH) * 0.02)
        self.blocks = nn.Sequential(CellBlock(NAME_WIDTH), CellBlock(NAME_WIDTH))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, values: Tensor, batch: PictureBatch) -> Tensor:
        """Return the logits [B, B] of each picture, of quantized values [B, K, D], having each
        name."""
        cells = values.transpose(1, 2).unflatten(2, (self.side, self.side))
        tokens = F.pixel_unshuffle(cells, self.merged).flatten(2).transpose(1, 2)
        cells = self.blocks(self.of_values(tokens) + self.places)
        pictures = F.normalize(cells.mean(1).float(), dim=-1)
        names = self.of_name(self.table(batch.ngrams, batch.starts))
        similarity: Tensor = pictures @ F.normalize(names.float(), dim=-1).T
        return similarity * self.log_scale.exp().clamp(max=100)


class GridTrainee(nn.Module):
    """A GridTrainee is a codec with what stands beside it while it is trained."""

    def __init__(self, codec: GridCodec, buckets: int) -> None:
        super().__init__()
        self.codec = codec
        self.names = NameTower(codec.config.channels, codec.config.cells, buckets)


class GridObjective:
    """A GridObjective trains a GridCodec on the training pictures of a store."""

    def __init__(
        self,
        codec: GridCodec,
        store: PictureStore,
        size: int = 32,
        losses: GridLossConfig | None = None,
        augment: AugmentConfig | None = None,
        shares: Mapping[str, float] = MappingProxyType({}),
        seed: int = 0,
    ) -> None:
        """Train on `size` pictures per batch. `shares` are the shares of all pictures that some
        styles have; the others share what is left by their number.

        Raises ConfigError for a store without pictures to train on, for shares of styles that it
        has not, and for shares of more than 1 together.
        """
        self.losses, self.augment = losses or GridLossConfig(), augment or AugmentConfig()
        self.module = GridTrainee(codec, self.losses.buckets)
        self.store, self.size, self.seed = store, size, seed
        self.numbers = store.of_split("train")
        self.chances = _chances([store.items[k].style for k in self.numbers], shares)
        concepts = sorted({item.concept for item in store.items})
        self.concepts = {name: number for number, name in enumerate(concepts)}

    def batch(self, step: int) -> PictureBatch:
        """Return the batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        chosen = rng.choice(self.numbers, self.size, p=self.chances)
        items = [self.store.items[number] for number in chosen]
        pixels, drawn = self.store.vary(chosen.tolist(), self.augment, rng)
        cells = self.module.codec.config.cells**2
        cut = rng.random(self.size) < self.losses.unknown
        names = [ngrams(_name_of(item, rng), self.losses.buckets) for item in items]
        return PictureBatch(
            pixels=pixels,
            drawn=drawn,
            known=torch.from_numpy(np.where(cut, rng.integers(1, cells, self.size), cells)),
            ngrams=torch.tensor(list(itertools.chain.from_iterable(names))),
            starts=torch.tensor([0, *itertools.accumulate(map(len, names))][:-1]),
            concepts=torch.tensor([self.concepts[item.concept] for item in items]),
        )

    def loss(self, batch: PictureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss [] of a batch, and figures for the log: each part, and the PSNR in dB of
        the pixels whose cells are known."""
        codec, weights = self.module.codec, self.losses
        batch = batch.to(codec.device)
        target, cover = apply(batch.pixels, batch.drawn, codec.config.side)
        with _mixed(codec.device):
            frames, quantized, values = codec(2 * target[:, None] - 1, batch.known)
            logits = self.module.names(codec.scaled(quantized)[:, 0], batch)
        output = (frames[:, 0].float() + 1) / 2
        known = self._known_pixels(batch.known)
        weight = (1 + (weights.cover - 1) * cover) * known
        error = output - target
        parts = {
            "absolute": _mean(error.abs(), weight),
            "squared": _mean(error**2, weight),
            "edges": _edges(error, weight),
            "names": _matching(logits, batch.concepts),
        }
        if codec.config.components:
            parts["commitment"] = codec.distance(quantized, values)
        total = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
        mean_squared = _mean(error.detach() ** 2, known)
        figures = {name: part.detach() for name, part in parts.items()}
        return total, {**figures, "psnr": -10 * torch.log10(mean_squared)}

    def _known_pixels(self, known: Tensor) -> Tensor:
        """Return 1 for pixels in known cells and 0 elsewhere, float32 [B, 1, S, S]."""
        settings = self.module.codec.config
        grid = (
            known_cells(known, settings.cells**2)
            .float()
            .view(-1, 1, settings.cells, settings.cells)
        )
        return F.interpolate(grid, scale_factor=settings.cell, mode="nearest")


def _chances(styles: Sequence[str], shares: Mapping[str, float]) -> np.ndarray:
    """Return each picture's chance [n] of being drawn, by its style. Raises ConfigError as
    `GridObjective` does."""
    if not styles:
        raise ConfigError("the pictures", "have none to train on", "give a table with some")
    counts = Counter(styles)
    if unknown := sorted(shares.keys() - counts.keys()):
        raise ConfigError(
            f"style {unknown[0]!r}",
            "is none of the pictures'",
            f"use some of {', '.join(sorted(counts))}",
        )
    left = 1 - sum(shares.values())
    others = sum(count for style, count in counts.items() if style not in shares)
    if left < -1e-9 or (left < 1e-9) != (others == 0):
        raise ConfigError(
            f"shares {dict(shares)}",
            f"leave {left:.3g} to {others} other pictures",
            "let all together be 1",
        )
    each = {style: shares[style] / counts[style] for style in shares}
    chances = np.array([each.get(style, left / max(others, 1)) for style in styles])
    return np.asarray(chances / chances.sum())


def _name_of(item: PictureItem, rng: np.random.Generator) -> str:
    """Return one of an item's names, or its concept where it has none."""
    return item.names[int(rng.integers(len(item.names)))] if item.names else item.concept


def _mixed(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which a GPU multiplies in bf16; other devices have no use for it."""
    if device.type != "cuda":
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast("cuda", torch.bfloat16)
    return context


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean [] of values [B, C, H, W] by weight [B, 1, H, W]."""
    return (values * weight).sum() / (weight.sum() * values.shape[1]).clamp_min(1e-6)


def _edges(error: Tensor, weight: Tensor) -> Tensor:
    """Return the mean absolute difference [] of neighbours' errors, across and down."""
    across = _mean((error[..., 1:] - error[..., :-1]).abs(), weight[..., 1:])
    down = _mean((error[..., 1:, :] - error[..., :-1, :]).abs(), weight[..., 1:, :])
    return (across + down) / 2


def _matching(logits: Tensor, concepts: Tensor) -> Tensor:
    """Return the mean cross-entropy [] of finding each picture's name and each name's picture;
    pictures of one concept may have each other's (Khosla et al. 2020, arXiv 2004.11362)."""
    same = (concepts[:, None] == concepts).float()
    wanted = same / same.sum(1, keepdim=True)
    losses = [-(wanted * F.log_softmax(side, 1)).sum(1).mean() for side in (logits, logits.T)]
    return torch.stack(losses).mean()
