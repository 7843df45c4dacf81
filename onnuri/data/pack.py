"""Sequences packed into rows of a fixed length, without attention from one to another. Knows ids, not media.

Best fit: a sequence goes into the row that it fills most; the first that fits nowhere ends the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Sequence = tuple[list[int], list[float]]
"""ids, and the weight in the loss of predicting each"""


def pack(draw: Callable[[], Sequence], rows: int, length: int, pad: int) -> dict[str, Tensor]:
    """A batch: `ids`, `positions`, `segments` int64 [B, T] (segment -1: padding), `weights` float32 [B, T]."""
    ids = np.full((rows, length), pad, dtype=np.int64)
    positions, segments = np.zeros_like(ids), np.full_like(ids, -1)
    weights, used, count = np.zeros((rows, length), np.float32), np.zeros(rows, dtype=int), 0
    while True:
        sequence, weight = draw()
        sequence, weight = sequence[:length], weight[:length]
        room = length - used - len(sequence)
        if (room < 0).all():
            return {"ids": torch.from_numpy(ids), "positions": torch.from_numpy(positions),
                    "segments": torch.from_numpy(segments), "weights": torch.from_numpy(weights)}
        row = int(np.where(room < 0, length + 1, room).argmin())
        span = slice(used[row], used[row] + len(sequence))
        ids[row, span], weights[row, span] = sequence, weight
        positions[row, span], segments[row, span] = np.arange(len(sequence)), count
        used[row] += len(sequence)
        count += 1


def attention_mask(segments: Tensor) -> Tensor:
    """bool [B, 1, T, T]: a token sees itself and what comes before it in its own sequence."""
    same = segments[:, None, :, None] == segments[:, None, None, :]
    length = segments.shape[1]
    return same & torch.ones(length, length, dtype=torch.bool).tril()
