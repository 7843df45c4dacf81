"""What a plan says of the published runs behind it, without reading them: `data/evidence.json`.

Knows no row: `calibration/evidence.py` counts the rows and writes the file, and a test holds it
against them.
"""

from __future__ import annotations

import functools
import json

from onnuri.config import Config
from onnuri.planner import hardware

FILE = hardware.DATA / "evidence.json"
CLASSES = {"bf16": ("bf16", "fp16"), "nvfp4": ("fp4",), "fp8": ("fp8",), "mxfp8": ("fp8",)}
"""by a plan's precision: those of published runs that count as alike"""


class AlikeRuns(Config):
    """Published runs of one kind of model on one GPU in one class of precisions."""

    kind: str
    """dense or moe"""
    gpu: str
    precision: str
    """a plan's: one of `CLASSES`"""
    runs: int
    models: tuple[str, ...]
    """four of them at most, by the alphabet"""


class PublishedRuns(Config):
    """A summary of the runs of steady speed that the constants were fitted to."""

    newest_year: float
    """of the newest training software among them"""
    gpus: tuple[str, ...]
    """on which there is one"""
    runs: dict[str, int]
    """by kind, dense or moe"""
    alike: tuple[AlikeRuns, ...]


@functools.cache
def published() -> PublishedRuns:
    """Return the summary that ships with the planner."""
    return PublishedRuns.from_json(json.loads(FILE.read_text(encoding="utf-8")))


def alike(kind: str, gpu: str, precision: str) -> AlikeRuns:
    """Return the published runs like a plan's; without any, an entry of none."""
    for entry in published().alike:
        if (entry.kind, entry.gpu, entry.precision) == (kind, gpu, precision):
            return entry
    return AlikeRuns(kind=kind, gpu=gpu, precision=precision, runs=0, models=())
