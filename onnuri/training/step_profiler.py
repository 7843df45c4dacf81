"""This module records some steps of a training run with torch.profiler, in the first rank.

    out/profile/steps-20-22.json    a trace, for chrome://tracing or ui.perfetto.dev
    out/profile/steps-20-22.txt     the ten operators that take longest

It knows nothing of what is trained.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import profile

from onnuri.files import write_bytes
from onnuri.parallel import launch

ROWS = 10
"""operators in the table"""


class StepProfiler:
    """A StepProfiler is a context that records the steps of a range, and nothing where the range is
    empty."""

    def __init__(self, steps: range, folder: Path) -> None:
        """Prepare the recording of `steps`, counted from 1, into files of a folder."""
        self.steps = steps if launch.is_first() else range(0)
        self.folder = folder
        self.recording: Any = None
        self.first = self.last = 0

    def __enter__(self) -> Self:
        """Return the profiler, which records nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is recorded of a range that the run's end has cut."""
        self._stop()

    def before(self, step: int) -> None:
        """Start or stop recording before step number `step`."""
        if step not in self.steps:
            self._stop()
            return
        if self.recording is None:
            self.first = step
            self.recording = profile()  # of the CPU and, where there is one, the GPU
            self.recording.start()
        self.last = step

    def _stop(self) -> None:
        """Stop recording and write the files, if anything is recorded."""
        if self.recording is None:
            return
        self.recording.stop()
        name = f"steps-{self.first}-{self.last}"
        write_bytes(longest_operators(self.recording).encode(), self.folder / f"{name}.txt")
        self.recording.export_chrome_trace(str(self.folder / f"{name}.json"))
        self.recording = None


def longest_operators(recording: Any) -> str:
    """Return a table of the operators that take longest themselves, without those that they call:
    share of all operators' time, milliseconds, calls and name."""
    field = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    times = [(getattr(e, field) / 1e3, e.count, e.key) for e in recording.key_averages()]
    total = sum(ms for ms, _, _ in times) or 1.0
    rows = [f"{'share':>7}  {'ms':>10}  {'calls':>8}  operator"]
    for ms, calls, name in sorted(times, reverse=True)[:ROWS]:
        rows.append(f"{ms / total:7.1%}  {ms:10.2f}  {calls:8,}  {name}")
    return "\n".join(rows) + "\n"
