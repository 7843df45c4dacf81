"""Experts that are equally busy: without it a small mixture soon sends most tokens to a few. Knows no family by its name.

Where a router has a bias for its choice alone, that is moved after every pass (Wang et al. 2024, arXiv 2408.15664): A.X K1, Solar
Open, K-EXAONE. Where it has none, as VAETKI's, a loss asks for it (Fedus et al. 2021, arXiv 2101.03961); how NC AI does it was
not published.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

STEP = 0.005
"""by which a bias moves; scores are sigmoids"""
WEIGHT = 0.05
"""of the loss"""


class Balance:
    """Watches a model's routers for one pass."""

    def __init__(self, model: nn.Module) -> None:
        self.routers: list[Any] = [m for m in model.modules() if type(m).__name__.endswith("TopkRouter")]
        self.losses: list[Tensor] = []

    def __enter__(self) -> Self:
        self._hooks = [router.register_forward_hook(self._note) for router in self.routers]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:  # a model that is copied must not carry them
            hook.remove()

    def loss(self) -> Tensor | float:
        """Of routers without a bias, weighted: 1 a router at an even load, and more the fewer experts are chosen."""
        return WEIGHT * torch.stack(self.losses).mean() if self.losses else 0.0

    def _note(self, router: Any, given: Any, made: tuple[Tensor, Tensor, Tensor]) -> None:
        """`made`: logits [T, experts], weights and choices [T, k]."""
        logits, _, chosen = made
        load = torch.bincount(chosen.flatten(), minlength=logits.shape[-1]) / chosen.numel()
        if (bias := getattr(router, "e_score_correction_bias", None)) is not None:
            bias += STEP * torch.sign(1 / len(load) - load)
        else:
            scores = logits.sigmoid()
            share = (scores / scores.sum(-1, keepdim=True)).mean(0)
            self.losses.append(len(load) * (load * share).sum())
