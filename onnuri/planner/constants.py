"""The fitted constants of the step's time: value, prior, unit, source; `data/constants.json`,
written by `calibration/fit.py`.

Knows no formula. None belongs to a row, a source or a model.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from onnuri.config import Config
from onnuri.planner.hardware import DATA

FILE = DATA / "constants.json"


class Constant(Config):
    name: str
    value: float
    prior: float
    """what was believed before the fit"""
    spread: float
    """of the prior's logarithm, one standard deviation"""
    unit: str
    source: str
    """of the prior"""


@functools.cache
def load() -> tuple[Constant, ...]:
    return tuple(Constant.from_json(c) for c in json.loads(FILE.read_text(encoding="utf-8")))


@functools.cache
def values() -> dict[str, float]:
    return {c.name: c.value for c in load()}


def save(fitted: dict[str, float]) -> None:
    """Write the values of a fit; priors stay, and values that are not given."""
    lines = [
        json.dumps(
            {**c.to_json(), "value": float(f"{fitted.get(c.name, c.value):.4g}")},
            ensure_ascii=False,
        )
        for c in load()
    ]
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def table(rows: Iterable[Constant] | None = None) -> str:
    """What `onnuri plan constants` prints: those of speed and of memory."""
    from onnuri.planner import memory  # which takes `Constant` from here

    shown = tuple(rows or (*load(), *memory.CONSTANTS.values()))
    head = f"{'constant':<20}{'value':>11}{'prior':>11}{'spread':>8}  unit; source of the prior"
    return "\n".join(
        [
            head,
            *(
                f"{c.name:<20}{c.value:>11.4g}{c.prior:>11.4g}{c.spread:>8.2f}  {c.unit}; {c.source}"
                for c in shown
            ),
        ]
    )
