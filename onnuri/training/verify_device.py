"""This module proves that what makes a step fast on a device leaves it right: 16-bit products,
packed attention's kernel, compiled layers and recomputation against the same step in 32 bits.

`verify.py` compares layouts in 64 bits, where a fault cannot hide in rounding. Here rounding is
what is measured, so tolerances are stated as relative norms over all weights. The reference
computes each sequence alone, without FSDP, compiler or recomputation. The module knows no recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onnuri.config import Config
from onnuri.data.pack import PackedRow
from onnuri.inference.device import find
from onnuri.model.backbone import embedding
from onnuri.model.objective import RowObjective
from onnuri.parallel.apply import experts_of
from onnuri.parallel.model import ParallelModel
from onnuri.parallel.whole import gather
from onnuri.planner.parallel import ParallelConfig, Recompute
from onnuri.training.optim import Optimizers
from onnuri.training.step import update_weights
from onnuri.training.verify import Build, RandomRows, sequences

TOKENS, ROWS = 512, 4
"""ids per row, and rows of the step that is compared"""
EXACT, ROUNDED = 1e-4, 2e-2
"""largest relative difference of the loss and of all gradients in 32 bits and in bf16: of one
rounding bf16 makes 4e-3, and a gradient sums those of all its layers"""
ROUTED = 0.3
"""largest relative difference of all gradients of a mixture in bf16: a token near a tie goes to
another expert, whose gradient is another"""
LOSS = 2e-3
"""largest relative difference of the loss in bf16"""
LEARNED, LEARNING_RATE = 1e-2, 3e-3
"""largest relative difference of the loss after an update at this rate, which moves it by far more;
AdamW's first update is the gradient's sign, which rounding turns where a gradient is nearly zero"""


class Mode(NamedTuple):
    """A Mode is one way to compute a step on a device."""

    name: str
    dtype: torch.dtype | None
    compiled: bool = False
    recompute: Recompute = "none"
    offload: bool = False


MODES = (
    Mode("float32", None),
    Mode("bf16", torch.bfloat16),
    Mode("bf16, recompute=selective", torch.bfloat16, recompute="selective"),
    Mode("bf16, recompute=full", torch.bfloat16, recompute="full"),
    Mode("bf16, offload", torch.bfloat16, offload=True),
    Mode("bf16, compiled", torch.bfloat16, True),
    Mode("bf16, compiled, recompute=full", torch.bfloat16, True, "full"),
)


class DeviceDifference(Config):
    """A DeviceDifference holds how far one mode's step is from the reference; relative."""

    mode: str
    loss: float
    gradients: float
    """norm of the difference of all gradients over the norm of all"""
    worst: float
    """the same of the parameter whose gradient differs most"""
    worst_name: str
    learned: float
    """of the loss of the same rows after one update of the optimizer: weights that an update does
    not reach show here"""
    allowed_loss: float
    allowed_gradients: float

    @property
    def passes(self) -> bool:
        """Return whether all are within what is allowed; a value that is no number is not."""
        return (
            self.loss <= self.allowed_loss
            and self.learned <= LEARNED
            and self.gradients <= self.allowed_gradients
        )


def verify_on_device(
    build: Build,
    device: str,
    modes: tuple[Mode, ...] = MODES,
    report: Callable[[DeviceDifference], None] | None = None,
) -> list[DeviceDifference]:
    """Return how far each mode's step of a model is from the reference on a device; `report` is
    called with each.

    Raises ConfigError where torch has no such device.
    """
    find(device)
    expected = _reference(build, device)
    found = []
    with _only_rank(device):
        for mode in modes:
            difference = _compare(mode, _step(build, device, mode), expected)
            found.append(difference)
            if report:
                report(difference)
    return found


class _Step(NamedTuple):
    """What one step of a model gave."""

    loss: Tensor
    gradients: dict[str, Tensor]
    learned: Tensor
    """loss [] of the same rows after an update"""
    mixture: bool


def _reference(build: Build, device: str) -> _Step:
    """Return the step in 32 bits, each sequence alone."""
    network = _network(build, device)
    objective = RowObjective(network, RandomRows(len(embedding(network)), TOKENS))
    model = ParallelModel(network, objective.loss)
    rows = [objective.batch(k) for k in range(ROWS)]
    total = model.total_weight([objective.weight(row) for row in rows])
    # a mixture's auxiliary loss is a mean over a row's tokens, so its rows stay whole
    parts = rows if experts_of(network.config) else [s for row in rows for s in sequences(row)]
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    found = _learn(objective, model, parts, total)
    torch.set_float32_matmul_precision(precision)
    return found


def _step(build: Build, device: str, mode: Mode) -> _Step:
    """Return the step in a mode, by the code that trains."""
    torch._dynamo.reset()
    network = _network(build, device)
    objective = RowObjective(network, RandomRows(len(embedding(network)), TOKENS))
    layout = ParallelConfig(recompute=mode.recompute, offload=mode.offload)
    model = ParallelModel(network, objective.loss, layout, mode.dtype, mode.compiled)
    rows = [objective.batch(k) for k in range(ROWS)]
    total = model.total_weight([objective.weight(row) for row in rows])
    return _learn(objective, model, rows, total)


def _network(build: Build, device: str) -> nn.Module:
    """Return the model with its first weights, in 32 bits on a device, in training mode."""
    torch.manual_seed(0)
    return cast(nn.Module, build().float().to(device).train())


def _learn(
    objective: RowObjective, model: ParallelModel, rows: list[PackedRow], total: Tensor | float
) -> _Step:
    """Return what one step of a model gives: loss, gradients, and the loss after an update."""
    network = objective.module
    loss = _loss(objective, model, rows, total)
    gradients = {
        name: gather(p.grad).detach().double().cpu()
        for name, p in network.named_parameters()
        if p.grad is not None
    }
    optimizer = Optimizers(network, False, LEARNING_RATE, 0.0, (0.9, 0.95))
    update_weights(model.root, optimizer, LEARNING_RATE, clip=math.inf)
    learned = _loss(objective, model, rows, total)
    return _Step(loss, gradients, learned, experts_of(network.config) > 0)


def _loss(
    objective: RowObjective, model: ParallelModel, rows: list[PackedRow], total: Tensor | float
) -> Tensor:
    """Return the loss [] of rows, on the host, and leave its gradients in the model."""
    with objective.watching():
        losses = [model.forward_backward(row, total)[0].sum.double() for row in rows]
    return torch.stack(losses).sum().cpu()


def _compare(mode: Mode, found: _Step, expected: _Step) -> DeviceDifference:
    """Return the difference of a mode's step from the reference."""
    loss, learned = (
        float((one - other).abs() / other.abs())
        for one, other in ((found.loss, expected.loss), (found.learned, expected.learned))
    )
    squares, total, worst, worst_name = 0.0, 0.0, 0.0, ""
    for name, gradient in expected.gradients.items():
        other = found.gradients.get(name)
        difference = math.inf if other is None else float((other - gradient).norm())
        if math.isnan(difference):
            difference = math.inf
        size = float(gradient.norm())
        squares, total = squares + difference**2, total + size**2
        share = difference / size if size else 0.0
        if share > worst:
            worst, worst_name = share, name
    rounded = mode.dtype is not None
    return DeviceDifference(
        mode=mode.name,
        loss=loss,
        gradients=math.sqrt(squares / total),
        worst=worst,
        worst_name=worst_name,
        learned=learned,
        allowed_loss=LOSS if rounded else EXACT,
        allowed_gradients=(ROUTED if expected.mixture else ROUNDED) if rounded else EXACT,
    )


@contextmanager
def _only_rank(device: str) -> Iterator[None]:
    """Make this process the only rank, unless it is a rank already."""
    if dist.is_initialized():
        yield
        return
    store = dist.HashStore()
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo", store=store, rank=0, world_size=1
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
