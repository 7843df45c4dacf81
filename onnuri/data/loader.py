"""This module hands every data rank its rows of each training step, made while a step runs.

A row is a pure function of its number, and step after step takes the next numbers. The rows of a
step, and their order over the run, are therefore the same for any number of ranks and workers, and
a run goes on exactly where it stopped: its position is one number, the next row's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from onnuri.config import Config
from onnuri.data.pack import PackedRow
from onnuri.data.schedule import MixtureStage, RowSchedule
from onnuri.errors import ConfigError


class RowSource(Protocol):
    """A RowSource gives packed rows by their number."""

    def row(self, index: int) -> Any:
        """Return row number `index`, packed or in a form of its objective's own, which depends on
        nothing else."""
        ...


class RowMixture:
    """A RowMixture takes rows from several sources by weight, stage by stage (`schedule.py`)."""

    def __init__(self, sources: Mapping[str, RowSource], stages: Sequence[MixtureStage]) -> None:
        """Mix sources by name. Raises ConfigError if a stage weighs a source that is not there."""
        self.sources, self.schedule = dict(sources), RowSchedule(stages)
        named = {name for stage in stages for name, weight in stage.weights.items() if weight}
        if missing := sorted(named - self.sources.keys()):
            raise ConfigError(
                f"mixture's source {missing[0]!r}",
                "is not there",
                f"use one of {', '.join(self.sources)}",
            )

    def row(self, index: int) -> PackedRow:
        """Return row number `index` of the mixture."""
        source, own_index = self.schedule.source_of(index)
        return self.sources[source].row(own_index)


class BatchRamp(Config):
    """A BatchRamp gives the number of rows of each training step, which may grow at the start."""

    rows: int
    """rows per step once the ramp is over"""
    first_rows: int | None = None
    """rows of the first step; None: `rows`, no ramp"""
    steps: int = 0
    """steps over which the rows grow from `first_rows` to `rows`, by multiples of `first_rows`"""

    def rows_at(self, step: int) -> int:
        """Return the number of rows of a step."""
        first = self.first_rows or self.rows
        if step >= self.steps or first >= self.rows:
            return self.rows
        grown = first + (self.rows - first) * step // self.steps
        return grown // first * first

    def rows_before(self, step: int) -> int:
        """Return the number of rows of all steps before `step`."""
        ramp = sum(self.rows_at(k) for k in range(min(step, self.steps)))
        return ramp + max(0, step - self.steps) * self.rows

    def check(self, ranks: int) -> None:
        """Raise ConfigError if the rows of a step cannot be dealt out evenly to data ranks."""
        first = self.first_rows or self.rows
        for name, value in (("rows", self.rows), ("first rows", first)):
            if value < 1 or value % ranks:
                raise ConfigError(
                    f"{value} {name} per step",
                    f"are no multiple of the {ranks} data ranks",
                    f"give such as {max(1, -(-value // ranks)) * ranks}",
                )


class _Numbered(Dataset[PackedRow]):
    """A source's rows as a map-style dataset, which worker processes can index."""

    def __init__(self, source: RowSource) -> None:
        """Wrap a source."""
        self.source = source

    def __getitem__(self, index: int) -> PackedRow:
        """Return row number `index`."""
        return self.source.row(index)


class RowLoader:
    """A RowLoader gives one data rank its share of the rows of step after step."""

    def __init__(
        self,
        source: RowSource,
        ramp: BatchRamp,
        rank: int = 0,
        ranks: int = 1,
        step: int = 0,
        workers: int = 0,
        position: int | None = None,
    ) -> None:
        """Load the rows of data rank `rank` of `ranks` from training step `step` on, whose first
        row is number `position`; without it, that of a run which has left out no rows.

        With `workers`, that many processes make the next rows while a step runs; without, each row
        is made when it is asked for. Raises ConfigError if the ranks do not divide a step's rows.
        """
        ramp.check(ranks)
        self.ramp, self.rank, self.ranks, self.step = ramp, rank, ranks, step
        self.position = ramp.rows_before(step) if position is None else position
        """number of the next step's first row: what all ranks have consumed so far"""
        self.waited_seconds = 0.0
        """seconds in which the last `next_step` made rows, or waited for the workers that do"""
        self.rows: list[Any] = []
        """what the last `next_step` returned"""
        loader: Any = DataLoader(
            _Numbered(source),
            sampler=self._numbers(step),
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),  # a GPU's copy then waits for no step
            # two steps' rows: one that is computed, one that waits
            prefetch_factor=max(2, 2 * ramp.rows // ranks // workers) if workers else None,
        )
        self._rows = iter(loader)

    def _numbers(self, step: int) -> Iterator[int]:
        """Yield the numbers of this rank's rows from a step on, without end."""
        first = self.position
        while True:
            yield from self._share(step, first)
            first, step = first + self.ramp.rows_at(step), step + 1

    def _share(self, step: int, first: int) -> range:
        """Return the numbers of this rank's rows of a step whose rows begin at `first`."""
        share = self.ramp.rows_at(step) // self.ranks
        return range(first + self.rank * share, first + (self.rank + 1) * share)

    def row_numbers(self) -> range:
        """Return the numbers of this rank's rows of the next step."""
        return self._share(self.step, self.position)

    def next_step(self) -> list[Any]:
        """Return this rank's rows of the next step, one micro-batch each."""
        start = time.perf_counter()
        self.rows = [next(self._rows) for _ in self.row_numbers()]
        self.waited_seconds = time.perf_counter() - start
        self.position += self.ramp.rows_at(self.step)
        self.step += 1
        return self.rows
