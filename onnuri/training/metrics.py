"""This module writes a run's figures: JSON lines for programs, a bar with the time left for people.

A line holds means since the line before over all ranks, and of what a rank waits for or takes the
most of any rank. It knows nothing of what is trained.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from torch import Tensor

from onnuri.model.loss import LossParts
from onnuri.parallel import launch
from onnuri.training.event_files import EventFiles
from onnuri.training.run_meter import RunMeter

MOST = "/most/"
"""prefix of sums of which a line holds the greatest of any rank: all ranks wait for that one"""


class MetricsLog:
    """A MetricsLog appends one JSON object per line to a file.

    Lines after `step` are dropped when it opens: a sitting that was killed wrote them after its
    last checkpoint, and the run writes them again.
    """

    def __init__(
        self,
        path: Path,
        step: int,
        data_ranks: int = 1,
        meter: RunMeter | None = None,
        tensorboard: bool = False,
    ) -> None:
        """Open the log of a run that resumes at `step` and drop later lines; `data_ranks` ranks
        read different rows.

        With a `meter`, lines hold its figures; with `tensorboard`, they are also written as event
        files into the folder tensorboard beside `path`.
        """
        self.path, self.data_ranks, self.meter = path, data_ranks, meter
        self.writes = launch.is_first()
        self.events = (
            EventFiles(path.with_name("tensorboard"), step) if tensorboard and self.writes else None
        )
        self.sums: Any = Counter()  # of floats and tensors, which Counter's types do not foresee
        if not self.writes:
            return
        lines = [line for line in complete_lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def add(self, seconds: float, figures: Mapping[str, Tensor | float | LossParts]) -> None:
        """Add one step's seconds and figures to the means of the next line. Tensors stay on their
        device until then."""
        for name, value in figures.items():
            if name == "loader_seconds":
                self.sums[MOST + name] += value
                continue
            total, count = value[:2] if isinstance(value, LossParts) else (value, 1)
            # in 64 bits, since sums of many 16-bit figures stop growing; no read, which would wait
            self.sums[name] += total.detach().double() if isinstance(total, Tensor) else total
            self.sums[f"{name}/n"] += count
        self.sums.update({"/steps": 1, "/seconds": seconds})
        if self.meter:
            self.meter.add_step(seconds)

    def write(self, **position: Any) -> None:
        """Append a line: the run's position, means since the last line over all ranks, steps and
        tokens per second of all ranks, and the meter's figures. Every rank must call it; the first
        one writes."""
        steps = self.sums["/steps"]
        if MOST + "loader_seconds" in self.sums:
            self.sums[MOST + "loader_seconds"] /= steps
        for name, value in (self.meter.read() if self.meter else {}).items():
            self.sums[MOST + name] = value
        self._gather()
        means = {
            n: float(v) / float(self.sums[f"{n}/n"]) for n, v in self.sums.items() if "/" not in n
        }
        steps_per_second = steps / max(self.sums["/seconds"], 1e-9)
        most = {n.removeprefix(MOST): v for n, v in self.sums.items() if n.startswith(MOST)}
        self.sums.clear()
        figures = {**position, **means, "steps_per_second": steps_per_second}
        if "tokens" in means:
            figures["tokens_per_second"] = steps_per_second * means["tokens"]
            figures |= self.meter.speed(figures["tokens_per_second"]) if self.meter else {}
        figures |= {**most, "time": time.time()}
        if not self.writes:
            return
        rounded = {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        if self.events:
            self.events.add(rounded)

    def _gather(self) -> None:
        """Add up what all data ranks have summed, and keep the most of any rank of what is no sum;
        the seconds of steps are the first rank's."""
        if not dist.is_initialized():
            return
        own = {name: float(value) for name, value in self.sums.items()}
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, own)
        # tensor-parallel ranks count the same rows: both sum and weight are as many times too large
        self.sums = Counter(every[0])
        for other in every[1:]:
            for name, value in other.items():
                if name.startswith(MOST):
                    self.sums[name] = max(self.sums[name], value)
                elif not name.startswith("/"):
                    self.sums[name] += value
        if "tokens" in self.sums:
            self.sums["tokens"] /= len(every) / self.data_ranks
            self.sums["tokens/n"] = self.sums["/steps"]


def complete_lines(path: Path) -> list[str]:
    """Return the complete lines of a file of JSON objects, none without a file: a killed run may
    leave half of one."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("{") and line.endswith("}")]


class ProgressBar:
    """A ProgressBar draws a bar on a terminal, and prints a line every half minute elsewhere; ranks
    but the first show nothing."""

    def __init__(self, name: str) -> None:
        """Prepare a bar with a name; it is drawn on a terminal only."""
        self.name, self.console, self.loss = name, launch.console(), ""
        self.printed = time.perf_counter()
        self.draws = self.console.is_terminal and launch.is_first()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = Bar(*columns, console=self.console, disable=not self.draws)

    def __enter__(self) -> Self:
        """Show the bar."""
        self.bar.start()
        self.row = self.bar.add_task(self.name, total=1.0, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it is and restore the terminal."""
        self.bar.stop()

    def note(self, text: str) -> None:
        """Print a line."""
        self.console.print(f"{self.name}: {text}", highlight=False)

    def show(self, progress: float, elapsed_seconds: float, step: int, loss: float | None) -> None:
        """Show a share `progress` of the budget in [0, 1], the time left and the loss.

        Without a loss, the one shown before stays.
        """
        left_seconds = elapsed_seconds * (1 - progress) / max(progress, 1e-9)
        self.loss = f"loss {loss:.4f}" if loss is not None else self.loss
        note = f"step {step}  {self.loss}  {clock_text(left_seconds)} left"
        self.bar.update(self.row, completed=progress, note=note)
        if not self.console.is_terminal and time.perf_counter() - self.printed > 30:
            self.console.print(f"{self.name} {progress:6.1%}  {note}", highlight=False)
            self.printed = time.perf_counter()


def clock_text(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
