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
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from onnuri.config import Config
from onnuri.training.checkpoint import restore, store
from onnuri.training.metrics import Metrics, Progress


class Task(Protocol):
    """What is trained: a module, its batches and their loss."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""


    def batch(self, step: int) -> Any:
        """A pure function of the step."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Loss [] and figures for the log."""


class LoopConfig(Config):
    """How long and how fast. Exactly one of `steps` and `minutes` is the budget."""

    steps: int | None = None
    minutes: float | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: orthogonalised momentum for the matrices inside (Jordan et al. 2024), AdamW for embeddings and vectors"""
    learning_rate: float = 1e-3
    warmup: float = 0.02
    """share of the budget"""
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


def rate(progress: float, config: LoopConfig) -> float:
    """Learning rate at a share of the budget in [0, 1]: warm-up, stable, decay by 1 - sqrt (Hägele et al. 2024)."""
    if progress < config.warmup:
        return config.learning_rate * progress / config.warmup
    left = (progress - (1 - config.decay)) / config.decay if config.decay else 0.0
    return config.learning_rate * (1 - math.sqrt(min(max(left, 0.0), 1.0)))


class Optimizers:
    """One optimizer for every kind of weight, stepped together."""

    def __init__(self, module: nn.Module, config: LoopConfig) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        inner = [p for n, p in named if p.ndim == 2 and "embed" not in n] if config.optimizer == "muon" else []
        taken = {id(p) for p in inner}
        matrices = [p for _, p in named if p.ndim >= 2 and id(p) not in taken]
        vectors = [p for _, p in named if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.each: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=config.betas)]
        if inner:  # at the size of AdamW's updates, so that one learning rate serves both (Liu et al. 2025, 2502.16982)
            self.each.append(torch.optim.Muon(inner, lr=config.learning_rate, weight_decay=config.weight_decay,
                                              adjust_lr_fn="match_rms_adamw"))

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


def fit(task: Task, config: LoopConfig, out: Path, name: str = "training") -> None:
    """Train until the budget is spent, going on from `out` where it was left. Raises KeyboardInterrupt when stopped."""
    out.mkdir(parents=True, exist_ok=True)
    task.module.train()
    optimizer = Optimizers(task.module, config)
    step, spent = restore(out / "checkpoint.pt", task.module, optimizer)
    metrics, saved = Metrics(out / "metrics.jsonl", step), time.perf_counter()
    with _asked_to_stop() as stop, Progress(name) as progress:
        while (done := share_done(config, step, spent)) < 1:
            began = time.perf_counter()
            figures = _step(task, optimizer, config, step, rate(done, config))
            took = time.perf_counter() - began
            step, spent = step + 1, spent + took
            metrics.add(took, figures)
            if step % config.log_every == 0:
                metrics.write(step=step, seconds=round(spent, 3))
            progress.show(share_done(config, step, spent), spent, step, figures["loss"])
            if stop or time.perf_counter() - saved > config.checkpoint_seconds:
                store(out / "checkpoint.pt", task.module, optimizer, step, spent)
                saved = time.perf_counter()
            if stop:
                raise KeyboardInterrupt
    store(out / "checkpoint.pt", task.module, optimizer, step, spent)
    task.module.eval()


def share_done(config: LoopConfig, step: int, spent: float) -> float:
    """Share of the budget that is spent, 0 to 1."""
    return step / config.steps if config.steps else spent / 60 / (config.minutes or 1e-9)


def _step(task: Task, optimizer: Optimizers, config: LoopConfig, step: int, lr: float) -> dict[str, float]:
    torch.manual_seed(config.seed * 1_000_003 + step)
    loss, figures = task.loss(task.batch(step))
    loss.backward()
    norm = nn.utils.clip_grad_norm_(task.module.parameters(), config.clip)
    if torch.isfinite(norm):  # one bad batch must not cost the run
        optimizer.step(lr)
    task.module.zero_grad(set_to_none=True)
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
