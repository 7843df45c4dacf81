"""Finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505): a codebook that is a grid,
with nothing to learn.

Knows nothing of media. Levels [8, 8, 8] give 512 codes; the first level varies fastest.
Straight-through gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class FSQ(nn.Module):
    """Rounds every one of C = len(levels) channels to `levels[c]` values in [-1, 1]."""

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.num_codes = math.prod(levels)
        strides = [math.prod(levels[:c]) for c in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """Unbounded z [..., C] to its quantized value in [-1, 1], with straight-through
        gradients."""
        half = (self.levels - 1) / 2
        bounded = torch.tanh(z)
        rounded = self._round(bounded) / half - 1
        return bounded + (rounded - bounded).detach()

    def encode(self, z: Tensor) -> Tensor:
        """Unbounded z [..., C] to codes [...]."""
        return (self._round(torch.tanh(z)).long() * self.strides).sum(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [...] to values in [-1, 1] [..., C], equal to `forward` of what was encoded."""
        digits = (codes.unsqueeze(-1) // self.strides) % self.levels
        return digits / ((self.levels - 1) / 2) - 1

    def _round(self, bounded: Tensor) -> Tensor:
        """[-1, 1] to digits 0 … levels - 1."""
        return torch.round((bounded + 1) * (self.levels - 1) / 2)
