"""This module is the training loop of codecs and language models. It knows no modality: an
objective gives batches and a loss.

A batch is a pure function of the step, and so is the random seed of a step. A run with a budget of
steps therefore ends in the same weights whether it was interrupted or not. A budget of minutes
counts only time spent in training steps, summed over all sittings.

    out/metrics.jsonl     one line per `log_every` steps: step, seconds, lr, grad_norm, loss and the
                          objective's own figures; speed, waits and memory (`run_meter.py`)
    out/sittings.jsonl    one line per sitting: device, ranks, budget, rate of a large product
    out/checkpoint/       state (`state.py`), written in the background every `checkpoint_seconds`
                          and, before `fit` returns, at the end and at an interrupt

The same loop runs in one process and in every rank of a layout. A step's rows are dealt out to the
data ranks; figures are gathered only where a line is written, by the first rank.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onnuri.config import Config
from onnuri.data.loader import BatchRamp, RowLoader
from onnuri.errors import ConfigError, Terminated
from onnuri.model.loss import LossParts
from onnuri.parallel import launch
from onnuri.parallel.model import Figures, ParallelModel
from onnuri.training import state
from onnuri.training.metrics import MetricsLog, ProgressBar
from onnuri.training.optim import Optimizers
from onnuri.training.record_config import RecordConfig
from onnuri.training.run_meter import RunMeter
from onnuri.training.saver import Saver
from onnuri.training.step import update_weights
from onnuri.training.step_profiler import StepProfiler
from onnuri.training.watch import LossWatch, Trouble


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
    """batches per step over all ranks, whose gradients are accumulated: equal to one batch of all
    of them"""
    ramp_from: int | None = None
    """batches of the first step, from which they grow to `micro_batches` in multiples of this"""
    ramp_steps: int = 0
    """steps over which they grow"""
    loader_workers: int = 0
    """processes that make the next batches while a step runs; 0: each is made when needed"""
    clip: float = 1.0
    """largest norm of all gradients together"""
    compiled: bool = False
    """whether `torch.compile` compiles every layer of a language model: faster steps on a GPU after
    a first step of some seconds"""
    seed: int = 0
    log_every: int = 20
    """steps per line of metrics.jsonl"""
    checkpoint_seconds: float = 120.0
    """seconds between two checkpoints"""
    rewinds: int = 3
    """times that a run may go back to its last state, and on with the rows after those it had read,
    because a loss was no number or a spike"""
    spike: float | None = None
    """multiple of the median of 32 steps' losses above which a loss is a spike; None: none is"""
    record: RecordConfig = RecordConfig()
    """what is recorded beside metrics.jsonl"""


def lr_at(step: int, progress: float, config: TrainConfig) -> float:
    """Return the learning rate of a step at a share `progress` of the budget in [0, 1].

    The schedule is warm-up, stable, decay by 1 - sqrt (Hägele et al. 2024).
    """
    warmup = min((step + 1) / (config.warmup_steps + 1), 1.0)
    decayed = (progress - (1 - config.decay)) / config.decay if config.decay else 0.0
    return config.learning_rate * warmup * (1 - math.sqrt(min(max(decayed, 0.0), 1.0)))


class _Batches:
    """An objective's batches as a source of rows."""

    def __init__(self, objective: Objective) -> None:
        """Wrap an objective."""
        self.objective = objective

    def row(self, index: int) -> Any:
        """Return batch number `index`, counted from the start of training."""
        return self.objective.batch(index)


def fit(
    objective: Objective,
    config: TrainConfig,
    out: Path,
    name: str = "training",
    model: ParallelModel | None = None,
    begin: Callable[[ParallelModel], None] | None = None,
) -> ParallelModel:
    """Train until the budget is used up, resuming from the newest state in `out` if there is one.

    `model` holds the objective's module as training steps call it, spread over the ranks of a
    layout, which then must all call this; None: the module is whole, in one process. `begin` is
    called with the model before the first step of a run, and not when it resumes. Return the model
    as it was trained, in evaluation mode. Raises KeyboardInterrupt after SIGINT and Terminated
    after SIGTERM at any rank, once the step is finished and stored.
    """
    out.mkdir(parents=True, exist_ok=True)
    module = objective.module
    model = model or ParallelModel(module, objective.loss, compiled=config.compiled)
    module.train()
    optimizer = Optimizers(
        module, config.optimizer == "muon", config.learning_rate, config.weight_decay, config.betas
    )
    position = state.restore(out, module, optimizer)
    if begin and not position.step:
        begin(model)
    loader = _loader(objective, config, model, position)
    step, elapsed_seconds, rewinds = position.step, position.elapsed_seconds, position.rewinds
    config.record.check()
    meter = RunMeter(objective, config, out, step, model.dtype)
    metrics, saved = _metrics(config, model, meter, out, step), time.perf_counter()
    watch, rewound, skipped = LossWatch(config.spike), dict[str, float](), 0
    profiler = StepProfiler(config.record.profiled(), out / "profile")
    with (
        _stop_signals() as stops,
        ProgressBar(name) as bar,
        Saver(out, module, optimizer) as saver,
        profiler,
    ):
        while True:
            stop_signal, save_failed, elapsed_seconds, since_saved = _agree(
                max(stops, default=0), saver.failed, elapsed_seconds, time.perf_counter() - saved
            )
            if save_failed:
                saver.wait()  # raises why
            progress = progress_share(config, step, elapsed_seconds)
            ends = bool(stop_signal) or progress >= 1
            saves = since_saved > config.checkpoint_seconds and step > 0
            # before a state is stored, for it must be one of before the trouble
            trouble = watch.judge() if saves or ends or step % config.log_every == 0 else None
            if trouble:
                rewinds = _count_rewind(trouble, rewinds, config)
                rows = loader.position
                position = _rewind(saver, step, rows)._replace(rows=rows)
                bar.note(f"{trouble}: back to {position.step}")
                rewound = {"rewound_from": step, "rewound_to": position.step, "rewinds": rewinds}
                step, loader = position.step, _loader(objective, config, model, position)
                metrics = _metrics(config, model, meter, out, step)
                continue
            if watch.skipped > skipped:
                skipped = watch.skipped
                bar.note(f"{skipped} steps left out: their gradients are not finite")
            if saves:
                with meter.saving():
                    saver.save(state.Position(step, loader.position, elapsed_seconds, rewinds))
                saved = time.perf_counter()
            if ends:
                break
            profiler.before(step + 1)
            start = time.perf_counter()
            lr = lr_at(step, progress, config)
            figures = train_step(objective, model, loader, optimizer, config, lr)
            meter.count_flops(loader.rows[0])
            step += 1
            logs = step % config.log_every == 0
            if logs:
                # a device's work counts as training: wait for it here, not where it is logged
                mean_of(figures["grad_norm"])
            step_seconds = time.perf_counter() - start
            elapsed_seconds += step_seconds
            metrics.add(step_seconds, figures)
            watch.add(step, cast(LossParts, figures["loss"]), cast(Tensor, figures["grad_norm"]))
            if logs:
                noted = rewound | ({"skipped_steps": skipped} if skipped else {})
                metrics.write(step=step, seconds=round(elapsed_seconds, 3), **noted)
                rewound = {}
            # reading a loss waits for the device, so only logged steps and the first show a new one
            loss = mean_of(figures["loss"]) if logs or not bar.loss else None
            bar.show(progress_share(config, step, elapsed_seconds), elapsed_seconds, step, loss)
        saver.finish(state.Position(step, loader.position, elapsed_seconds, rewinds))
    # checked here, after the last store, so that a late signal is heeded too
    stop_signal = max([stop_signal, *stops])
    if stop_signal:
        raise Terminated if stop_signal == signal.SIGTERM else KeyboardInterrupt
    module.eval()
    return model


def _metrics(
    config: TrainConfig, model: ParallelModel, meter: RunMeter, out: Path, step: int
) -> MetricsLog:
    """Return the log of a run that goes on from `step`."""
    path, tensorboard = out / "metrics.jsonl", config.record.tensorboard
    return MetricsLog(path, step, model.data_ranks, meter, tensorboard)


def _loader(
    objective: Objective, config: TrainConfig, model: ParallelModel, position: state.Position
) -> RowLoader:
    """Return the loader of this rank's rows from a position on."""
    ramp = BatchRamp(
        rows=config.micro_batches, first_rows=config.ramp_from, steps=config.ramp_steps
    )
    return RowLoader(
        _Batches(objective),
        ramp,
        model.data_rank,
        model.data_ranks,
        position.step,
        config.loader_workers,
        position.rows,
    )


def _count_rewind(trouble: Trouble, rewinds: int, config: TrainConfig) -> int:
    """Return the number of a run's rewinds with the one for a trouble. Raises ConfigError if they
    are too many."""
    if rewinds >= config.rewinds:
        raise ConfigError(
            str(trouble),
            f"{'teach nothing' if trouble.skipped else 'is no number or a spike'}, after the run "
            f"went back {rewinds} times",
            "look at the rows and the learning rate; the same command goes on from the last state",
        )
    return rewinds + 1


def _rewind(saver: Saver, step: int, rows: int) -> state.Position:
    """Load the newest state again and return its position; without one, a run stays where it is:
    the optimizer has left out a step whose gradients are not finite."""
    saver.wait()
    if state.latest(saver.out) is None:
        return state.Position(step, rows)
    return state.restore(saver.out, saver.module, saver.optimizer)


def _agree(
    stop_signal: int, save_failed: bool, elapsed_seconds: float, since_saved: float
) -> tuple[int, bool, float, float]:
    """Return the signal by which any rank was asked to stop, 0 without one, whether any rank could
    not store, and the first rank's two times: ranks that judged by their own signals and clocks
    would do different steps."""
    if not dist.is_initialized():
        return stop_signal, save_failed, elapsed_seconds, since_saved
    # never negative, so the greatest is the first rank's
    times = [elapsed_seconds, since_saved] if launch.is_first() else [0.0, 0.0]
    values = torch.tensor([float(stop_signal), float(save_failed), *times], dtype=torch.float64)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    any_signal, any_failed, elapsed, since = values.tolist()
    return int(any_signal), bool(any_failed), elapsed, since


def progress_share(config: TrainConfig, step: int, elapsed_seconds: float) -> float:
    """Return the share of the budget that is used up, from 0 to 1."""
    if config.steps:
        return step / config.steps
    return elapsed_seconds / 60 / (config.minutes or 1e-9)


def train_step(
    objective: Objective,
    model: ParallelModel,
    loader: RowLoader,
    optimizer: Optimizers,
    config: TrainConfig,
    lr: float,
) -> dict[str, Tensor | float | LossParts]:
    """Run forward and backward passes of this rank's micro-batches of a step and one update of the
    optimizer.

    Return figures for the log, of this rank's rows; tensors stay on their device.
    """
    numbers = loader.row_numbers()
    batches = loader.next_step()
    total = model.total_weight(
        [objective.weight(batch) if isinstance(objective, HasWeight) else 1.0 for batch in batches]
    )
    batch_figures: list[Figures] = []
    losses: list[LossParts] = []
    with objective.watching() if isinstance(objective, CountsLoads) else nullcontext():
        for number, batch in zip(numbers, batches, strict=True):
            # a prime far beyond the number of rows keeps different seeds' numbers apart
            torch.manual_seed(config.seed * 1_000_003 + number)
            parts, figures = model.forward_backward(batch, total)
            batch_figures.append(figures)
            losses.append(parts)
        norm = update_weights(model.root, optimizer, lr, config.clip)
    if isinstance(objective, CountsLoads):
        objective.after_step(norm)
    return {
        "lr": lr,
        "loader_seconds": loader.waited_seconds,
        "grad_norm": norm,
        "loss": _added(losses),
        **_over_batches(batch_figures),
    }


def mean_of(figure: Tensor | float | LossParts) -> float:
    """Return a figure of `train_step` as one number, for which the host waits."""
    return float(figure.mean if isinstance(figure, LossParts) else figure)


def _added(parts: list[LossParts]) -> LossParts:
    """Return losses added up, sums and weights apart."""
    total = sum(part.weight for part in parts)
    return LossParts(torch.stack([part.sum for part in parts]).sum(), total)


def _over_batches(batch_figures: list[Figures]) -> dict[str, Tensor | float | LossParts]:
    """Return each figure over the micro-batches that report it.

    Losses with a weight are added up, "tokens" is summed, and others are averaged.
    """
    values_by_name: dict[str, list[Any]] = {}
    for figures in batch_figures:
        for name, value in figures.items():
            values_by_name.setdefault(name, []).append(value)
    over: dict[str, Tensor | float | LossParts] = {}
    for name, values in values_by_name.items():
        if isinstance(values[0], LossParts):
            over[name] = _added(values)
        else:
            over[name] = sum(values) / (1 if name == "tokens" else len(values))
    return over


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
