"""This module implements finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505), whose
codebook is a fixed grid without parameters.

It knows nothing of media. Levels [8, 8, 8] give 512 codes; the first level varies fastest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FSQ(nn.Module):
    """An FSQ rounds each of C = len(levels) channels to `levels[c]` values in [-1, 1]."""

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.num_codes = math.prod(levels)
        strides = [math.prod(levels[:c]) for c in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return unbounded z [..., C] quantized to values in [-1, 1], with straight-through
        gradients."""
        half = (self.levels - 1) / 2
        bounded = torch.tanh(z)
        rounded = self._round(bounded) / half - 1
        return bounded + (rounded - bounded).detach()

    def encode(self, z: Tensor) -> Tensor:
        """Return the codes int64 [...] of unbounded z [..., C]."""
        return (self._round(torch.tanh(z)).long() * self.strides).sum(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the values [..., C] in [-1, 1] of codes [...], equal to `forward` of the z that
        they encode."""
        digits = (codes.unsqueeze(-1) // self.strides) % self.levels
        return digits / ((self.levels - 1) / 2) - 1

    def _round(self, bounded: Tensor) -> Tensor:
        """Return the level 0 … levels - 1 that is nearest to a value in [-1, 1]."""
        return torch.round((bounded + 1) * (self.levels - 1) / 2)
