"""This module holds a module's optimizers: Muon for the layers' matrices, AdamW for embeddings and
vectors. It knows no objective.

PyTorch's own Muon takes matrices one by one and iterates in bfloat16: right on a GPU, but a hundred
times slower than float32 on a CPU without bfloat16 instructions. This one takes all matrices of one
shape at once, experts' too, and iterates in bfloat16 on a GPU and in the weights' own dtype on a
CPU; tests compare it with PyTorch's.
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


def orthogonalise(matrices: Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> Tensor:
    """Return matrices [N, R, C] with all singular values brought near 1 (between about 0.7 and 1.2)
    by Newton–Schulz iterations in a dtype (None: the matrices' own)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)).to(dtype or matrices.dtype)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return (x.transpose(1, 2) if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon updates matrices by their orthogonalised Nesterov momentum.

    Updates are scaled to the size of AdamW's, so that one learning rate serves both (Liu et al.
    2025, arXiv 2502.16982).
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        """Take matrices [R, C], experts' matrices [E, R, C] and kernels of convolutions
        [C, D, H, W]."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: None = None, skip: Tensor | None = None
    ) -> None:
        """Update all matrices; where `skip` [] is true, change neither weights nor momentum."""
        for group in self.param_groups:
            # matrices are stacked, and only shards of one mesh and cut can be
            stacks: dict[Any, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    cut = (p.device_mesh, p.placements) if isinstance(p, DTensor) else None
                    stacks.setdefault((p.shape, cut), []).append(p)
            for (shape, _), params in stacks.items():
                sides = (shape[0], math.prod(shape[1:])) if len(shape) == 4 else shape[-2:]
                scale = group["lr"] * 0.2 * math.sqrt(max(sides))
                self._update(params, group, scale, skip)

    def _update(
        self, params: list[nn.Parameter], group: dict[str, Any], scale: float, skip: Tensor | None
    ) -> None:
        """Update the parameters of one shape and cut together: momentum, orthogonalised update
        times `scale`, weight decay; where `skip` [] is true, nothing changes."""
        nesterov = []
        for p in params:
            gradient, state = p.grad, self.state[p]
            assert gradient is not None
            if not state:
                state["momentum"] = torch.zeros_like(p)
            momentum: Tensor = state["momentum"]
            new_momentum = momentum.lerp(gradient, 1 - group["momentum"])
            if skip is not None:
                new_momentum = torch.where(skip, momentum, new_momentum)
            momentum.copy_(new_momentum)
            nesterov.append(gradient.lerp(momentum, group["momentum"]))
        stacked = torch.stack(nesterov)
        # experts [E, R, C] are matrices of their own; a kernel's row is all that one output sums
        matrices = stacked.flatten(2) if stacked.ndim == 5 else stacked.flatten(0, -3)
        dtype = torch.bfloat16 if stacked.device.type == "cuda" else None
        updates = orthogonalise(matrices, dtype=dtype).view_as(stacked)
        if isinstance(updates, DTensor) and isinstance(stacked, DTensor):
            # copies may have shared the matrices out among them
            updates = updates.redistribute(stacked.device_mesh, stacked.placements)
        decay = 1 - group["lr"] * group["weight_decay"]
        for p, update in zip(params, updates, strict=True):
            if skip is None:
                p.mul_(decay).add_(update, alpha=-scale)
            else:
                p.copy_(torch.where(skip, p, (p * decay).add(update, alpha=-scale)))


MAX_FUSED_SHARDS = 128
"""shards in one fused update: DTensor's dispatch grows with the square of their number, 10 s for
the 1,015 of A.X K1"""


def _fused_groups(params: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return parameters in groups of one mesh each, since no fused kernel takes shards of
    several."""
    by_mesh: dict[Any, list[nn.Parameter]] = {}
    for p in params:
        by_mesh.setdefault(p.device_mesh if isinstance(p, DTensor) else None, []).append(p)
    groups = []
    for mesh, same_mesh in by_mesh.items():
        size = MAX_FUSED_SHARDS if mesh else len(same_mesh)
        groups += [same_mesh[k : k + size] for k in range(0, len(same_mesh), size)]
    return groups


def _is_layer_matrix(name: str, p: nn.Parameter) -> bool:
    """Return whether a parameter is a matrix of a layer, its experts' matrices [E, R, C] or a
    convolution's kernels [C, D, H, W], and so Muon's; embeddings and the head are not."""
    if p.ndim == 4:
        return True
    if p.ndim == 3:
        return "experts" in name
    return p.ndim == 2 and "embed" not in name and "lm_head" not in name


def moments(name: str, p: nn.Parameter, muon: bool) -> int:
    """Return how many tensors as large as a parameter its optimizer keeps."""
    return 1 if muon and _is_layer_matrix(name, p) else 2


class Optimizers:
    """An Optimizers steps Muon and AdamW together, each on its kind of parameter."""

    def __init__(
        self,
        module: nn.Module,
        muon: bool,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        """Divide a module's trainable parameters among the optimizers; without `muon`, AdamW takes
        all."""
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        muon_params = [p for n, p in named if _is_layer_matrix(n, p)] if muon else []
        muon_ids = {id(p) for p in muon_params}
        matrices = [p for _, p in named if p.ndim >= 2 and id(p) not in muon_ids]
        vectors = [p for _, p in named if p.ndim < 2]
        groups = []
        for params, decay in ((matrices, weight_decay), (vectors, 0.0)):
            groups += [{"params": group, "weight_decay": decay} for group in _fused_groups(params)]
        # one kernel that reads and writes each tensor once (five times as fast on a CPU), a step
        # count that is never read back to the host, and updates that can skip; not for shapes alone
        self.fused = all(p.device.type != "meta" for _, p in named) or None
        self.each: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=self.fused)
        ]
        if muon_params:
            self.each.append(Muon(muon_params, lr=learning_rate, weight_decay=weight_decay))

    @property
    def divides(self) -> bool:
        """Return whether `step` can divide the gradients, which AdamW's fused kernel does."""
        return bool(self.fused) and all(isinstance(each, torch.optim.AdamW) for each in self.each)

    def step(self, lr: float, skip: Tensor | None = None, divisor: Tensor | None = None) -> None:
        """Update all weights at a learning rate with the gradients over `divisor` []; where `skip`
        [] is true, update none.

        The host does not wait for their values.
        """
        for optimizer in self.each:
            for group in optimizer.param_groups:
                group["lr"] = lr
            if isinstance(optimizer, Muon):
                optimizer.step(skip=skip)
                continue
            # how torch.amp.GradScaler tells a fused optimizer to leave an update out
            fused: Any = optimizer
            fused.grad_scale = divisor
            fused.found_inf = skip.float() if skip is not None else None
            fused.step()

    def state_tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """Return every tensor of the optimizers' state by "parameter's name/tensor's name".

        They are the tensors that `step` updates; before the first step they are made, as zeros. A
        checkpoint is loaded by writing to them. Settings are not state: they follow from the run's
        config.
        """
        names = {p: name for name, p in module.named_parameters()}
        tensors: dict[str, Tensor] = {}
        for optimizer in self.each:
            for group in optimizer.param_groups:
                for p in group["params"]:
                    state = optimizer.state[p]
                    if not state:
                        state.update(self._empty_state(optimizer, p))
                    tensors |= {f"{names[p]}/{key}": value for key, value in state.items()}
        return tensors

    def _empty_state(self, optimizer: torch.optim.Optimizer, p: nn.Parameter) -> dict[str, Tensor]:
        """Return a parameter's state before its first step, as its optimizer would make it."""
        if isinstance(optimizer, Muon):
            return {"momentum": torch.zeros_like(p)}
        step = torch.zeros((), device=p.device if self.fused else None)
        return {
            "step": step,
            "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
        }
