"""Optimizers for a module: orthogonalised momentum for the matrices inside, AdamW for embeddings and vectors. Knows no task.

PyTorch has a Muon of its own, which iterates in bfloat16: right on a GPU, and on a CPU without such instructions a
hundred times slower than float32. Ours iterates in float32, all matrices of a shape at once; a test holds it against
PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Newton–Schulz coefficients (Jordan et al. 2024, "Muon")"""


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices [N, R, C] with all singular values brought near 1 (between about 0.7 and 1.2)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.transpose(1, 2) if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, at the size of AdamW's updates, so that one learning rate serves both (Liu et al.
    2025, arXiv 2502.16982)."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                self._update(params, group, group["lr"] * 0.2 * math.sqrt(max(shape[-2:])))

    def _update(self, params: list[nn.Parameter], group: dict[str, Any], size: float) -> None:
        """One step of parameters of one shape."""
        ahead = []
        for p in params:
            gradient, state = p.grad, self.state[p]
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(p)
            momentum: Tensor = state["momentum"].lerp_(gradient, 1 - group["momentum"])
            ahead.append(gradient.lerp(momentum, group["momentum"]))
        matrices = torch.stack(ahead)
        updates = orthogonalise(matrices.flatten(0, -3)).view_as(matrices)  # an expert is a matrix of its own
        for p, update in zip(params, updates, strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)


_TOGETHER = 128
"""shards in one fused update: what DTensor does before it grows with their square, 10 s for the 1,015 of A.X K1"""


def _by_mesh(params: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters whose shards lie on the same mesh together: no kernel takes several."""
    parts: dict[Any, list[nn.Parameter]] = {}
    for p in params:
        parts.setdefault(p.device_mesh if isinstance(p, DTensor) else None, []).append(p)
    return [same[k:k + _TOGETHER] if mesh else same for mesh, same in parts.items()
            for k in range(0, len(same), _TOGETHER if mesh else len(same))]


def _inner(name: str, p: nn.Parameter) -> bool:
    """Whether a weight is a matrix inside, or several: an embedding is not, a layer's experts are."""
    return (p.ndim == 2 and "embed" not in name and "lm_head" not in name) or (p.ndim == 3 and "experts" in name)


class Optimizers:
    """One optimizer for every kind of weight, stepped together."""

    def __init__(self, module: nn.Module, muon: bool, learning_rate: float, weight_decay: float,
                 betas: tuple[float, float]) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        inner = [p for n, p in named if _inner(n, p)] if muon else []
        taken = {id(p) for p in inner}
        matrices = [p for _, p in named if p.ndim >= 2 and id(p) not in taken]
        vectors = [p for _, p in named if p.ndim < 2]
        groups = [{"params": same, "weight_decay": decay} for params, decay in ((matrices, weight_decay), (vectors, 0.0))
                  for same in _by_mesh(params)]
        # fused where sharded: one kernel a group, and a step count that is never read back
        sharded = any(isinstance(p, DTensor) for _, p in named) or None
        self.each: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=sharded)]
        if inner:
            self.each.append(Muon(inner, lr=learning_rate, weight_decay=weight_decay))

    def step(self, rate: float) -> None:
        for optimizer in self.each:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(k): o.state_dict() for k, o in enumerate(self.each)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for k, optimizer in enumerate(self.each):
            optimizer.load_state_dict(state[str(k)])
