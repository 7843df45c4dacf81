"""Read what a plan says of the published runs behind it, without reading the runs:
`data/evidence.json`.

Knows no row: `calibration/evidence.py` counts the rows and writes the file, and a test holds it
against them.
"""

from __future__ import annotations

import functools
import json
from typing import NamedTuple

from onnuri.planner import hardware

FILE = hardware.DATA / "evidence.json"
CLASSES = {"bf16": ("bf16", "fp16"), "nvfp4": ("fp4",), "fp8": ("fp8",), "mxfp8": ("fp8",)}
"""by a plan's precision, the precisions of published runs that count as alike"""


class PublishedRuns(NamedTuple):
    """A summary of the runs of steady speed that the constants were fitted to."""

    newest_year: float
    """of the newest training software among them"""
    gpus: list[str]
    """on which there is a run"""
    runs: dict[str, int]
    """number of runs by kind: dense or moe"""
    alike: dict[str, int]
    """number of runs by kind, GPU and class of precisions, where there are any"""
    models: dict[str, list[str]]
    """names of the models of those runs, four at most"""


@functools.cache
def published() -> PublishedRuns:
    """Return the summary of the published runs that ships with the planner, read once."""
    return PublishedRuns(**json.loads(FILE.read_text(encoding="utf-8")))


def key(kind: str, gpu: str, precision: str) -> str:
    """Return the key under which the runs of a kind, GPU and precision are counted."""
    return f"{kind} on {gpu} in {precision}"
