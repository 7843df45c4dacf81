"""This module is the training loop of codecs and language models. It knows no modality: an
objective gives batches and a loss.

A batch is a pure function of the step, and so is the random seed of a step. A run with a budget of
steps therefore ends in the same weights whether it was interrupted or not. A budget of minutes
counts only time spent in training steps, summed over all sittings.

    out/metrics.jsonl     one line per `log_every` steps: step, seconds, lr, grad_norm, loss and the
                          objective's own figures
    out/checkpoint.pt     written atomically every `checkpoint_seconds` and at an interrupt
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
"""figures of one batch for the log, by name"""


class Objective(Protocol):
    """An objective holds the module that is trained, its batches and their loss."""

    @property
    def module(self) -> nn.Module:
        """Return the module whose parameters are trained and stored."""

    def batch(self, step: int) -> Any:
        """Return micro-batch number `step`, counted from the start of training; the number alone
        determines the result."""

    def loss(self, batch: Any) -> tuple[Tensor | LossParts, Figures]:
        """Return the loss of a batch and figures for the log.

        The loss is a mean [], if all batches have the same weight, or the sum and weight apart.
        """


@runtime_checkable
class HasWeight(Protocol):
    """An objective implements this if its batches differ in weight."""

    def weight(self, batch: Any) -> Tensor | float:
        """Return the weight [] of a micro-batch within its step."""


@runtime_checkable
class CountsLoads(Protocol):
    """An objective implements this if it counts expert loads in a step and applies them after the
    optimizer."""

    def watching(self) -> AbstractContextManager[None]:
        """Return a context in which the step's forward and backward passes are counted."""

    def after_step(self, norm: Tensor) -> None:
        """Apply the counts, unless the gradient norm [] is not finite: then the optimizer skipped
        the step."""


class TrainConfig(Config):
    """A TrainConfig holds the budget, the learning rate schedule and the optimizer's settings.

    Exactly one of `steps` and `minutes` is the budget.
    """

    steps: int | None = None
    minutes: float | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for matrices of the layers (Jordan et al. 2024), AdamW for
    embeddings and vectors"""
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    """counted in steps, not as a share of the budget: runs of different budgets are then equal
    until the decay of the shorter one begins"""
    decay: float = 0.3
    """last share of the budget, over which the learning rate falls to zero: warm-up, stable, decay
    (Hu et al. 2024, MiniCPM)"""
    weight_decay: float = 0.05
    """on matrices only"""
    betas: tuple[float, float] = (0.9, 0.95)
    micro_batches: int = 1
    """batches per step, whose gradients are accumulated: equal to one batch of all of them"""
    clip: float = 1.0
    """largest norm of all gradients together"""
    seed: int = 0
    log_every: int = 20
    """steps per line of metrics.jsonl"""
    checkpoint_seconds: float = 120.0
    """seconds between two checkpoints"""


def lr_at(step: int, progress: float, config: TrainConfig) -> float:
    """Return the learning rate of a step at a share `progress` of the budget in [0, 1].

    The schedule is warm-up, stable, decay by 1 - sqrt (Hägele et al. 2024).
    """
    warmup = min((step + 1) / (config.warmup_steps + 1), 1.0)
    decayed = (progress - (1 - config.decay)) / config.decay if config.decay else 0.0
    return config.learning_rate * warmup * (1 - math.sqrt(min(max(decayed, 0.0), 1.0)))


def fit(objective: Objective, config: TrainConfig, out: Path, name: str = "training") -> None:
    """Train until the budget is used up, resuming from the checkpoint in `out` if there is one.

    Raises KeyboardInterrupt after SIGINT or SIGTERM, once the step is finished and stored.
    """
    out.mkdir(parents=True, exist_ok=True)
    module, path = objective.module, out / "checkpoint.pt"
    module.train()
    optimizer = Optimizers(
        module, config.optimizer == "muon", config.learning_rate, config.weight_decay, config.betas
    )
    step, elapsed_seconds = restore(path, module, optimizer)
    metrics, saved = MetricsLog(out / "metrics.jsonl", step), time.perf_counter()
    with _stop_signals() as stops, ProgressBar(name) as bar:
        while not stops and (progress := progress_share(config, step, elapsed_seconds)) < 1:
            start = time.perf_counter()
            figures = _step(objective, optimizer, config, step, lr_at(step, progress, config))
            step += 1
            logs = step % config.log_every == 0
            if logs:
                # a device's work counts as training: wait for it here, not where it is logged
                float(figures["grad_norm"])
            step_seconds = time.perf_counter() - start
            elapsed_seconds += step_seconds
            metrics.add(step_seconds, figures)
            if logs:
                metrics.write(step=step, seconds=round(elapsed_seconds, 3))
            # reading a loss waits for the device, so only logged steps and the first show a new one
            loss = float(figures["loss"]) if logs or not bar.loss else None
            bar.show(progress_share(config, step, elapsed_seconds), elapsed_seconds, step, loss)
            if time.perf_counter() - saved > config.checkpoint_seconds:
                store(path, module, optimizer, step, elapsed_seconds)
                saved = time.perf_counter()
        store(path, module, optimizer, step, elapsed_seconds)
    if stops:  # checked here, after the last store, so that a late signal is heeded too
        raise KeyboardInterrupt
    module.eval()


def progress_share(config: TrainConfig, step: int, elapsed_seconds: float) -> float:
    """Return the share of the budget that is used up, from 0 to 1."""
    if config.steps:
        return step / config.steps
    return elapsed_seconds / 60 / (config.minutes or 1e-9)


def _step(
    objective: Objective, optimizer: Optimizers, config: TrainConfig, step: int, lr: float
) -> dict[str, Tensor | float]:
    """Run forward and backward passes of a step's micro-batches and one update of the optimizer.

    Return figures for the log; tensors stay on their device.
    """
    first = step * config.micro_batches
    batches = [objective.batch(first + k) for k in range(config.micro_batches)]
    total = total_weight(
        [objective.weight(batch) if isinstance(objective, HasWeight) else 1.0 for batch in batches]
    )
    batch_figures: list[Figures] = []
    sums: list[Tensor] = []
    with objective.watching() if isinstance(objective, CountsLoads) else nullcontext():
        for k, batch in enumerate(batches):
            # a prime far beyond the number of micro-batches keeps different seeds' numbers apart
            torch.manual_seed(config.seed * 1_000_003 + first + k)
            loss, figures = objective.loss(batch)
            parts = loss if isinstance(loss, LossParts) else LossParts(loss, 1.0)
            batch_figures.append(figures)
            sums.append(parts.sum.detach())
            if k < len(batches) - 1:  # the last one's backward pass is part of the update
                backward(parts, total)
        norm = backward_and_step(objective.module, parts, optimizer, lr, config.clip, total)
    if isinstance(objective, CountsLoads):
        objective.after_step(norm)
    return {
        "lr": lr,
        "grad_norm": norm,
        "loss": sum(sums[1:], start=sums[0]) / total,
        **_means(batch_figures),
    }


def _means(batch_figures: list[Figures]) -> dict[str, Tensor | float]:
    """Return each figure's mean over the micro-batches that report it.

    Losses with a weight are averaged by it, and "tokens" is summed.
    """
    values_by_name: dict[str, list[Any]] = {}
    for figures in batch_figures:
        for name, value in figures.items():
            values_by_name.setdefault(name, []).append(value)
    means: dict[str, Tensor | float] = {}
    for name, values in values_by_name.items():
        if isinstance(values[0], LossParts):
            means[name] = sum(v.sum for v in values) / sum(v.weight for v in values)
        elif name == "tokens":
            means[name] = sum(values)
        else:
            means[name] = sum(values) / len(values)
    return means


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Yield a list to which SIGINT and SIGTERM are appended, so that a step is finished and stored
    before the run ends."""
    numbers: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        """Handle a signal by noting its number."""
        numbers.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may set handlers
        before = {}
    try:
        yield numbers
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def read_metrics(out: Path) -> list[dict[str, float]]:
    """Return the lines of a run's metrics.jsonl, oldest first."""
    return [
        json.loads(line)
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
