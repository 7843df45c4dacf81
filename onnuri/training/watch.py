"""This module watches the loss of every step: one that is not finite, or far above those before it,
is trouble, for which the training loop goes back to the last state.

Every rank judges the loss of all rows together, so all come to the same end. A device's losses are
read only when they are judged. The module knows no file and no weights.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import NamedTuple

import torch
import torch.distributed as dist

from onnuri.model.loss import LossParts

WINDOW = 32
"""steps to whose median a loss is compared; before as many are known none counts as a spike"""


class Trouble(NamedTuple):
    """A Trouble says which step's loss is not finite or a spike."""

    step: int
    loss: float


class LossWatch:
    """A LossWatch judges the losses of a run's steps in their order."""

    def __init__(self, spike: float | None) -> None:
        """Count a loss above `spike` times the median as trouble; None: only one not finite."""
        self.spike = spike
        self._unjudged: list[tuple[int, LossParts]] = []
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def add(self, step: int, loss: LossParts) -> None:
        """Add the loss of a step's rows on this rank, which stays on its device."""
        self._unjudged.append((step, loss))

    def judge(self) -> Trouble | None:
        """Return the first trouble among the losses that were added since the last call, None if
        there is none. Every rank must call it after the same steps."""
        steps = [step for step, _ in self._unjudged]
        losses = self._all_losses()
        self._unjudged.clear()
        for step, loss in zip(steps, losses, strict=True):
            if not math.isfinite(loss) or self._is_spike(loss):
                return Trouble(step, loss)
            self._losses.append(loss)
        return None

    def _is_spike(self, loss: float) -> bool:
        """Return whether a loss is far above those of the steps before."""
        if self.spike is None or len(self._losses) < WINDOW:
            return False
        median = statistics.median(self._losses)
        return median > 0 and loss > self.spike * median

    def _all_losses(self) -> list[float]:
        """Return the mean losses of the steps that are not judged yet, over all ranks."""
        if not self._unjudged:
            return []
        sums = torch.stack([loss.sum.double() for _, loss in self._unjudged]).cpu()
        weights = torch.stack([torch.as_tensor(loss.weight) for _, loss in self._unjudged])
        table = torch.stack([sums, weights.double().cpu()])
        if dist.is_initialized():
            # ranks that read the same rows count them as often in the sum as in the weight
            dist.all_reduce(table)
        means: list[float] = (table[0] / table[1]).tolist()
        # a step without any target has no loss
        return [
            mean if weight else 0.0 for mean, weight in zip(means, table[1].tolist(), strict=True)
        ]
