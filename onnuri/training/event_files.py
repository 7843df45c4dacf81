"""This module writes the lines of metrics.jsonl as scalars for TensorBoard, which needs the package
`tensorboard` (extra `watch`). It knows nothing of what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

NO_SCALARS = ("step", "time")
"""figures of a line that say where a scalar stands"""


class EventFiles:
    """An EventFiles holds the open event file of one sitting of a run."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open a file in a folder for a run that resumes at `step`: later scalars of an earlier
        sitting are hidden, as its lines are dropped."""
        from torch.utils import tensorboard  # read only where it is asked for

        summary_writer: Any = tensorboard.SummaryWriter
        self.writer = summary_writer(str(folder), purge_step=step + 1)

    def add(self, line: Mapping[str, Any]) -> None:
        """Write the figures of a line, all numbers but its step and time, and flush them."""
        for name, value in line.items():
            if name not in NO_SCALARS and isinstance(value, int | float):
                self.writer.add_scalar(name, value, line["step"], walltime=line.get("time"))
        self.writer.flush()
