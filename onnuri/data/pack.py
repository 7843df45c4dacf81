"""Sequences packed end to end into one row, without attention from one to another and without padding. Knows ids, not media."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Sequence = tuple[list[int], list[float], list[int]]
"""ids, the weight in the loss of predicting each, and what kind each is, for the log"""


def pack(draw: Callable[[], Sequence], tokens: int) -> dict[str, Tensor]:
    """A batch of at most `tokens` ids; the first sequence that does not fit ends it. A longer one is cut if it is the first.

    `ids`, `positions`, `kinds` int64 and `weights` float32 [1, T]; `lengths` int64 [N] of the sequences. The first id of a sequence
    has weight 0: nothing before it foretells it.
    """
    ids: list[int] = []
    weights: list[float] = []
    kinds: list[int] = []
    lengths: list[int] = []
    while True:
        sequence, weight, kind = draw()
        if lengths and len(ids) + len(sequence) > tokens:
            positions = np.concatenate([np.arange(n) for n in lengths])
            return {"ids": torch.tensor([ids]), "positions": torch.from_numpy(positions)[None],
                    "weights": torch.tensor([weights], dtype=torch.float32), "kinds": torch.tensor([kinds]),
                    "lengths": torch.tensor(lengths)}
        ids += sequence[:tokens]
        weights += [0.0, *weight[1:tokens]]
        kinds += kind[:tokens]
        lengths.append(min(len(sequence), tokens))
