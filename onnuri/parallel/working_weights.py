"""This module trains with copies of the weights on one rank: matrix products read 16-bit copies,
and gradients, optimizer and checkpoints keep the weights themselves, in 32 bits, beside them or,
offloaded, in the host's memory.

FSDP does the same for shards, but copies every weight five times per step, which on one rank
shares nothing: 6 % of a dense step's time and 16 % of a mixture's
(benchmarks/results/gpu_fsdp.json). Here a weight is rounded once per micro-batch and a gradient
widened once. The module knows no layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WorkingWeights:
    """WorkingWeights holds a copy of a module's floating-point weights, in another dtype or on
    another device, which stands in their place while a step's loss and gradients are computed."""

    def __init__(
        self, module: nn.Module, dtype: torch.dtype | None, device: torch.device | None = None
    ) -> None:
        """Copy the weights of a module to a dtype and a device (None: their own). Weights that two
        modules share share one copy."""
        self._places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        copies: dict[nn.Parameter, nn.Parameter] = {}
        self._link: _HostLink | None = None
        if device and device.type != next(module.parameters()).device.type:
            self._link = _HostLink(device)
        for part in module.modules():
            for name, weight in part.named_parameters(recurse=False):
                if not weight.is_floating_point():
                    continue
                if weight not in copies:
                    copies[weight] = self._copy(weight, dtype, device)
                self._places.append((part, name, weight, copies[weight]))
        self._copies = copies

    @property
    def pairs(self) -> Iterable[tuple[nn.Parameter, nn.Parameter]]:
        """Return each weight with its copy."""
        return self._copies.items()

    def _copy(
        self, weight: nn.Parameter, dtype: torch.dtype | None, device: torch.device | None
    ) -> nn.Parameter:
        """Return a weight's copy, whose gradient is added to that of the weight as soon as it is
        known."""
        values = weight.detach().to(device or weight.device, dtype or weight.dtype, copy=True)
        copy = nn.Parameter(values, requires_grad=weight.requires_grad)

        def add(copy: Tensor) -> None:
            """Add the copy's gradient to the weight's, and free it."""
            gradient, copy.grad = copy.grad, None
            assert gradient is not None
            if self._link:
                self._link.send(weight, gradient)
            elif weight.grad is None:
                weight.grad = gradient.to(weight.dtype)
            else:
                weight.grad.add_(gradient)

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
            if self._link:
                self._link.receive()

    @torch.no_grad()
    def _refresh(self) -> None:
        """Round the weights anew, whether they have changed or not: a fused optimizer's update
        leaves no trace that could be asked for."""
        if self._link:
            for weight, copy in self._copies.items():
                self._link.load(weight, copy)
        else:
            torch._foreach_copy_(list(self._copies.values()), list(self._copies))


class _HostLink:
    """A _HostLink moves weights from the host's memory to a GPU and gradients back, through pinned
    memory in the GPU's dtype, while the GPU computes."""

    def __init__(self, device: torch.device) -> None:
        """Copy to and from a GPU."""
        self._stream = torch.cuda.Stream(device)
        self._pinned: dict[nn.Parameter, Tensor] = {}
        """memory of the host that a weight's copy passes through, and its gradient on its way
        back"""
        self._sent: list[nn.Parameter] = []
        self._gradients: dict[nn.Parameter, Tensor] = {}
        """memory of gradients, kept over steps, since the system clears every new page"""

    @torch.no_grad()
    def load(self, weight: nn.Parameter, copy: nn.Parameter) -> None:
        """Set a copy on the GPU to a weight's values, without waiting for the GPU."""
        if weight not in self._pinned:
            self._pinned[weight] = torch.empty_like(copy, device="cpu", pin_memory=True)
        pinned = self._pinned[weight]
        pinned.copy_(weight)
        copy.copy_(pinned, non_blocking=True)

    def send(self, weight: nn.Parameter, gradient: Tensor) -> None:
        """Begin to move a gradient to the host."""
        self._stream.wait_stream(torch.cuda.current_stream(gradient.device))
        with torch.cuda.stream(self._stream):
            self._pinned[weight].copy_(gradient, non_blocking=True)
        gradient.record_stream(self._stream)  # its memory is used again only after the copy
        self._sent.append(weight)

    @torch.no_grad()
    def receive(self) -> None:
        """Wait for all that is on its way, and add the gradients to their weights'."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._stream.synchronize()
        for weight in self._sent:
            if weight.grad is None:
                if weight not in self._gradients:
                    self._gradients[weight] = torch.empty_like(weight)
                weight.grad = self._gradients[weight].copy_(self._pinned[weight])
            else:
                weight.grad.add_(self._pinned[weight])
        self._sent.clear()
