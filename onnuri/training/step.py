"""This module ends a training step: gradient norm, clipping and the optimizer's update.

The same code runs on a laptop, over many ranks, and in a trace on a CPU. It knows no objective and
no layout: it sees parameters, whole or sharded. On a GPU it never waits for a value: the
optimizer's kernels themselves skip a step whose gradients are not finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor

from onnuri.training.optim import Optimizers

EPSILON = 1e-6
"""added to a norm before it divides, as `clip_grad_norm_` does"""


def update_weights(module: nn.Module, optimizer: Optimizers, lr: float, clip: float) -> Tensor:
    """Clip all gradients, update the weights and zero the gradients. Return the gradient norm []
    before clipping.

    Gradients that are not finite change nothing: one bad batch must not cost the run.
    """
    norm = gradient_norm(module.parameters())
    traced = isinstance(norm, FakeTensor)
    # the kernel takes a divisor of 32 bits, which would round gradients of 64
    if optimizer.divides and not traced and norm.dtype != torch.float64:
        # in the optimizer's own pass over the gradients, not in one before it
        divisor = ((norm + EPSILON) / clip).clamp(min=1.0).float()
        optimizer.step(lr, skip=~torch.isfinite(norm), divisor=divisor)
        module.zero_grad(set_to_none=True)
        return norm
    clip_gradients(module.parameters(), norm, clip)
    if traced:  # a trace has no values to look at
        optimizer.step(lr)
    elif norm.device.type != "cpu":
        optimizer.step(lr, skip=~torch.isfinite(norm))
    elif torch.isfinite(norm):
        optimizer.step(lr)
    module.zero_grad(set_to_none=True)
    return norm


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Return the norm [] of all gradients together, on every rank.

    PyTorch's own refuses gradients on different meshes and reduces once per parameter; this reduces
    once per mesh.
    """
    shards: dict[Any, list[Tensor]] = {}
    for gradient in (p.grad for p in parameters if p.grad is not None):
        mesh_axes = None
        if isinstance(gradient, DTensor):
            axes = tuple(k for k, cut in enumerate(gradient.placements) if not cut.is_replicate())
            mesh_axes, gradient = (gradient.device_mesh, axes), gradient.to_local()
        shards.setdefault(mesh_axes, []).append(gradient)
    # get_total_norm is one fused kernel per group; the squares are added over ranks afterwards
    norms = [_norm_over(axes, nn.utils.get_total_norm(local)) for axes, local in shards.items()]
    return norms[0] if len(norms) == 1 else torch.stack(norms).norm()


def _norm_over(mesh_axes: Any, local: Tensor) -> Tensor:
    """Return the norm [] of gradients that are sharded along a mesh's axes, from a rank's own."""
    if mesh_axes is None:
        return local
    mesh, axes = mesh_axes
    square = local.square().to(mesh.device_type)  # offloaded gradients are on the host
    for axis in (k for k in axes if mesh.size(k) > 1):
        dist.all_reduce(square, group=mesh.get_group(axis))
    return square.sqrt().to(local.device)


def clip_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, max_norm: float) -> None:
    """Scale gradients of a given norm [] in place to at most `max_norm`, as `clip_grad_norm_`
    does."""
    gradients = [
        p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
        for p in parameters
        if p.grad is not None
    ]
    # no branch on the norm, whose value the host would have to wait for
    torch._foreach_mul_(gradients, (max_norm / (norm + EPSILON)).clamp(max=1.0))
