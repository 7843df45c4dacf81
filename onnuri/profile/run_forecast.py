"""What training a model will take and reach, frozen before its first step, and what it did:
RUN/forecast.json, RUN/outcome.json.

Bytes follow from shapes. Speed is the time of a step's parts on this machine (`op_timing.py`). The
loss is that of earlier runs of the same data, mix and FLOPs, which a recipe hands in: no law of
text holds for so small a model of five media. Knows no recipe; codecs have no forecast.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from onnuri.config import Config
from onnuri.media import write_json
from onnuri.model.objective import OmniObjective
from onnuri.planner import stock
from onnuri.planner.activations import torch_eager_layer
from onnuri.planner.interval import Z80, Interval, exact, spread
from onnuri.profile import op_timing
from onnuri.training.loop import TrainConfig, read_metrics
from onnuri.training.optim import Muon, Optimizers

SPEED = Interval(low=0.55, mid=0.7, high=0.9)
"""tokens a second over those of the timed parts: between products stands what is not timed
(kernels' starts, the experts' order). From A.X K1's twin, which ran before the first forecast, with
its parts timed on one core of a busy machine; the range is assumed"""
KEPT = Interval(low=0.6, mid=1.0, high=1.4)
"""bytes for the backward pass over the planner's count: assumed"""
LOSS = 0.08
"""deviation of the loss's logarithm among architectures of one budget: assumed, and weighs as much
as one run more"""
EXACT = 0.001
"""how near a figure without a range must be: a budget of minutes ends with a step"""
FORECAST, OUTCOME = "forecast.json", "outcome.json"
FIGURES = {
    "params": ("parameters", 1e6, "M"),
    "weight_bytes": ("weights", 1e6, "MB"),
    "optimizer_bytes": ("optimizer", 1e6, "MB"),
    "peak_bytes": ("peak memory", 1e6, "MB"),
    "tokens_per_second": ("speed", 1.0, "tokens/s"),
    "minutes": ("steps", 1.0, "min"),
    "loss": ("loss", 1.0, "nats"),
}
"""of an outcome: how it is called, and in which unit"""


class Forecast(Config):
    """Of one stage."""

    params: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    peak_bytes: Interval
    """resident memory of the process at most"""
    flops_per_token: float
    """forward and backward, causal, the whole head counted"""
    tokens_per_second: Interval
    minutes: Interval
    """of steps"""
    loss: Interval | None
    """mean of the last steps; None without an earlier run that is like it"""
    step_seconds: dict[str, float]
    """by part, as timed"""
    loss_from: tuple[str, ...]
    """the runs that the loss leans on"""


class RunOutcome(Config):
    """Of the same, as it was."""

    params: int
    weight_bytes: int
    optimizer_bytes: int
    peak_bytes: int
    """of the last sitting"""
    tokens_per_second: float
    """of the median line of the log: other work on the machine shows in the minutes"""
    minutes: float
    loss: float


def freeze(
    out: Path, stages: Mapping[str, tuple[OmniObjective, TrainConfig]], earlier: Mapping[str, float]
) -> None:
    """Write OUT/forecast.json before the first step of a run's stages, and never again. `earlier`:
    losses of runs like it."""
    path = out / FORECAST
    if not path.exists() and not any((out / name / "metrics.jsonl").exists() for name in stages):
        write_json(
            {name: foresee(task, loop, earlier).to_json() for name, (task, loop) in stages.items()},
            path,
        )


def foresee(task: OmniObjective, loop: TrainConfig, earlier: Mapping[str, float]) -> Forecast:
    """Return the forecast of a stage; it takes seconds of the whole machine."""
    a, batch = stock.from_config(task.module.config), task.batch(0)
    optimizer = Optimizers(
        task.module, loop.optimizer == "muon", loop.learning_rate, loop.weight_decay, loop.betas
    )
    tokens, context = batch.ids.numel(), float(batch.lengths.square().sum() / batch.ids.numel())
    parts = op_timing.step_seconds(task, a, optimizer, batch)
    speed = SPEED * (tokens / sum(parts.values()))
    state, moments = (
        4 * a.num_params(),
        sum(
            4 * p.numel() * (1 if isinstance(o, Muon) else 2)
            for o in optimizer.each
            for group in o.param_groups
            for p in group["params"]
        ),
    )
    saved = (
        op_timing.WIDE
        * tokens
        * sum(
            b.count * torch_eager_layer(b, a.hidden, op_timing.ALONE).saved_bytes for b in a.blocks
        )
    )
    saved += 12 * sum(
        rows * ids for rows, ids in op_timing.scored(task, batch)
    )  # logits, their logarithms and gradients
    present, steps = resident("VmRSS"), loop.steps or 0
    return Forecast(
        params=a.num_params(),
        weight_bytes=state,
        gradient_bytes=state,
        optimizer_bytes=moments,
        peak_bytes=spread(lambda share: present + state + moments + share * saved, KEPT),
        flops_per_token=a.flops_per_token(round(context)),
        tokens_per_second=speed,
        minutes=spread(lambda pace: steps * tokens / pace / 60, speed)
        if steps
        else exact(loop.minutes or 0.0),
        loss=expected_loss(list(earlier.values())),
        step_seconds=parts,
        loss_from=tuple(earlier),
    )


def expected_loss(earlier: list[float]) -> Interval | None:
    """Return the loss of one more run like these: their geometric mean, with the deviations around
    it, the assumed one and that of the mean added."""
    if not earlier:
        return None
    logs = [math.log(loss) for loss in earlier]
    mid = statistics.fmean(logs)
    variance = (LOSS**2 + sum((x - mid) ** 2 for x in logs)) / len(logs) * (1 + 1 / len(logs))
    return Interval(
        **{
            end: math.exp(mid + z * math.sqrt(variance))
            for end, z in (("low", -Z80), ("mid", 0.0), ("high", Z80))
        }
    )


def score(out: Path, stage: str, module: nn.Module) -> None:
    """Add what a stage was to OUT/outcome.json and print it beside what was expected, where
    anything was."""
    expected = _read(out / FORECAST).get(stage)
    if expected is None:  # a run from before there were forecasts, or a stage that was added to one
        return
    told, was = Forecast.from_json(expected), outcome(out / stage, module)
    write_json(_read(out / OUTCOME) | {stage: was.to_json()}, out / OUTCOME)
    table = Table("", "forecast (80 % range)", "outcome", title=stage)
    for row in compared(told, was):
        table.add_row(*row)
    Console().print(table)


def outcome(folder: Path, module: nn.Module) -> RunOutcome:
    """Return what a stage was that ended in this process."""
    lines, peak = read_metrics(folder), resident("VmHWM")
    state = torch.load(folder / "checkpoint.pt", weights_only=True)["optimizer"]
    moments = [
        t for o in state.values() for of in o["state"].values() for t in of.values() if t.ndim
    ]  # but for counts of steps
    return RunOutcome(
        params=sum(p.numel() for p in module.parameters()),
        weight_bytes=sum(p.nbytes for p in module.parameters()),
        optimizer_bytes=sum(t.nbytes for t in moments),
        peak_bytes=peak,
        minutes=lines[-1]["seconds"] / 60,
        tokens_per_second=statistics.median(line["tokens_per_second"] for line in lines),
        loss=lines[-1]["loss"],
    )


def compared(told: Forecast, was: RunOutcome) -> list[tuple[str, str, str]]:
    """Return figure, forecast and outcome for people; how far it is from the middle, where it is
    out of its range."""
    rows = []
    for field, (name, scale, unit) in FIGURES.items():
        expected, real = getattr(told, field), getattr(was, field)
        if expected is None:
            rows.append((name, "no earlier run is like it", f"{real / scale:,.4g} {unit}"))
            continue
        span = expected if isinstance(expected, Interval) else exact(expected)
        ends = (
            f" ({span.low / scale:,.4g} – {span.high / scale:,.4g})" if span.low < span.high else ""
        )
        near = abs(real / span.mid - 1) < EXACT or span.low <= real <= span.high
        missed = "" if near else f": {real / span.mid - 1:+.1%}, out of the range"
        rows.append((name, f"{span.mid / scale:,.4g}{ends}", f"{real / scale:,.4g} {unit}{missed}"))
    return rows


def resident(field: str) -> int:
    """Return the bytes of this process's memory: VmRSS now, VmHWM at most. Where the system does
    not tell, the most so far."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def _read(path: Path) -> dict[str, Any]:
    """A file of ours; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
