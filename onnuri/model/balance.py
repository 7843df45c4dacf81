"""Experts that are equally busy: without it a small mixture soon sends most tokens to a few. Knows
no family by its name.

Where a router has a bias for its choice alone, that is moved once a step (Wang et al. 2024, arXiv
2408.15664): A.X K1, Solar Open, K-EXAONE. Where it has none, as VAETKI's, a loss asks for it (Fedus
et al. 2021, arXiv 2101.03961); how NC AI does it was not published.

Loads are counted in the forward passes of a step, of all its micro-batches, and applied after the
optimizer. A layer that is computed again in the backward pass is not counted again, and routes as
it did: its bias has not moved yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

STEP = 0.005
"""by which a bias moves; scores are sigmoids"""
WEIGHT = 0.05
"""of the loss"""


class Balance:
    """Counts what a model's routers choose, and evens it out."""

    def __init__(self, model: nn.Module) -> None:
        self.routers: list[Any] = [
            m for m in model.modules() if type(m).__name__.endswith("TopkRouter")
        ]
        self.loads: dict[Any, Tensor] = {}
        """tokens that each expert was given since `apply`, float32 [experts], by router"""
        self.tokens: int | None = None
        """of a row, from its first: the others are padding, which all goes to the same experts;
        None: all count"""
        self._losses: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count while this lasts: through a step's forward and backward passes.

        The hooks stay for the backward pass, since a layer that is computed again must do all that
        it did.
        """
        hooks = [router.register_forward_hook(self._count) for router in self.routers]
        try:
            yield
        finally:
            for hook in hooks:  # a model that is copied must not carry them
                hook.remove()
            self._losses.clear()

    def loss(self) -> Tensor | float:
        """Return the loss of routers without a bias in the forward passes since the last call.

        Weighted: WEIGHT a router at an even load, and more the fewer experts are chosen. 0.0 where
        all routers have a bias.
        """
        losses, self._losses = self._losses, []
        return WEIGHT * torch.stack(losses).mean() if losses else 0.0

    @torch.no_grad()
    def apply(self, norm: Tensor | None = None) -> None:
        """Move the biases towards even loads, all ranks' tokens together, and count anew. Call it
        after the optimizer.

        `norm` [] of all gradients: where it is not finite the step was left out, and the biases
        stay too.
        """
        for router, load in self.loads.items():
            if dist.is_initialized():
                dist.all_reduce(load)
            share = load / load.sum()
            move = STEP * torch.sign(1 / len(load) - share)
            if norm is not None:
                move = torch.where(torch.isfinite(norm), move, 0.0)
            router.e_score_correction_bias += move
        self.loads.clear()

    def _count(self, router: Any, inputs: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        """Note what a router chose: its outputs are logits [T, experts], weights and choices [T,
        k]."""
        logits, chosen = outputs[0][: self.tokens], outputs[2][: self.tokens]
        flat = chosen.flatten()
        # not bincount: on a GPU it waits for the largest id
        load = torch.zeros(logits.shape[-1], device=flat.device).scatter_add_(
            0, flat, torch.ones(len(flat), device=flat.device)
        )
        again = (
            torch._C._current_graph_task_id() != -1
        )  # within a backward pass, where checkpointing computes a layer again
        if getattr(router, "e_score_correction_bias", None) is not None:
            if not again:
                self.loads[router] = self.loads[router] + load if router in self.loads else load
            return
        scores = logits.sigmoid()
        share = (scores / scores.sum(-1, keepdim=True)).mean(0)
        loss = len(load) * (load / len(flat) * share).sum()
        if not again:
            self._losses.append(loss)
