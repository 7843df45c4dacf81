"""This module watches every step: a loss that is not finite, or far above those before it, is
trouble, for which the training loop goes back to the last state; so are many steps in a row that
change nothing, since their gradients are not finite.

Every rank judges the loss of all rows together, so all come to the same end. A device's values are
read only when they are judged. The module knows no file and no weights.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from onnuri.model.loss import LossParts

WINDOW = 32
"""steps to whose median a loss is compared; before as many are known none counts as a spike"""

MOST_SKIPPED = 16
"""steps in a row without an update that are no trouble yet"""


class Trouble(NamedTuple):
    """A Trouble says which step's loss is not finite or a spike, or up to which step nothing has
    been learned."""

    step: int
    loss: float
    skipped: int = 0
    """steps in a row whose gradients are not finite, where these are the trouble"""

    def __str__(self) -> str:
        """Return what is seen, and where."""
        if self.skipped:
            return f"gradients that are not finite in {self.skipped} steps up to {self.step}"
        return f"loss {self.loss:.4g} in step {self.step}"


class LossWatch:
    """A LossWatch judges the losses of a run's steps in their order."""

    def __init__(self, spike: float | None) -> None:
        """Count a loss above `spike` times the median as trouble; None: only one not finite."""
        self.spike = spike
        self._unjudged: list[tuple[int, LossParts, Tensor]] = []
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self.skipped = 0
        """steps so far that changed nothing, since their gradients were not finite"""
        self._skipped_in_a_row = 0

    def add(self, step: int, loss: LossParts, norm: Tensor) -> None:
        """Add the loss of a step's rows on this rank and the norm [] of its gradients over all
        ranks, which stay on their device."""
        self._unjudged.append((step, loss, norm))

    def judge(self) -> Trouble | None:
        """Return the first trouble among the steps that were added since the last call, None if
        there is none. Every rank must call it after the same steps."""
        if not self._unjudged:
            return None
        steps = [step for step, _, _ in self._unjudged]
        losses = self._all_losses()
        finite = torch.stack([norm for _, _, norm in self._unjudged]).isfinite().tolist()
        self._unjudged.clear()
        for step, loss, learned in zip(steps, losses, finite, strict=True):
            if not math.isfinite(loss) or self._is_spike(loss):
                return Trouble(step, loss)
            self._losses.append(loss)
            self.skipped += not learned
            self._skipped_in_a_row = 0 if learned else self._skipped_in_a_row + 1
            if self._skipped_in_a_row > MOST_SKIPPED:
                count, self._skipped_in_a_row = self._skipped_in_a_row, 0
                return Trouble(step, loss, count)
        return None

    def _is_spike(self, loss: float) -> bool:
        """Return whether a loss is far above those of the steps before."""
        if self.spike is None or len(self._losses) < WINDOW:
            return False
        median = statistics.median(self._losses)
        return median > 0 and loss > self.spike * median

    def _all_losses(self) -> list[float]:
        """Return the mean losses of the steps that are not judged yet, over all ranks."""
        losses = [loss for _, loss, _ in self._unjudged]
        sums = torch.stack([loss.sum.double() for loss in losses]).cpu()
        weights = torch.stack([torch.as_tensor(loss.weight) for loss in losses])
        table = torch.stack([sums, weights.double().cpu()])
        if dist.is_initialized():
            # ranks that read the same rows count them as often in the sum as in the weight
            dist.all_reduce(table)
        means: list[float] = (table[0] / table[1]).tolist()
        # a step without any target has no loss
        return [
            mean if weight else 0.0 for mean, weight in zip(means, table[1].tolist(), strict=True)
        ]
