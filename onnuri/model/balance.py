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


@torch.library.custom_op("onnuri::count_loads", mutates_args={"load"})
def count_loads(load: Tensor, experts: Tensor, tokens: int) -> None:
    """Add the choices of a row's first `tokens` tokens, `experts` [T, k], to `load` [experts], but
    not in a backward pass, where a layer is only computed again.

    It is one operator, so that a compiled layer counts too: what a compiler sees as Python runs
    once, when the layer is compiled.
    """
    if in_backward():
        return
    chosen = experts[:tokens].flatten()
    # not bincount: on a GPU it waits for the largest id
    load.scatter_add_(0, chosen, torch.ones_like(chosen, dtype=load.dtype))


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
        for router in self.routers:
            if (bias := _bias(router)) is not None:
                zeros = torch.zeros(len(bias), device=bias.device)
                # where a compiled layer finds it
                router.load = self.loads.setdefault(router, zeros)
        try:
            yield
        finally:
            for hook, router in zip(hooks, self.routers, strict=True):
                hook.remove()  # a model that is copied must not carry them
                vars(router).pop("load", None)
            self._losses.clear()

    def start_row(self, tokens: int) -> None:
        """Say before a row's forward pass how many of its first tokens count."""
        self.tokens = tokens
        self._losses.clear()  # of layers that were computed again in the backward pass

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
            total = load.sum()
            move = torch.where(total > 0, STEP * torch.sign(1 / len(load) - load / total), 0.0)
            if norm is not None:
                move = torch.where(torch.isfinite(norm).to(move.device), move, 0.0)
            router.e_score_correction_bias += move
        self.loads.clear()

    def _count(self, router: Any, inputs: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        """Add a router's choices to its load: outputs are logits [T, experts], weights [T, k] and
        chosen experts [T, k]."""
        tokens = len(outputs[0]) if self.tokens is None else self.tokens
        logits, experts = outputs[0][:tokens], outputs[2]
        if _bias(router) is not None:
            count_loads(router.load, experts, tokens)
            return
        scores = logits.sigmoid()
        share = (scores / scores.sum(-1, keepdim=True)).mean(0)
        chosen = experts[:tokens].flatten()
        load = torch.zeros_like(share).scatter_add(
            0, chosen, torch.ones_like(chosen, dtype=share.dtype)
        )
        loss = len(load) * (load / len(chosen) * share).sum()
        # a compiled layer cannot ask; its losses of a backward pass go with `start_row`
        if torch.compiler.is_compiling() or not in_backward():
            self._losses.append(loss)


def _bias(router: Any) -> Tensor | None:
    """Return a router's bias [experts], which only affects its choice; None if it has none."""
    bias: Tensor | None = getattr(router, "e_score_correction_bias", None)
    return bias
