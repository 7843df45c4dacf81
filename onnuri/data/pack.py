"""Sequences packed end to end into a row of fixed length, without attention from one to another.
Knows ids, not media.

What no sequence fills is padding: one more sequence of its own, whose ids weigh nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PackedSequence = tuple[list[int], list[float], list[int]]
"""ids, the weight in the loss of predicting each, and the modality of each, for the log"""


class PackedRow(NamedTuple):
    """Sequences end to end."""

    ids: Tensor
    """int64 [1, T]"""
    positions: Tensor
    """int64 [1, T]: of an id in its sequence"""
    lengths: Tensor
    """int64 [N] of the sequences, padding's last; they sum to T. Stays on the host"""
    weights: Tensor
    """float32 [1, T]: in the loss, of predicting an id; 0 for a sequence's first, which nothing
    foretells"""
    modality_ids: Tensor
    """int64 [1, T]"""
    padding: int = 0
    """ids at the end that no sequence fills"""

    @property
    def weight(self) -> Tensor:
        """Return the weight of all targets together [], on the host."""
        return self.weights[0, 1:].sum()

    def to(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a forward pass needs, without waiting for the copy: ids and positions on a
        device, lengths here."""
        return (
            self.ids.to(device, non_blocking=True),
            self.positions.to(device, non_blocking=True),
            self.lengths,
        )


def pack(draw: Callable[[], PackedSequence], tokens: int, padding: int) -> PackedRow:
    """Return a row of `tokens` ids; the first sequence that does not fit ends it, and `padding`
    fills the rest.

    A first sequence that is longer is cut.
    """
    ids: list[int] = []
    weights: list[float] = []
    modality_ids: list[int] = []
    lengths: list[int] = []
    while True:
        sequence, weight, modality = draw()
        if lengths and len(ids) + len(sequence) > tokens:
            break
        ids += sequence[:tokens]
        weights += [0.0, *weight[1:tokens]]
        modality_ids += modality[:tokens]
        lengths.append(min(len(sequence), tokens))
    rest = tokens - len(ids)
    if rest:
        ids += [padding] * rest
        weights += [0.0] * rest
        modality_ids += [0] * rest
        lengths.append(rest)
    positions = np.concatenate([np.arange(n) for n in lengths])
    return PackedRow(
        torch.tensor([ids]),
        torch.from_numpy(positions)[None],
        torch.tensor(lengths),
        torch.tensor([weights], dtype=torch.float32),
        torch.tensor([modality_ids]),
        rest,
    )
