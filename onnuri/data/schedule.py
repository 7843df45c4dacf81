"""This module says which source gives which row of training: a pure function of the row's number,
however many ranks or workers ask.

It knows no source and no ids. In a stage, sources take turns by their weights (stride scheduling,
Waldspurger & Weihl 1995): the j-th row of a source of weight w is due at (j + 1/2) / w, and rows
come in the order in which they are due. After any number of rows each source has therefore given
its share of them to within one row per source, and its own rows come in order, none twice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from onnuri.config import Config
from onnuri.errors import ConfigError

UNITS = 1_000_000
"""units in which weights are counted, so that all arithmetic is on whole numbers"""


class MixtureStage(Config):
    """A MixtureStage holds the weights of sources over a range of rows."""

    weights: dict[str, float]
    """weight of each source by its name; they need not sum to 1"""
    rows: int | None = None
    """rows in this stage; None, in the last stage alone: all that follow"""


class SourceRow(NamedTuple):
    """A SourceRow names one row of a source."""

    source: str
    number: int
    """number of the row among those of the source, from 0"""


class RowSchedule:
    """A RowSchedule tells for every row of a run its source and its number within that source."""

    def __init__(self, stages: Sequence[MixtureStage]) -> None:
        """Check the stages. Raises ConfigError for a stage without weights or rows, and for a
        weight that is not a number of at least 1e-6."""
        self.stages: list[tuple[int, dict[str, int]]] = []
        """first row and whole weights of each stage"""
        first = 0
        for k, stage in enumerate(stages):
            self.stages.append((first, _whole_weights(stage.weights)))
            is_last = k == len(stages) - 1
            if stage.rows is None and not is_last:
                raise ConfigError(
                    f"stage {k} of the mixture", "has no number of rows", "give all but the last"
                )
            if stage.rows is not None and stage.rows < 1:
                raise ConfigError(
                    f"stage {k} of the mixture", f"has {stage.rows} rows", "give at least 1"
                )
            first += stage.rows or 0
        if not self.stages:
            raise ConfigError("mixture", "has no stage", "give at least one")
        self.rows = first if stages[-1].rows is not None else None
        """rows of all stages together; None if the last has no end"""
        self._given = functools.lru_cache(None)(self._count_before_stage)

    def source_of(self, row: int) -> SourceRow:
        """Return which row of which source is row number `row` of the run.

        A run that is longer than its stages stays in the last one.
        """
        stage = max(k for k, (first, _) in enumerate(self.stages) if first <= row)
        first, weights = self.stages[stage]
        name, number = _stride(row - first, weights)
        return SourceRow(name, self._given(stage).get(name, 0) + number)

    def _count_before_stage(self, stage: int) -> dict[str, int]:
        """Return how many rows each source has given before a stage begins."""
        if not stage:
            return {}
        first, weights = self.stages[stage - 1]
        counts = dict(self._given(stage - 1))
        for name, count in _counts(self.stages[stage][0] - first, weights).items():
            counts[name] = counts.get(name, 0) + count
        return counts


def _whole_weights(weights: Mapping[str, float]) -> dict[str, int]:
    """Return weights as whole numbers of 1 / UNITS of their sum; weights of 0 are left out."""
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"weight {weight} of {name}", "is no weight", "give a number from 0")
    total = sum(weights.values())
    if not total:
        raise ConfigError("mixture", "has no source with a weight", "give one a weight above 0")
    whole = {name: round(weight / total * UNITS) for name, weight in weights.items() if weight}
    for name, units in whole.items():
        if not units:
            raise ConfigError(
                f"weight {weights[name]} of {name}",
                "is less than a millionth of the mixture",
                "leave the source out or give it more",
            )
    return whole


def _counts(rows: int, weights: dict[str, int]) -> dict[str, int]:
    """Return how many of the first `rows` rows of a stage each source gives."""
    counts = _due_before(max(0, rows - len(weights)), weights)
    for _ in range(rows - sum(counts.values())):
        counts[_next(counts, weights)] += 1
    return counts


def _stride(row: int, weights: dict[str, int]) -> tuple[str, int]:
    """Return the source of a stage's row and how many rows that source gave before it."""
    counts = _counts(row, weights)
    name = _next(counts, weights)
    return name, counts[name]


def _due_before(time: int, weights: dict[str, int]) -> dict[str, int]:
    """Return how many rows of each source are due before a time, in rows: those j with
    (2 j + 1) / (2 w) < time, where w is the source's share of all weights."""
    total = sum(weights.values())
    # (2 j + 1) · total < 2 · w · time, so j < w · time / total - 1/2
    return {
        name: max(0, -((total - 2 * units * time) // (2 * total)))
        for name, units in weights.items()
    }


def _next(counts: dict[str, int], weights: dict[str, int]) -> str:
    """Return the source whose next row is due first; of several, the first in the mixture."""
    names = list(weights)
    best = names[0]
    for name in names[1:]:
        # (2 j + 1) / w compared without division
        if (2 * counts[name] + 1) * weights[best] < (2 * counts[best] + 1) * weights[name]:
            best = name
    return best
