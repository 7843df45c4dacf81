"""This module forecasts a training run's memory, speed and loss before its first step, and compares
them with what came of it: RUN/forecast.json, RUN/outcome.json.

Bytes follow from shapes. Speed follows from the time of a step's parts on this machine
(`op_timing.py`). The loss is that of earlier runs of the same data, mix and FLOPs, which a recipe
passes in: no scaling law of text holds for so small a model of five media. The module knows no
recipe; codecs have no forecast.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import nn

from onnuri.config import Config
from onnuri.files import write_json
from onnuri.model.objective import OmniObjective
from onnuri.parallel import launch
from onnuri.planner import stock
from onnuri.planner.activations import torch_eager_layer
from onnuri.planner.interval import Z80, Interval, exact, spread
from onnuri.profile import op_timing
from onnuri.resident import resident_bytes
from onnuri.training.loop import TrainConfig, read_metrics
from onnuri.training.optim import Muon, Optimizers
from onnuri.training.state import latest, optimizer_bytes

SPEED_SHARE = Interval(low=0.55, mid=0.7, high=0.9)
"""tokens per second over those of the timed parts alone: kernel launches and the experts' ordering
are not timed. From A.X K1's twin, which ran before the first forecast, with its parts timed on one
core of a busy machine; the range is assumed"""
SAVED_BYTES = Interval(low=0.6, mid=1.0, high=1.4)
"""bytes saved for the backward pass over the planner's count: assumed"""
LOSS_DEVIATION = 0.08
"""standard deviation of the loss's logarithm among architectures of one budget: assumed, and
weighs as much as one more run"""
EXACT_TOLERANCE = 0.001
"""largest relative error of a figure without a range: a budget of minutes ends with a step"""
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
"""fields of an outcome: name in the table, divisor, unit"""


class Forecast(Config):
    """A Forecast holds what one training stage is expected to take and reach."""

    params: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    peak_bytes: Interval
    """most resident memory of the process"""
    flops_per_token: float
    """FLOPs of forward and backward pass per token, causal, with the whole head"""
    tokens_per_second: Interval
    minutes: Interval
    """minutes of training steps"""
    loss: Interval | None
    """mean loss of the last steps; None without an earlier run that is like it"""
    step_seconds: dict[str, float]
    """seconds of one step by part, as timed"""
    loss_from: tuple[str, ...]
    """names of the runs from which the loss is expected"""


class RunOutcome(Config):
    """A RunOutcome holds what one training stage took and reached."""

    params: int
    weight_bytes: int
    optimizer_bytes: int
    peak_bytes: int
    """most resident memory of the process that ended the stage"""
    tokens_per_second: float
    """tokens per second of the log's median line; other work on the machine shows in the minutes"""
    minutes: float
    loss: float


def write_forecast(
    out: Path, stages: Mapping[str, tuple[OmniObjective, TrainConfig]], earlier: Mapping[str, float]
) -> None:
    """Write OUT/forecast.json before the first step of a run's stages, and never again.

    `stages` gives objective and training settings by the stage's name, `earlier` the last losses of
    similar runs by their names.
    """
    path = out / FORECAST
    if not path.exists() and not any((out / name / "metrics.jsonl").exists() for name in stages):
        write_json(
            {
                name: forecast_stage(task, loop, earlier).to_json()
                for name, (task, loop) in stages.items()
            },
            path,
        )


def forecast_stage(
    task: OmniObjective, loop: TrainConfig, earlier: Mapping[str, float]
) -> Forecast:
    """Return the forecast of one training stage, timing a step's parts for some seconds.

    `earlier` gives the last losses of similar runs by their names.
    """
    a, batch = stock.from_config(task.module.config), task.batch(0)
    optimizer = Optimizers(
        task.module, loop.optimizer == "muon", loop.learning_rate, loop.weight_decay, loop.betas
    )
    tokens, context = batch.ids.numel(), float(batch.lengths.square().sum() / batch.ids.numel())
    parts = op_timing.step_seconds(task, a, optimizer, batch)
    speed = SPEED_SHARE * (tokens / sum(parts.values()))
    weight_bytes = 4 * a.num_params()
    moment_bytes = sum(
        4 * p.numel() * (1 if isinstance(o, Muon) else 2)
        for o in optimizer.each
        for group in o.param_groups
        for p in group["params"]
    )
    saved = (
        op_timing.FP32_FACTOR
        * tokens
        * sum(
            b.count * torch_eager_layer(b, a.hidden, op_timing.ONE_RANK).saved_bytes
            for b in a.blocks
        )
    )
    # logits, their logarithms and gradients, 4 bytes each
    saved += 12 * sum(rows * ids for rows, ids in op_timing.scored_targets(task, batch))
    fixed_bytes = resident_bytes("VmRSS") + weight_bytes + moment_bytes
    all_tokens = (loop.steps or 0) * loop.micro_batches * tokens
    return Forecast(
        params=a.num_params(),
        weight_bytes=weight_bytes,
        gradient_bytes=weight_bytes,
        optimizer_bytes=moment_bytes,
        peak_bytes=spread(lambda share: fixed_bytes + share * saved, SAVED_BYTES),
        flops_per_token=a.flops_per_token(round(context)),
        tokens_per_second=speed,
        minutes=spread(lambda tokens_per_second: all_tokens / tokens_per_second / 60, speed)
        if loop.steps
        else exact(loop.minutes or 0.0),
        loss=expected_loss(list(earlier.values())),
        step_seconds=parts,
        loss_from=tuple(earlier),
    )


def expected_loss(earlier: list[float]) -> Interval | None:
    """Return the loss, with its range, of one more run like those of some `earlier` losses; None
    without any.

    The middle is their geometric mean; the variance is that of the logarithms around it with the
    assumed deviation, and that of the mean itself.
    """
    if not earlier:
        return None
    logs = [math.log(loss) for loss in earlier]
    mid = statistics.fmean(logs)
    variance = (
        (LOSS_DEVIATION**2 + sum((x - mid) ** 2 for x in logs)) / len(logs) * (1 + 1 / len(logs))
    )
    return Interval(
        **{
            end: math.exp(mid + z * math.sqrt(variance))
            for end, z in (("low", -Z80), ("mid", 0.0), ("high", Z80))
        }
    )


def write_outcome(out: Path, stage: str, module: nn.Module) -> None:
    """Add what a finished stage took to OUT/outcome.json and print it beside the stage's forecast;
    do nothing for a stage without one."""
    expected = _read(out / FORECAST).get(stage)
    if expected is None:  # a run from before there were forecasts, or a stage that was added to one
        return
    forecast, outcome = Forecast.from_json(expected), measure_outcome(out / stage, module)
    write_json(_read(out / OUTCOME) | {stage: outcome.to_json()}, out / OUTCOME)
    table = Table("", "forecast (80 % range)", "outcome", title=stage)
    for row in comparison_rows(forecast, outcome):
        table.add_row(*row)
    launch.console().print(table)


def measure_outcome(folder: Path, module: nn.Module) -> RunOutcome:
    """Return what a stage in `folder` that ended in this process took and reached; `module` is what
    it trained."""
    lines, peak = read_metrics(folder), resident_bytes("VmHWM")
    state = latest(folder)
    assert state is not None  # the stage has just ended
    return RunOutcome(
        params=sum(p.numel() for p in module.parameters()),
        weight_bytes=sum(p.nbytes for p in module.parameters()),
        optimizer_bytes=optimizer_bytes(state),
        peak_bytes=peak,
        minutes=lines[-1]["seconds"] / 60,
        tokens_per_second=statistics.median(line["tokens_per_second"] for line in lines),
        loss=lines[-1]["loss"],
    )


def comparison_rows(forecast: Forecast, outcome: RunOutcome) -> list[tuple[str, str, str]]:
    """Return (figure, forecast, outcome) as texts of a table's rows; an outcome out of its range
    says how far it is from the middle."""
    rows = []
    for field, (name, scale, unit) in FIGURES.items():
        expected, real = getattr(forecast, field), getattr(outcome, field)
        if expected is None:
            rows.append((name, "no earlier run is like it", f"{real / scale:,.4g} {unit}"))
            continue
        span = expected if isinstance(expected, Interval) else exact(expected)
        ends = (
            f" ({span.low / scale:,.4g} – {span.high / scale:,.4g})" if span.low < span.high else ""
        )
        near = abs(real / span.mid - 1) < EXACT_TOLERANCE or span.low <= real <= span.high
        missed = "" if near else f": {real / span.mid - 1:+.1%}, out of the range"
        rows.append((name, f"{span.mid / scale:,.4g}{ends}", f"{real / scale:,.4g} {unit}{missed}"))
    return rows


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; an empty dict if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
