"""One training loop for codecs and model. Knows no medium: a task gives batches and a loss.

A batch is a pure function of the step and the random numbers of a step follow from it, so a run
that was interrupted at any moment ends, with a budget of steps, in exactly the weights of one that
was not. A budget of minutes counts the time spent training only, over all its sittings.

    out/metrics.jsonl     one line every `log_every` steps: step, seconds, lr, grad_norm, loss and the task's metrics
    out/checkpoint.pt     written every `checkpoint_seconds` and at an interrupt, whole or not at all
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from onnuri.config import Config
from onnuri.model.loss import LossParts
from onnuri.training.checkpoint import restore, store
from onnuri.training.metrics import MetricsLog, ProgressBar
from onnuri.training.optim import Optimizers
from onnuri.training.step import backward, backward_and_step, total_weight

Figures = Mapping[str, Tensor | float | LossParts]
"""of a batch, for the log"""


class Objective(Protocol):
    """What is trained: a module, its batches and their loss."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""

    def batch(self, step: int) -> Any:
        """Return a batch: a pure function of the step, or of the micro-batch's number, counted
        through all steps."""

    def loss(self, batch: Any) -> tuple[Tensor | LossParts, Figures]:
        """Return the loss and figures for the log: a mean [], which weighs the same for every
        batch, or its sum and weight."""


@runtime_checkable
class HasWeight(Protocol):
    """A task whose batches weigh differently."""

    def weight(self, batch: Any) -> Tensor | float:
        """Return the weight of a batch in a step of several []."""


@runtime_checkable
class CountsLoads(Protocol):
    """A task that counts something in a step and applies it after the optimizer."""

    def watching(self) -> AbstractContextManager[None]:
        """Count while this lasts: through the step's forward and backward passes."""

    def after_step(self, norm: Tensor) -> None:
        """Apply what was counted, unless the norm of all gradients [] is not finite and the
        optimizer left the step out."""


class TrainConfig(Config):
    """How long and how fast. Exactly one of `steps` and `minutes` is the budget."""

    steps: int | None = None
    minutes: float | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the matrices inside (Jordan et al. 2024), AdamW for
    embeddings and vectors"""
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    """so that runs of different budgets are one and the same until the shorter one's rate decays"""
    decay: float = 0.3
    """share of the budget at whose end the rate reaches zero: warm-up, stable, decay (Hu et al.
    2024, MiniCPM)"""
    weight_decay: float = 0.05
    """on matrices only"""
    betas: tuple[float, float] = (0.9, 0.95)
    micro_batches: int = 1
    """batches of a step, whose gradients are added: their sum is that of one batch of all"""
    clip: float = 1.0
    """largest norm of all gradients together"""
    seed: int = 0
    log_every: int = 20
    """steps"""
    checkpoint_seconds: float = 120.0


def lr_at(step: int, progress: float, config: TrainConfig) -> float:
    """Learning rate of a step at a share of the budget in [0, 1]: warm-up, stable, decay by 1 -
    sqrt (Hägele et al. 2024)."""
    left = (progress - (1 - config.decay)) / config.decay if config.decay else 0.0
    return (
        config.learning_rate
        * min((step + 1) / (config.warmup_steps + 1), 1.0)
        * (1 - math.sqrt(min(max(left, 0.0), 1.0)))
    )


def fit(task: Objective, config: TrainConfig, out: Path, name: str = "training") -> None:
    """Train until the budget is spent, going on from `out` where it was left. Raises
    KeyboardInterrupt when stopped."""
    out.mkdir(parents=True, exist_ok=True)
    task.module.train()
    optimizer = Optimizers(
        task.module,
        config.optimizer == "muon",
        config.learning_rate,
        config.weight_decay,
        config.betas,
    )
    step, spent = restore(out / "checkpoint.pt", task.module, optimizer)
    metrics, saved = MetricsLog(out / "metrics.jsonl", step), time.perf_counter()
    with _asked_to_stop() as stop, ProgressBar(name) as progress:
        while not stop and (done := progress_share(config, step, spent)) < 1:
            began = time.perf_counter()
            figures = _step(task, optimizer, config, step, lr_at(step, done, config))
            if (step + 1) % config.log_every == 0:
                float(
                    figures["grad_norm"]
                )  # a device's work counts as training: waited for here, not where it is logged
            took = time.perf_counter() - began
            step, spent = step + 1, spent + took
            metrics.add(took, figures)
            if step % config.log_every == 0:
                metrics.write(step=step, seconds=round(spent, 3))
            shown = (
                step % config.log_every == 0 or not progress.shown
            )  # to ask for a value is to wait for it
            progress.show(
                progress_share(config, step, spent),
                spent,
                step,
                float(figures["loss"]) if shown else None,
            )
            if time.perf_counter() - saved > config.checkpoint_seconds:
                store(out / "checkpoint.pt", task.module, optimizer, step, spent)
                saved = time.perf_counter()
        store(out / "checkpoint.pt", task.module, optimizer, step, spent)
    if stop:  # only here, so that it is heeded whenever it was asked for
        raise KeyboardInterrupt
    task.module.eval()


def progress_share(config: TrainConfig, step: int, spent: float) -> float:
    """Share of the budget that is spent, 0 to 1."""
    return step / config.steps if config.steps else spent / 60 / (config.minutes or 1e-9)


def _step(
    task: Objective, optimizer: Optimizers, config: TrainConfig, step: int, lr: float
) -> dict[str, Tensor | float]:
    """Do one step of the optimizer over its micro-batches; return figures for the log, on the
    device that they are on."""
    first = step * config.micro_batches
    batches = [task.batch(first + k) for k in range(config.micro_batches)]
    total = total_weight(
        [task.weight(batch) if isinstance(task, HasWeight) else 1.0 for batch in batches]
    )
    every: list[Figures] = []
    sums: list[Tensor] = []
    with task.watching() if isinstance(task, CountsLoads) else nullcontext():
        for k, batch in enumerate(batches):
            torch.manual_seed(config.seed * 1_000_003 + first + k)
            loss, figures = task.loss(batch)
            parts = loss if isinstance(loss, LossParts) else LossParts(loss, 1.0)
            every.append(figures)
            sums.append(parts.sum.detach())
            if k < len(batches) - 1:
                backward(parts, total)
        norm = backward_and_step(task.module, parts, optimizer, lr, config.clip, total)
    if isinstance(task, CountsLoads):
        task.after_step(norm)
    return {
        "lr": lr,
        "grad_norm": norm,
        "loss": sum(sums[1:], start=sums[0]) / total,
        **_means(every),
    }


def _means(every: list[Figures]) -> dict[str, Tensor | float]:
    """Return the means of what micro-batches told, each over those that told it; sums and weights,
    and tokens, are added."""
    told: dict[str, list[Any]] = {}
    for figures in every:
        for name, value in figures.items():
            told.setdefault(name, []).append(value)
    means: dict[str, Tensor | float] = {}
    for name, values in told.items():
        if isinstance(values[0], LossParts):
            means[name] = sum(v.sum for v in values) / sum(v.weight for v in values)
        else:
            means[name] = sum(values) / (1 if name == "tokens" else len(values))
    return means


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM arrives, so that a step is finished and stored
    first."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def read_metrics(out: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics."""
    return [
        json.loads(line)
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
