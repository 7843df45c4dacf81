"""This module shows a run's folder on a terminal, live or afterwards: `onnuri watch OUT`.

It reads files only, so it may run on any machine that sees the folder, and it knows no recipe.

    OUT/forecast.json, OUT/outcome.json         what was expected and what came (`run_forecast.py`)
    OUT/STAGE/metrics.jsonl, sittings.jsonl     figures (`metrics.py`, `run_meter.py`)

A folder of a stage, or of a run without stages, has these two itself.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar as Bar
from rich.table import Table
from rich.text import Text

from onnuri.errors import ConfigError
from onnuri.profile import drift
from onnuri.profile.run_forecast import FORECAST, Forecast
from onnuri.training.metrics import clock_text, complete_lines
from onnuri.training.run_meter import SITTINGS, Sitting

METRICS = "metrics.jsonl"
TICKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 24
"""characters of a sparkline"""
SILENT_SECONDS, SILENT_LINES = 60.0, 5
"""a run is called silent after so many seconds without a line, and as many usual intervals"""


class RunState(NamedTuple):
    """A RunState holds what the files of one stage say at a moment."""

    folder: Path
    others: tuple[str, ...]
    """names of the run's other stages that have begun"""
    lines: list[drift.Line]
    """lines of metrics.jsonl, oldest first"""
    sittings: list[Sitting]
    forecast: Forecast | None

    @property
    def sitting(self) -> Sitting | None:
        """Return the last sitting, None for a run from before they were noted."""
        return self.sittings[-1] if self.sittings else None


class Progress(NamedTuple):
    """A Progress says how far a run is."""

    share: float
    """share of the budget, 0 to 1"""
    left_seconds: float
    """seconds until the budget is used up, saves included"""
    ended: bool
    """whether no further line is expected"""
    minutes: float
    """minutes of training steps in all, as the run goes now"""


def watch(out: Path, refresh_seconds: float, once: bool) -> None:
    """Show the run in a folder until it has ended or the user interrupts, or `once`.

    Raises ConfigError for a folder without a run and for seconds that are none.
    """
    if not 0.1 <= refresh_seconds <= 3600:
        raise ConfigError(
            f"--refresh {refresh_seconds:g}",
            "is not within 0.1 and 3,600 seconds",
            "give such as 2",
        )
    console, state = Console(), read_run(out)
    if once:
        console.print(frame(state, time.time()))
        return
    try:
        with Live(frame(state, time.time()), console=console, auto_refresh=False) as live:
            while not _has_ended(state):
                time.sleep(refresh_seconds)
                state = read_run(out)
                live.update(frame(state, time.time()), refresh=True)
    except KeyboardInterrupt:  # ends the view, not the run
        return


def read_run(out: Path) -> RunState:
    """Return what the files of the stage that wrote last say. Raises ConfigError for a folder
    without a run."""
    folders = [out, *sorted(out.iterdir())] if out.is_dir() else []
    stages = [folder for folder in folders if (folder / SITTINGS).exists() or _has_lines(folder)]
    if not stages:
        raise ConfigError(
            str(out),
            f"holds no run: neither it nor a folder in it has {METRICS} with a line",
            "give the --out of onnuri train, such as runs/laptop-full, once steps are done",
        )
    stages.sort(key=_last_write)
    folder = stages[-1]
    return RunState(
        folder=folder,
        others=tuple(stage.name for stage in stages[:-1]),
        lines=[json.loads(line) for line in complete_lines(folder / METRICS)],
        sittings=[
            Sitting.from_json(json.loads(line)) for line in complete_lines(folder / SITTINGS)
        ],
        forecast=_forecast(folder),
    )


def _has_lines(folder: Path) -> bool:
    """Return whether a folder has a log with at least one line."""
    log = folder / METRICS
    return log.is_file() and log.stat().st_size > 0


def _last_write(folder: Path) -> float:
    """Return when a stage's files were last written, in Unix seconds."""
    files = [folder / name for name in (METRICS, SITTINGS)]
    return max(file.stat().st_mtime for file in files if file.exists())


def _forecast(folder: Path) -> Forecast | None:
    """Return the forecast of a stage, which stands in its run's folder; None without one."""
    path = folder.resolve().parent / FORECAST
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    stage = values.get(folder.resolve().name)
    return Forecast.from_json(stage) if stage else None


def progress(state: RunState) -> Progress | None:
    """Return how far a run is; None where its budget is not known, or no line is written yet."""
    sitting = state.sitting
    if sitting is None or not state.lines:
        return None
    line, w = state.lines[-1], drift.recent_speed(state.lines, sitting)
    step, seconds = line["step"], line["seconds"]
    if sitting.steps:
        left_steps = max(0, sitting.steps - step)
        share, left = step / sitting.steps, left_steps / w.steps_per_second
        ended = left_steps < sitting.log_every
    else:
        budget_seconds = 60 * (sitting.minutes or 0.0)
        share, left = seconds / max(budget_seconds, 1e-9), max(0.0, budget_seconds - seconds)
        ended = left * w.steps_per_second < sitting.log_every
    return Progress(min(share, 1.0), left / (1 - w.saves), ended, (seconds + left) / 60)


def _has_ended(state: RunState) -> bool:
    """Return whether no further line of a run is expected."""
    done = progress(state)
    return done is not None and done.ended


def frame(state: RunState, now: float) -> RenderableType:
    """Return one picture of a run at Unix time `now`."""
    title = f"{state.folder.parent.name}/{state.folder.name}"
    if not state.lines:
        sitting = state.sittings[-1]
        note = f"no line yet: one every {sitting.log_every} steps; the first step took "
        return Panel(note + f"{sitting.first_step_seconds:.3g} s", title=title)
    return Panel(
        Group(_headline(state, now), Text(), _figures(state), Text(), _plan(state)), title=title
    )


def _headline(state: RunState, now: float) -> RenderableType:
    """Return where a run stands: its device, progress and time left, or that it is silent."""
    sitting, done, line = state.sitting, progress(state), state.lines[-1]
    place = f"{sitting.ranks} × {sitting.device}" if sitting else "device not noted"
    restarts = f", restarts {len(state.sittings) - 1}" if len(state.sittings) > 1 else ""
    stages = f", after {', '.join(state.others)}" if state.others else ""
    head = Text(f"{place}{restarts}{stages}")
    if done is None:
        return Group(head, Text(f"step {line['step']:,}, budget not noted"))
    budget = f" of {sitting.steps:,}" if sitting and sitting.steps else ""
    left = "ended" if done.ended else f"{clock_text(done.left_seconds)} left"
    row = Table.grid(padding=(0, 1))
    text = f"{done.share:4.0%}  step {line['step']:,}{budget}  {left}"
    row.add_row(Bar(total=1.0, completed=done.share, width=SPARK_WIDTH), text)
    silence = "" if done.ended else _silence(state.lines, now)
    return Group(head, row, *([Text(silence, style="yellow")] if silence else []))


def _silence(lines: Sequence[drift.Line], now: float) -> str:
    """Return a sentence if a run has not written for much longer than usual, else an empty text."""
    times = [line["time"] for line in lines if "time" in line]
    if not times:
        return ""
    gaps = [b - a for a, b in itertools.pairwise(times[-drift.RECENT_LINES :])]
    limit = max(SILENT_SECONDS, SILENT_LINES * statistics.median(gaps) if gaps else 0.0)
    if now - times[-1] <= limit:
        return ""
    return f"no line for {clock_text(now - times[-1])}: it was stopped or is stuck"


def _figures(state: RunState) -> Table:
    """Return the figures of the last line, with sparklines over the whole run."""
    lines = state.lines
    line, table = lines[-1], Table.grid(padding=(0, 2))
    table.add_row("loss", f"{line['loss']:.4f}", sparkline([x["loss"] for x in lines]))
    for name in sorted({n for x in lines for n in x if n.startswith("loss_")}):
        values = [x[name] for x in lines if name in x]
        label = "  " + name.removeprefix("loss_")
        table.add_row(label, f"{values[-1]:.4f}", sparkline(values))
    speed = "tokens_per_second" if "tokens_per_second" in line else "steps_per_second"
    unit = speed.removesuffix("_per_second") + "/s"
    speeds = [x[speed] for x in lines if speed in x]
    table.add_row("speed", f"{line[speed]:,.4g} {unit}", sparkline(speeds))
    if "mfu" in line and state.sitting and state.sitting.product_flops_per_second:
        most = state.sitting.product_flops_per_second * state.sitting.ranks / 1e12
        text = f"{line['tflops_per_second']:.4g} of {most:.4g} TFLOP/s of a large product"
        table.add_row("MFU", f"{line['mfu']:.1%}", text)
    if "peak_bytes" in line:
        table.add_row("memory", f"{line['peak_bytes'] / drift.MB:,.0f} MB", "at most, fullest rank")
    norms = [x["grad_norm"] for x in lines]
    table.add_row("gradient norm", f"{norms[-1]:.4g}", sparkline(norms))
    table.add_row("learning rate", f"{line['lr']:.3g}", sparkline([x["lr"] for x in lines]))
    table.add_row("waits", "", _waits(state))
    if rewinds := max(x.get("rewinds", 0) for x in lines):
        table.add_row("rewinds", f"{rewinds}", "back to a state from before a bad loss")
    if skipped := line.get("skipped_steps"):
        table.add_row("left out", f"{skipped:.0f} steps", "their gradients were not finite")
    return table


def _waits(state: RunState) -> str:
    """Return the shares of the time that went to rows, to waiting for a core and to saves."""
    w = drift.recent_speed(state.lines, state.sitting)
    saves = [x["save_seconds"] for x in state.lines if x.get("save_seconds")]
    total = f" ({len(saves)} so far, {sum(saves):.3g} s)" if saves else ""
    return f"rows {w.rows:.0%}, no core {w.cores:.0%}, saves {w.saves:.0%}{total}"


def _plan(state: RunState) -> RenderableType:
    """Return a run beside its forecast, with the causes of what is out of its range."""
    slower = drift.own_pace(state.lines, state.sitting)
    notes = [Text(slower, style="yellow")] if slower else []
    if state.forecast is None:
        return Group(Text("no forecast is stored for this run"), *notes)
    sitting, done = state.sitting, progress(state)
    if sitting and (sitting.ranks > 1 or sitting.device != "cpu"):
        text = "the forecast is of one process on a CPU: this run is not compared with it"
        return Group(Text(text), *notes)
    table = Table("plan", "forecast (80 %)", "measured", "", box=None, padding=(0, 2, 0, 0))
    minutes = done.minutes if done and sitting and sitting.steps else None
    for row in drift.drifts(state.forecast, state.lines, sitting, minutes):
        style = "green" if row.place == "in the range" else "yellow"
        table.add_row(row.figure, row.forecast, row.measured, Text(row.place, style=style))
        notes += [Text(f"{row.figure}: {cause}", style="yellow") for cause in row.causes]
    if loss := state.forecast.loss:
        text = f"{loss.mid:.4g} ({loss.low:.4g} – {loss.high:.4g})"
        table.add_row("loss at the end", text, f"{state.lines[-1]['loss']:.4g} now", "")
    return Group(table, *notes)


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return a line of blocks as high as the means of equal parts of the values, from the least to
    the greatest; values that are not finite are left out."""
    finite = [v for v in values if abs(v) < float("inf")]
    if not finite:
        return ""
    count = min(width, len(finite))
    edges = [k * len(finite) // count for k in range(count + 1)]
    means = [statistics.fmean(finite[a:b]) for a, b in itertools.pairwise(edges)]
    least, span = min(means), max(means) - min(means)
    if span == 0:
        return TICKS[0] * count
    return "".join(TICKS[round((m - least) / span * (len(TICKS) - 1))] for m in means)
