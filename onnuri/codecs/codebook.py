"""This module implements a codebook of patches: a code stands for a vector that was found in data
by k-means, not for a point of a fixed grid (`fsq.py`).

Codes are numbered by digits all the same. `number` sorts the vectors into a balanced tree: by their
first component into as many equal parts as the first digit has levels, each part by its second
component, and so on. Codes that share their first digits are then near each other, and a language
model may read and write a code by its digits. The module knows nothing of media.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

AT_ONCE = 2**25
"""distances that are held at once, in numbers"""


class Codebook(nn.Module):
    """A Codebook replaces vectors [..., C] by the nearest of its own."""

    vectors: Tensor

    def __init__(self, levels: tuple[int, ...], channels: int) -> None:
        """Make a codebook of prod(levels) vectors, all zero until they are set."""
        super().__init__()
        self.num_codes = math.prod(levels)
        self.register_buffer("vectors", torch.zeros(self.num_codes, channels))

    def forward(self, z: Tensor) -> Tensor:
        """Return z [..., C] replaced by the nearest vectors, with straight-through gradients."""
        nearest = self.decode(self.encode(z))
        return z + (nearest - z).detach()

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes int64 [...] of the vectors that are nearest to z [..., C]."""
        flat = z.detach().reshape(-1, z.shape[-1])
        squares = self.vectors.square().sum(1)
        codes = [
            torch.addmm(squares, part, self.vectors.T, alpha=-2).argmin(1)
            for part in flat.split(max(1, AT_ONCE // self.num_codes))
        ]
        return torch.cat(codes).view(z.shape[:-1])

    def decode(self, codes: Tensor) -> Tensor:
        """Return the vectors [..., C] of codes [...]."""
        return self.vectors[codes]


def k_means(points: Tensor, count: int, rounds: int, seed: int = 0) -> Tensor:
    """Return `count` means [count, C] of points [N, C] (Lloyd 1982). A mean that no point is
    nearest to begins anew at a random one; of fewer points than means, some means are alike."""
    generator = torch.Generator().manual_seed(seed)
    book = Codebook((count,), points.shape[1])
    first = torch.cat(
        [torch.randperm(len(points), generator=generator) for _ in range(-(-count // len(points)))]
    )
    book.vectors = points[first[:count]].clone()
    for _ in range(rounds):
        codes = book.encode(points)
        counts = torch.bincount(codes, minlength=count)[:, None]
        sums = torch.zeros_like(book.vectors).index_add_(0, codes, points)
        others = points[torch.randint(len(points), (count,), generator=generator)]
        book.vectors = torch.where(counts > 0, sums / counts.clamp_min(1), others)
    return book.vectors


def number(vectors: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return vectors [prod(levels), C] in the order of their codes, of which the first digit varies
    fastest; digit k is the place among equal parts by component k."""
    order = torch.arange(len(vectors))[None]
    for component, level in enumerate(levels):
        values = vectors[order, component % vectors.shape[1]]
        order = order.gather(1, values.argsort(dim=1, stable=True))
        order = order.reshape(len(order) * level, -1)
    # the last digit varies fastest so far
    order = order.reshape(levels).permute(*range(len(levels) - 1, -1, -1)).reshape(-1)
    return vectors[order]
