"""This module balances the load of experts in mixture-of-experts models, whose routers would soon
send most tokens to a few.

It knows no model family by name. A router with a bias that only affects its choice (A.X K1, Solar
Open, K-EXAONE) has that bias moved once per step (Wang et al. 2024, arXiv 2408.15664). A router
without one, as VAETKI's, gets an auxiliary loss (Fedus et al. 2021, arXiv 2101.03961); how NC AI
balances it was not published.

Loads are counted in the forward passes of all micro-batches of a step and applied after the
optimizer. Recomputation in the backward pass is not counted again, and routes as the forward pass
did, since the bias has not moved yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

STEP = 0.005
"""by which a bias moves per step; scores are sigmoids"""
WEIGHT = 0.05
"""of the auxiliary loss in the total loss"""


def in_backward() -> bool:
    """Return whether autograd is in a backward pass, where checkpointing recomputes layers."""
    return torch._C._current_graph_task_id() != -1  # a graph task exists only there


class Balance:
    """A Balance counts the tokens per expert of a model's routers and evens them out."""

    def __init__(self, model: nn.Module) -> None:
        """Find the routers of a model by their class's name; there may be none."""
        self.routers: list[Any] = [
            m for m in model.modules() if type(m).__name__.endswith("TopkRouter")
        ]
        self.loads: dict[Any, Tensor] = {}
        """tokens per expert since `apply`, float32 [experts], by router"""
        self.tokens: int | None = None
        """number of a row's first tokens that count, the rest being padding, which all goes to the
        same experts; None: all count"""
        self._losses: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count loads within this context, which must span a step's forward and backward passes.

        The hooks stay in the backward pass because activation checkpointing requires a recomputed
        layer to run the same operators.
        """
        hooks = [router.register_forward_hook(self._count) for router in self.routers]
        try:
            yield
        finally:
            for hook in hooks:  # a model that is copied must not carry them
                hook.remove()
            self._losses.clear()

    def loss(self) -> Tensor | float:
        """Return the auxiliary loss [] of routers without a bias, over the forward passes since the
        last call.

        It is WEIGHT at an even load and larger the fewer experts are chosen; 0.0 if all routers
        have a bias.
        """
        losses, self._losses = self._losses, []
        return WEIGHT * torch.stack(losses).mean() if losses else 0.0

    @torch.no_grad()
    def apply(self, norm: Tensor | None = None) -> None:
        """Move the biases towards even loads over all ranks' tokens, and reset the counts.

        Call it after the optimizer. If the gradient `norm` [] is not finite, the optimizer skipped
        the step, and the biases stay too.
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
        """Add a router's choices to its load: outputs are logits [T, experts], weights [T, k] and
        chosen experts [T, k]."""
        logits, experts = outputs[0][: self.tokens], outputs[2][: self.tokens]
        flat = experts.flatten()
        # not bincount: on a GPU it waits for the largest id
        load = torch.zeros(logits.shape[-1], device=flat.device).scatter_add_(
            0, flat, torch.ones(len(flat), device=flat.device)
        )
        is_recomputed = in_backward()
        if getattr(router, "e_score_correction_bias", None) is not None:
            if not is_recomputed:
                self.loads[router] = self.loads[router] + load if router in self.loads else load
            return
        scores = logits.sigmoid()
        share = (scores / scores.sum(-1, keepdim=True)).mean(0)
        loss = len(load) * (load / len(flat) * share).sum()
        if not is_recomputed:
            self._losses.append(loss)
