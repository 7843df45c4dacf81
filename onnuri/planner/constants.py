"""Load the constants of a step's time, which a fit moves, and of its memory, which none does:
value, prior, unit and source, in `data/constants.json`.

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
    """A constant of the planner's formulas, with what was believed of it before the fit."""

    name: str
    value: float
    prior: float
    """the value believed before the fit"""
    spread: float
    """standard deviation of the prior's logarithm"""
    unit: str
    source: str
    """of the prior"""
    fitted: bool = True
    """whether a fit to published runs moves it"""


@functools.cache
def load() -> tuple[Constant, ...]:
    """Return all constants of `data/constants.json`, those of speed and of memory."""
    return tuple(Constant.from_json(c) for c in json.loads(FILE.read_text(encoding="utf-8")))


def fitted() -> tuple[Constant, ...]:
    """Return the constants that a fit moves, those of speed."""
    return tuple(c for c in load() if c.fitted)


@functools.cache
def values() -> dict[str, float]:
    """Return the value of every constant by its name."""
    return {c.name: c.value for c in load()}


def save(new: dict[str, float]) -> None:
    """Write the values of a fit; priors stay, and the values of constants that `new` does not
    have."""
    lines = [
        json.dumps(
            {**c.to_json(), "value": float(f"{new.get(c.name, c.value):.4g}")}, ensure_ascii=False
        )
        for c in load()
    ]
    FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def table(rows: Iterable[Constant] | None = None) -> str:
    """Return what `onnuri plan constants` prints: a line per constant, those of speed and of
    memory."""
    shown = tuple(rows or load())
    head = f"{'constant':<20}{'value':>11}{'prior':>11}{'spread':>8}  unit; source of the prior"
    return "\n".join(
        [
            head,
            *(
                f"{c.name:<20}{c.value:>11.4g}{c.prior:>11.4g}{c.spread:>8.2f}"
                f"  {c.unit}; {c.source}"
                for c in shown
            ),
        ]
    )
