"""This module packs sequences end to end into rows of fixed length, without attention between them.

It knows ids, not media. Padding is one more sequence at a row's end, whose ids have weight 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PackedSequence = tuple[list[int], list[float], list[int]]
"""ids, the loss weight of predicting each, and the modality id of each, for the log"""


class PackedRow(NamedTuple):
    """A PackedRow holds N sequences end to end, T ids in all."""

    ids: Tensor
    """int64 [1, T]"""
    positions: Tensor
    """int64 [1, T]: position of each id in its sequence"""
    lengths: Tensor
    """int64 [N]: ids per sequence, padding's last; they sum to T. Stays on the host"""
    weights: Tensor
    """float32 [1, T]: loss weight of predicting each id; 0 for a sequence's first, which has
    nothing before it"""
    modality_ids: Tensor
    """int64 [1, T]"""
    padding: int = 0
    """number of padding ids at the end"""

    @property
    def weight(self) -> Tensor:
        """Return the sum [] of the loss weights of all targets in the row, on the host."""
        return self.weights[0, 1:].sum()

    def to(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids and positions on a device and lengths on the host, without waiting for the
        copy."""
        return (
            self.ids.to(device, non_blocking=True),
            self.positions.to(device, non_blocking=True),
            self.lengths,
        )


def pack(draw: Callable[[], PackedSequence], tokens: int, padding: int) -> PackedRow:
    """Return a row of `tokens` ids, filled with sequences that `draw` returns.

    The first sequence that does not fit is discarded and ends the row; the id `padding` fills the
    rest. A first sequence that is longer than the row is cut.
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
    padding_count = tokens - len(ids)
    if padding_count:
        ids += [padding] * padding_count
        weights += [0.0] * padding_count
        modality_ids += [0] * padding_count
        lengths.append(padding_count)
    # positions restart in each sequence, padding's too
    positions = np.concatenate([np.arange(n) for n in lengths])
    return PackedRow(
        torch.tensor([ids]),
        torch.from_numpy(positions)[None],
        torch.tensor(lengths),
        torch.tensor([weights], dtype=torch.float32),
        torch.tensor([modality_ids]),
        padding_count,
    )
