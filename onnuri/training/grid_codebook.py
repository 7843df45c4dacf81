"""This module finds what a picture codec's codes stand for in data, before any network is trained:
principal components of the pixels of cells, and means of k-means among these.

The means are numbered by digits (`codecs/codebook.py`). With networks that add nothing yet, a codec
gives pictures back as its nearest patches.
"""

from __future__ import annotations

import torch
from rich.progress import track
from torch import Tensor

from onnuri.codecs.codebook import Codebook, k_means, number
from onnuri.codecs.grid import GridCodec
from onnuri.data.augment import apply
from onnuri.errors import ConfigError
from onnuri.training.grid_codec import GridObjective

PATCHES = 320_000
"""cells from which components and means are found"""
ROUNDS = 8
"""rounds of k-means: the error falls by less than 1 % in each of the next"""
FLAT = 1e-3
"""standard deviation of pixels below which a cell is of one colour"""
FLAT_SHARE = 0.05
"""share of cells of one colour that are kept: white grounds would be most of all"""


def fit_codebook(codec: GridCodec, objective: GridObjective, patches: int = PATCHES) -> None:
    """Set a codec's components and codebook, in place, from varied pictures of an objective. Raises
    ConfigError if these are of one colour each."""
    pixels = _patches(codec, objective, patches)
    if not (pixels.std(1) > FLAT).any():
        raise ConfigError("the pictures", "are of one colour each", "give a table with others")
    encoder, decoder = codec.encoder.components, codec.decoder.components
    book = codec.quantizer
    assert encoder is not None and decoder is not None and isinstance(book, Codebook)
    mean = pixels.mean(0)
    centred = pixels - mean
    # eigenvalues come in rising order
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(pixels))
    basis = vectors.flip(1)[:, : codec.config.components].T.contiguous()
    spread = values.flip(0)[: codec.config.components].clamp_min(1e-8).sqrt()
    for components in (encoder, decoder):
        components.basis.copy_(basis)
        components.mean.copy_(mean)
        components.spread.copy_(spread)
    means = k_means(centred @ basis.T, book.num_codes, ROUNDS)
    book.vectors.copy_(number(means, codec.config.levels))


def _patches(codec: GridCodec, objective: GridObjective, count: int) -> Tensor:
    """Return the pixels [N, P] of at least `count` cells, few of one colour, of varied pictures;
    fewer if pictures are of one colour."""
    found, have = [], 0
    components = codec.encoder.components
    assert components is not None
    generator = torch.Generator().manual_seed(objective.seed)
    most = 1 + 4 * count // (objective.size * codec.config.cells**2)
    for step in track(range(most), "patches", transient=True):
        batch = objective.batch(step)
        pictures, _ = apply(batch.pixels, batch.drawn, codec.config.side)
        cells = components.pixels(2 * pictures[:, None].cpu() - 1).flatten(0, 2)
        chosen = torch.rand(len(cells), generator=generator) < FLAT_SHARE
        found.append(cells[(cells.std(1) > FLAT) | chosen])
        have += len(found[-1])
        if have >= count:
            break
    return torch.cat(found)
