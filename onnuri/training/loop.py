"""One training loop for codecs and model. Knows no medium: a task gives batches and a loss.

A batch is a pure function of the step and the random numbers of a step follow from it, so a run that was interrupted
at any moment ends, with a budget of steps, in exactly the weights of one that was not. A budget of minutes counts the
time spent training only, over all its sittings.

    out/metrics.jsonl     one line every `log_every` steps: step, seconds, lr, grad_norm, loss and the task's metrics
    out/checkpoint.pt     written every `checkpoint_seconds` and at an interrupt, whole or not at all
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from onnuri.config import Config
from onnuri.training.checkpoint import restore, store
from onnuri.training.metrics import Metrics, Progress
from onnuri.training.optim import Optimizers
from onnuri.training.step import take


class Task(Protocol):
    """What is trained: a module, its batches and their loss."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""


    def batch(self, step: int) -> Any:
        """A pure function of the step."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Loss [] and figures for the log."""


@runtime_checkable
class Watching(Protocol):
    """A task that counts something in a step and applies it after the optimizer."""

    def watching(self) -> AbstractContextManager[None]:
        """Count while this lasts: through the step's forward and backward passes."""

    def after_step(self) -> None:
        """Apply what was counted."""


class LoopConfig(Config):
    """How long and how fast. Exactly one of `steps` and `minutes` is the budget."""

    steps: int | None = None
    minutes: float | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the matrices inside (Jordan et al. 2024), AdamW for embeddings and vectors"""
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    """so that runs of different budgets are one and the same until the shorter one's rate decays"""
    decay: float = 0.3
    """share of the budget at whose end the rate reaches zero: warm-up, stable, decay (Hu et al. 2024, MiniCPM)"""
    weight_decay: float = 0.05
    """on matrices only"""
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    """largest norm of all gradients together"""
    seed: int = 0
    log_every: int = 20
    """steps"""
    checkpoint_seconds: float = 120.0


def rate(step: int, progress: float, config: LoopConfig) -> float:
    """Learning rate of a step at a share of the budget in [0, 1]: warm-up, stable, decay by 1 - sqrt (Hägele et al. 2024)."""
    left = (progress - (1 - config.decay)) / config.decay if config.decay else 0.0
    return config.learning_rate * min((step + 1) / (config.warmup_steps + 1), 1.0) * (1 - math.sqrt(min(max(left, 0.0), 1.0)))


def fit(task: Task, config: LoopConfig, out: Path, name: str = "training") -> None:
    """Train until the budget is spent, going on from `out` where it was left. Raises KeyboardInterrupt when stopped."""
    out.mkdir(parents=True, exist_ok=True)
    task.module.train()
    optimizer = Optimizers(task.module, config.optimizer == "muon", config.learning_rate, config.weight_decay, config.betas)
    step, spent = restore(out / "checkpoint.pt", task.module, optimizer)
    metrics, saved = Metrics(out / "metrics.jsonl", step), time.perf_counter()
    with _asked_to_stop() as stop, Progress(name) as progress:
        while not stop and (done := share_done(config, step, spent)) < 1:
            began = time.perf_counter()
            figures = _step(task, optimizer, config, step, rate(step, done, config))
            took = time.perf_counter() - began
            step, spent = step + 1, spent + took
            metrics.add(took, figures)
            if step % config.log_every == 0:
                metrics.write(step=step, seconds=round(spent, 3))
            progress.show(share_done(config, step, spent), spent, step, figures["loss"])
            if time.perf_counter() - saved > config.checkpoint_seconds:
                store(out / "checkpoint.pt", task.module, optimizer, step, spent)
                saved = time.perf_counter()
        store(out / "checkpoint.pt", task.module, optimizer, step, spent)
    if stop:  # only here, so that it is heeded whenever it was asked for
        raise KeyboardInterrupt
    task.module.eval()


def share_done(config: LoopConfig, step: int, spent: float) -> float:
    """Share of the budget that is spent, 0 to 1."""
    return step / config.steps if config.steps else spent / 60 / (config.minutes or 1e-9)


def _step(task: Task, optimizer: Optimizers, config: LoopConfig, step: int, lr: float) -> dict[str, float]:
    torch.manual_seed(config.seed * 1_000_003 + step)
    with task.watching() if isinstance(task, Watching) else nullcontext():
        loss, figures = task.loss(task.batch(step))
        norm = take(task.module, loss, optimizer, lr, config.clip)
    if isinstance(task, Watching):
        task.after_step()
    return {"lr": lr, "grad_norm": float(norm), "loss": float(loss.detach()), **figures}


@contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list that fills when SIGINT or SIGTERM arrives, so that a step is finished and stored first."""
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
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
