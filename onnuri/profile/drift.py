"""This module says how far a run has drifted from its forecast, and what it lost time to.

It computes on lines of metrics.jsonl and reads no file. A cause is named only where it was
measured; where nothing that was measured explains a drift, that is what is said.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from onnuri.planner.interval import Interval
from onnuri.profile.run_forecast import Forecast
from onnuri.training.run_meter import Sitting

Line = dict[str, Any]
RECENT_LINES = 20
"""last lines of a sitting whose speed is compared"""
LEAST_SHARE = 0.05
"""share of the time from which on a wait is named as a cause: assumed; speeds of two equal runs on
one machine differ by about as much"""
MB = 1e6


class RecentSpeed(NamedTuple):
    """A RecentSpeed holds the figures of a sitting's last lines, weighted by their time."""

    seconds: float
    """seconds of training steps"""
    tokens_per_second: float | None
    """tokens of all ranks per second of training steps; None of what has no tokens"""
    steps_per_second: float
    rows: float
    """share of the steps' time in which rows were made or waited for"""
    cores: float
    """share of the time in which the process was ready to run and had no core"""
    first_step: float
    """share of the steps' time that the sitting's first step took beyond an ordinary one"""
    saves: float
    """share of the time, saves included, that saves took"""
    retries: int
    """times that a GPU's allocator had to free memory and try again"""
    swapped_bytes: float
    """most bytes of the process that were swapped out"""


class Drift(NamedTuple):
    """A Drift compares one figure of a run with its forecast."""

    figure: str
    forecast: str
    """middle and range, with the unit"""
    measured: str
    place: str
    """where the measured value stands: "in the range", or how far below or above it"""
    causes: tuple[str, ...] = ()
    """sentences that say why, the likeliest first; none in the range"""


def recent_speed(
    lines: Sequence[Line], sitting: Sitting | None, last: int = RECENT_LINES
) -> RecentSpeed:
    """Return the figures of the last lines of a sitting; `lines` has at least one, oldest first.

    Without a `sitting`, of a run before there were any, or a line of it, all lines count as one.
    """
    first_step = sitting.step if sitting else 0
    own = [line for line in lines if line["step"] > first_step]
    if not own:  # this sitting has no line yet
        own, first_step, sitting = list(lines), 0, None
    recent = own[-last:]
    before = own[-last - 1]["step"] if len(own) > last else min(first_step, recent[0]["step"] - 1)
    steps = [b - a for a, b in itertools.pairwise([before, *(line["step"] for line in recent)])]
    seconds = [n / line["steps_per_second"] for n, line in zip(steps, recent, strict=True)]
    total = sum(seconds)
    saves = sum(line.get("save_seconds", 0.0) for line in recent)
    excess = 0.0
    if sitting and recent[0] is own[0]:
        others = (total - sitting.first_step_seconds) / max(sum(steps) - 1, 1)
        excess = max(0.0, sitting.first_step_seconds - others) if sum(steps) > 1 else 0.0
    weighted = list(zip(recent, seconds, strict=True))
    tokens = [line["tokens_per_second"] * s for line, s in weighted if "tokens_per_second" in line]
    loader = sum(n * line.get("loader_seconds", 0.0) for n, line in zip(steps, recent, strict=True))
    return RecentSpeed(
        seconds=total,
        tokens_per_second=sum(tokens) / total if len(tokens) == len(recent) else None,
        steps_per_second=sum(steps) / total,
        rows=loader / total,
        cores=sum(line.get("core_wait_share", 0.0) * s for line, s in weighted) / total,
        first_step=excess / total,
        saves=saves / (total + saves),
        retries=int(max(line.get("alloc_retries", 0) for line in recent)),
        swapped_bytes=max(line.get("swapped_bytes", 0.0) for line in recent),
    )


def slow_causes(w: RecentSpeed, planned_rows: float = 0.0) -> list[str]:
    """Return why the steps are slow, the largest share of their time first.

    `planned_rows` is the share of a step that the forecast has for making rows.
    """
    rate, unit = (
        (w.tokens_per_second, "tokens/s")
        if w.tokens_per_second is not None
        else (w.steps_per_second, "steps/s")
    )
    waits = [
        (w.rows - planned_rows, "of a step waits for rows: more TrainConfig.loader_workers"),
        (w.cores, "of the time without a core: other processes, or more threads than cores"),
        (w.first_step, "went to the first step (compilation, warm-up): it passes"),
    ]
    texts = [
        f"{share:.0%} {text}; without it {rate / (1 - share):,.4g} {unit}"
        for share, text in sorted(waits, reverse=True)
        if LEAST_SHARE <= share < 1
    ]
    return texts + memory_causes(w)


def memory_causes(w: RecentSpeed) -> list[str]:
    """Return what a memory that is nearly full does to steps."""
    causes = []
    if w.retries:
        causes.append(f"the GPU's memory is nearly full: {w.retries} allocations were tried again")
    if w.swapped_bytes:
        causes.append(
            f"the machine's memory is full: {w.swapped_bytes / MB:,.0f} MB are swapped out"
        )
    return causes


def drifts(
    forecast: Forecast, lines: Sequence[Line], sitting: Sitting | None, minutes: float | None
) -> list[Drift]:
    """Return speed, peak memory and minutes of a run beside its forecast.

    `minutes` are those of training steps that the run takes in all, as it goes now; None leaves
    them out.
    """
    w, rows = recent_speed(lines, sitting), []
    if w.tokens_per_second is not None:
        rows.append(_speed(forecast, w.tokens_per_second, w))
    peaks = [line["peak_bytes"] for line in lines if "peak_bytes" in line]
    if peaks:
        rows.append(_memory(forecast.peak_bytes, peaks))
    if minutes is not None:
        whole = recent_speed(lines, sitting, last=len(lines))
        longer = minutes > forecast.minutes.high
        causes = tuple(slow_causes(whole, _planned_rows(forecast))) if longer else ()
        rows.append(_drift("minutes", forecast.minutes, minutes, 1.0, "min", causes))
    return rows


def own_pace(lines: Sequence[Line], sitting: Sitting | None) -> str | None:
    """Return a sentence if the last lines are slower than the run's median line, with the causes;
    None if they are not, or if there are too few lines to say."""
    if len(lines) < 2 * RECENT_LINES:
        return None
    w = recent_speed(lines, sitting)
    usual = statistics.median(line["steps_per_second"] for line in lines)
    loss = 1 - w.steps_per_second / usual
    if loss < LEAST_SHARE:
        return None
    causes = slow_causes(w) or ["no wait that is measured explains it"]
    return f"{loss:.0%} slower than this run's median: {'; '.join(causes)}"


def _planned_rows(forecast: Forecast) -> float:
    """Return the share of a step's time in which the forecast has rows made."""
    total = sum(forecast.step_seconds.values())
    return forecast.step_seconds.get("batch", 0.0) / total if total else 0.0


def _speed(forecast: Forecast, tokens_per_second: float, w: RecentSpeed) -> Drift:
    """Return the drift of a run's speed."""
    causes: tuple[str, ...] = ()
    if tokens_per_second < forecast.tokens_per_second.low:
        causes = tuple(slow_causes(w, _planned_rows(forecast))) or (
            "no wait that is measured explains it: the step itself is slower than its parts were "
            "when they were timed",
        )
    return _drift("speed", forecast.tokens_per_second, tokens_per_second, 1.0, "tokens/s", causes)


def _memory(span: Interval, peaks: Sequence[float]) -> Drift:
    """Return the drift of a run's peak memory, whose values at each line are `peaks`."""
    causes: tuple[str, ...] = ()
    if peaks[-1] > span.high:
        when = "after" if peaks[0] <= span.high else "by"
        grown = (peaks[-1] - peaks[0]) / MB
        causes = (
            f"it left the range {when} the first line, since when it grew by {grown:,.0f} MB",
        )
    return _drift("peak memory", span, peaks[-1], MB, "MB", causes)


def _drift(
    figure: str, span: Interval, value: float, scale: float, unit: str, causes: tuple[str, ...]
) -> Drift:
    """Return a figure's drift, with numbers divided by `scale`."""
    place = "in the range"
    if value < span.low:
        place = f"{1 - value / span.low:.0%} below the range"
    elif value > span.high:
        place = f"{value / span.high - 1:.0%} above the range"
    low, mid, high = (f"{end / scale:,.4g}" for end in (span.low, span.mid, span.high))
    ends = f" ({low} – {high})" if span.low < span.high else ""
    return Drift(figure, f"{mid}{ends}", f"{value / scale:,.4g} {unit}", place, causes)
