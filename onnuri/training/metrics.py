"""A run's figures: JSON lines for programs, a bar with the time left for people. Knows nothing of
what is trained."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from torch import Tensor


class MetricsLog:
    """Appends one JSON object a line. Lines after `step`, of a sitting whose end was lost, are
    dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.since = path, Counter[str]()
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [line for line in lines if line.startswith("{") and line.endswith("}")]

    def add(self, seconds: float, figures: Mapping[str, Tensor | float]) -> None:
        """Take one step's figures, for the means of the next line. Tensors stay where they are
        until then."""
        values = {
            name: value.detach().double() if isinstance(value, Tensor) else value
            for name, value in figures.items()
        }
        self.since.update(values)  # type: ignore[arg-type]
        self.since.update({f"{name}/n": 1 for name in figures} | {"/steps": 1, "/seconds": seconds})  # type: ignore[dict-item]

    def write(self, **at: Any) -> None:
        """A line: where the run is, means of what was added since the last one, steps (and tokens)
        a second."""
        means = {n: float(v) / self.since[f"{n}/n"] for n, v in self.since.items() if "/" not in n}
        pace = self.since["/steps"] / max(self.since["/seconds"], 1e-9)
        speed = {"steps_per_second": pace} | (
            {"tokens_per_second": pace * means["tokens"]} if "tokens" in means else {}
        )
        self.since.clear()
        figures = {**at, **means, **speed}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps(
                    {k: round(v, 6) if isinstance(v, float) else v for k, v in figures.items()}
                )
                + "\n"
            )


class ProgressBar:
    """A bar on a terminal, a line every half minute elsewhere."""

    def __init__(self, name: str) -> None:
        self.name, self.console, self.shown = name, Console(), ""
        self.said = time.perf_counter()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = Bar(*columns, console=self.console, disable=not self.console.is_terminal)

    def __enter__(self) -> Self:
        self.bar.start()
        self.row = self.bar.add_task(self.name, total=1.0, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def show(self, share: float, spent: float, step: int, loss: float | None) -> None:
        """Show the `share` of the budget that is done and `spent` seconds so far; without a loss,
        the last that was told."""
        left = spent * (1 - share) / max(share, 1e-9)
        self.shown = f"loss {loss:.4f}" if loss is not None else self.shown
        note = f"step {step}  {self.shown}  {_clock(left)} left"
        self.bar.update(self.row, completed=share, note=note)
        if not self.console.is_terminal and time.perf_counter() - self.said > 30:
            self.console.print(f"{self.name} {share:6.1%}  {note}", highlight=False)
            self.said = time.perf_counter()


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
