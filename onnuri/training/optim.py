"""Optimizers for a module: orthogonalised momentum for the matrices inside, AdamW for embeddings
and vectors. Knows no task.

PyTorch has a Muon of its own, which iterates in bfloat16: right on a GPU, and on a CPU without such
instructions a hundred times slower than float32. Ours iterates in float32, all matrices of a shape
at once; a test holds it against PyTorch's.
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
    """Nesterov momentum, orthogonalised, at the size of AdamW's updates, so that one learning rate
    serves both (Liu et al. 2025, arXiv 2502.16982)."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None, skip: Tensor | None = None) -> None:  # type: ignore[override]
        """Update all matrices; where `skip` [] is true, leave everything as it is."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                self._update(params, group, group["lr"] * 0.2 * math.sqrt(max(shape[-2:])), skip)

    def _update(
        self, params: list[nn.Parameter], group: dict[str, Any], size: float, skip: Tensor | None
    ) -> None:
        """One step of parameters of one shape."""
        ahead = []
        for p in params:
            gradient, state = p.grad, self.state[p]
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(p)
            momentum: Tensor = state["momentum"]
            if skip is None:
                momentum.lerp_(gradient, 1 - group["momentum"])
            else:
                momentum.copy_(
                    torch.where(skip, momentum, momentum.lerp(gradient, 1 - group["momentum"]))
                )
            ahead.append(gradient.lerp(momentum, group["momentum"]))
        matrices = torch.stack(ahead)
        updates = orthogonalise(matrices.flatten(0, -3)).view_as(
            matrices
        )  # an expert is a matrix of its own
        kept = 1 - group["lr"] * group["weight_decay"]
        for p, update in zip(params, updates, strict=True):
            if skip is None:
                p.mul_(kept).add_(update, alpha=-size)
            else:
                p.copy_(torch.where(skip, p, (p * kept).add(update, alpha=-size)))


_TOGETHER = 128
"""shards in one fused update: what DTensor does before it grows with their square, 10 s for the
1,015 of A.X K1"""


def _by_mesh(params: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters whose shards lie on the same mesh together: no kernel takes several."""
    parts: dict[Any, list[nn.Parameter]] = {}
    for p in params:
        parts.setdefault(p.device_mesh if isinstance(p, DTensor) else None, []).append(p)
    return [
        same[k : k + _TOGETHER] if mesh else same
        for mesh, same in parts.items()
        for k in range(0, len(same), _TOGETHER if mesh else len(same))
    ]


def _inner(name: str, p: nn.Parameter) -> bool:
    """Whether a weight is a matrix inside, or several: an embedding is not, a layer's experts
    are."""
    return (p.ndim == 2 and "embed" not in name and "lm_head" not in name) or (
        p.ndim == 3 and "experts" in name
    )


class Optimizers:
    """One optimizer for every kind of weight, stepped together."""

    def __init__(
        self,
        module: nn.Module,
        muon: bool,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        inner = [p for n, p in named if _inner(n, p)] if muon else []
        taken = {id(p) for p in inner}
        matrices = [p for _, p in named if p.ndim >= 2 and id(p) not in taken]
        vectors = [p for _, p in named if p.ndim < 2]
        groups = [
            {"params": same, "weight_decay": decay}
            for params, decay in ((matrices, weight_decay), (vectors, 0.0))
            for same in _by_mesh(params)
        ]
        # fused where sharded or on a GPU: one kernel per group, a step count that is never read
        # back, and updates that skip
        self.fused = (
            any(isinstance(p, DTensor) or p.device.type not in ("cpu", "meta") for _, p in named)
            or None
        )
        self.each: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=self.fused)
        ]
        if inner:
            self.each.append(Muon(inner, lr=learning_rate, weight_decay=weight_decay))

    def step(self, rate: float, skip: Tensor | None = None) -> None:
        """Update all weights at a learning rate; where `skip` [] is true, none, without anybody
        waiting for its value.

        `skip` needs fused kernels, as there are on a GPU and of shards.
        """
        for optimizer in self.each:
            for group in optimizer.param_groups:
                group["lr"] = rate
            if isinstance(optimizer, Muon):
                optimizer.step(skip=skip)
                continue
            # how torch.amp.GradScaler tells a fused optimizer to leave an update out
            optimizer.grad_scale = None  # type: ignore[attr-defined]
            optimizer.found_inf = skip.float() if skip is not None else None  # type: ignore[attr-defined]
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(k): o.state_dict() for k, o in enumerate(self.each)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state, of this machine or another: which kernels update is this one's
        choice, not the state's."""
        for k, optimizer in enumerate(self.each):
            saved = state[str(k)]
            if not isinstance(optimizer, Muon):
                saved = {
                    **saved,
                    "param_groups": [
                        {**group, "fused": self.fused} for group in saved["param_groups"]
                    ],
                }
            optimizer.load_state_dict(saved)
