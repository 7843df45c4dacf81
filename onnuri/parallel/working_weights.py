"""This module trains in 16 bits on one rank: matrix products read a 16-bit copy of the weights, and
gradients, optimizer and checkpoints keep the weights themselves, in 32 bits.

FSDP does the same for shards, but copies every weight five times per step, which on one rank
shares nothing: 6 % of a dense step's time and 16 % of a mixture's (benchmarks/results/gpu.json).
Here a weight is rounded once per update and a gradient widened once. The module knows no layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WorkingWeights:
    """WorkingWeights holds a copy of a module's floating-point weights in another dtype, which
    stands in their place while a step's loss and gradients are computed."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        """Copy the weights of a module. Weights that two modules share share one copy."""
        self._places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        copies: dict[nn.Parameter, nn.Parameter] = {}
        for part in module.modules():
            for name, weight in part.named_parameters(recurse=False):
                if not weight.is_floating_point():
                    continue
                if weight not in copies:
                    copies[weight] = self._copy(weight, dtype)
                self._places.append((part, name, weight, copies[weight]))
        self._copies = copies

    @property
    def pairs(self) -> Iterable[tuple[nn.Parameter, nn.Parameter]]:
        """Return each weight with its copy."""
        return self._copies.items()

    def _copy(self, weight: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
        """Return a weight's copy, whose gradient is added to that of the weight as soon as it is
        known."""
        copy = nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad)

        def add(copy: Tensor) -> None:
            """Add the copy's gradient to the weight's, and free it."""
            gradient = copy.grad
            assert gradient is not None
            if weight.grad is None:
                weight.grad = gradient.to(weight.dtype)
            else:
                weight.grad.add_(gradient)
            copy.grad = None

        if weight.requires_grad:
            copy.register_post_accumulate_grad_hook(add)
        return copy

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the copies, of the weights as they are now, in the module within this context, which
        must span forward and backward passes."""
        self._refresh()
        for part, name, _, copy in self._places:
            part._parameters[name] = copy
        try:
            yield
        finally:
            for part, name, weight, _ in self._places:
                part._parameters[name] = weight

    @torch.no_grad()
    def _refresh(self) -> None:
        """Round the weights anew, whether they have changed or not: a fused optimizer's update
        leaves no trace that could be asked for."""
        torch._foreach_copy_(list(self._copies.values()), list(self._copies))
