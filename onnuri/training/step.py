"""One step of the optimizer: the same code on a laptop, over many ranks, and in a trace on a CPU.

Knows no task and no layout: it sees parameters, whole or sharded, and a loss. On a GPU it never
waits for a value: a step whose gradients are not finite is left out by the kernels themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor

from onnuri.model.loss import LossParts
from onnuri.training.optim import Optimizers


class ModelWithLoss(nn.Module):
    """A network with its loss inside: while the outermost sharded module runs, its weights are
    whole, the head's too."""

    def __init__(self, network: nn.Module, loss: Callable[[nn.Module, Any], LossParts]) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, batch: Any) -> LossParts:
        return self._loss(self.network, batch)


def total_weight(
    weights: Sequence[Tensor | float], group: dist.ProcessGroup | None = None
) -> Tensor | float:
    """Return the weight of a step's targets [], of all its micro-batches and of all data ranks of a
    group together.

    Where weights are numbers they are every rank's, and nobody is asked.
    """
    total = sum(weights[1:], start=weights[0])
    if group is None:
        return total
    if isinstance(total, Tensor):
        total = total.clone()
        dist.all_reduce(total, group=group)
        return total
    return total * dist.get_world_size(group)


def backward(loss: LossParts, total: Tensor | float) -> None:
    """Add the gradients of one micro-batch's loss, `total` being the weight of the step's
    targets."""
    (loss.sum / total).backward()


def backward_and_step(
    module: nn.Module,
    loss: LossParts,
    optimizer: Optimizers,
    rate: float,
    clip: float,
    total: Tensor | float,
) -> Tensor:
    """Do the last micro-batch's backward pass, clip, and update. Return the norm of all gradients
    before clipping [].

    `total`: weight of the step's targets, of all micro-batches and data ranks; gradients are summed
    over both. Gradients that are not finite change nothing: one bad batch must not cost the run.
    """
    backward(loss, total)
    found = gradient_norm(module.parameters())
    clip_gradients(module.parameters(), found, clip)
    if isinstance(found, FakeTensor):  # a trace has no values to look at
        optimizer.step(rate)
    elif found.device.type != "cpu":
        optimizer.step(rate, skip=~torch.isfinite(found))
    elif torch.isfinite(found):
        optimizer.step(rate)
    module.zero_grad(set_to_none=True)
    return found


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Of all gradients together []. PyTorch's own does not mix meshes, and reduces once a
    parameter: this once a mesh."""
    parts: dict[Any, list[Tensor]] = {}
    for gradient in (p.grad for p in parameters if p.grad is not None):
        where = None
        if isinstance(gradient, DTensor):
            axes = tuple(k for k, cut in enumerate(gradient.placements) if not cut.is_replicate())
            where, gradient = (gradient.device_mesh, axes), gradient.to_local()
        parts.setdefault(where, []).append(gradient)
    norms = [_over(nn.utils.get_total_norm(local), where) for where, local in parts.items()]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def _over(local: Tensor, where: Any) -> Tensor:
    """The norm of what the ranks along some axes of a mesh hold together."""
    if where is None:
        return local
    mesh, axes = where
    square = local.square()
    for axis in (k for k in axes if mesh.size(k) > 1):
        dist.all_reduce(square, group=mesh.get_group(axis))
    return square.sqrt()


def clip_gradients(parameters: Iterable[nn.Parameter], found: Tensor, most: float) -> None:
    """Scale gradients in place so that their norm, `found`, is at most `most`, as `clip_grad_norm_`
    does."""
    gradients = [
        p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
        for p in parameters
        if p.grad is not None
    ]
    torch._foreach_mul_(gradients, (most / (found + 1e-6)).clamp(max=1.0))
