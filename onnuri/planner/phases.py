"""Stages of training as jobs on a cluster: which layout each gets, and what gives way where it would not fit or divide.

Knows no figure of a plan; `search.py` finds layouts, `memory.py` says what fits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable

from onnuri.errors import ConfigError
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.layout import Layout, Precision, parse, spelled
from onnuri.planner.memory import GIB, memory
from onnuri.planner.recipe import Recipe, TrainingStage
from onnuri.planner.search import Search, least_bytes, search


def fitted(recipe: Recipe, gpus: int, here: bool = False) -> tuple[Recipe, list[str]]:
    """A recipe made for other GPUs: batches become the nearest whole number of sequences a GPU. One that has fewer sequences
    than there are GPUs becomes one a GPU where all is to run `here`, else one a rank, of the most ranks that divide the GPUs."""
    stages: list[TrainingStage] = []
    for s in recipe.stages:
        most = gpus if here else max(1, min(gpus, s.batch_tokens // s.tokens_per_sequence))
        unit = s.tokens_per_sequence * next(n for n in range(most, 0, -1) if gpus % n == 0)
        stages.append(s.replace(batch_tokens=max(1, round(s.batch_tokens / unit)) * unit))
    return recipe.replace(stages=tuple(stages)), other_batches(zip(recipe.stages, stages))


def other_batches(changed: Iterable[tuple[TrainingStage, TrainingStage | Job]]) -> list[str]:
    """A note where batches are not what a recipe says."""
    said = [f"{s.name} {s.batch_tokens:,} → {other.batch_tokens:,} tokens" for s, other in changed
            if other.batch_tokens != s.batch_tokens]
    return ["batches that the ranks divide: " + ", ".join(said)] if said else []


def jobs(recipe: Recipe, cluster: Cluster, layout: Layout | None, precisions: tuple[Precision, ...], here: bool,
         release: float | None) -> tuple[list[Job], Search | None]:
    """Every stage as a job, and how the layout of the one that trains most was found, if none was given. Raises ConfigError
    where a stage fits in no layout."""
    if layout:
        return [stage_job(recipe, s, cluster, layout, release) for s in recipe.stages], None
    ask = _Ask(recipe, cluster, precisions, release)
    main = max(recipe.stages, key=lambda s: s.tokens)
    searched = ask.search(main, here)
    chosen = (searched.here or searched.best[0]).layout
    return [stage_job(recipe, s, cluster, chosen, release) if _shape(recipe, s) == _shape(recipe, main)
            else ask.job(s, chosen.engine is None, here) for s in recipe.stages], searched


def asked(recipe: Recipe, cluster: Cluster, layout: Layout | str | None) -> Layout | None:
    """A layout that is given, by name, as it is typed, or as it is. Raises ConfigError for what is none."""
    if layout == "own" and not recipe.own_layout:
        raise ConfigError("--layout own", f"is a recipe's, and {recipe.name} is none", "leave it out, or write one")
    if isinstance(layout, str):
        layout = recipe.layout if layout == "own" else parse(layout, cluster.gpus)
    if layout:
        layout.check_degrees()
    return layout


def eased(recipe: Recipe, jobs: Iterable[Job], layout: Layout) -> list[str]:
    """A note on stages that are laid out otherwise than was asked."""
    other = [f"{s.name} {spelled(job.layout)}" for s, job in zip(recipe.stages, jobs) if job.layout != layout]
    return ["laid out so that they divide and fit: " + "; ".join(other)] if other else []


def searched_for(recipe: Recipe, cluster: Cluster, precisions: tuple[Precision, ...], release: float | None = None) -> Search:
    """Layouts of the stage that trains the most tokens. Raises ConfigError, with what would do, where none fits."""
    return _Ask(recipe, cluster, precisions, release).search(max(recipe.stages, key=lambda s: s.tokens), False)


class _Ask:
    """Searches for a recipe's stages on one cluster."""

    def __init__(self, recipe: Recipe, cluster: Cluster, precisions: tuple[Precision, ...], release: float | None) -> None:
        self.recipe, self.cluster, self.precisions, self.release = recipe, cluster, precisions, release

    def search(self, stage: TrainingStage, here: bool) -> Search:
        """Layouts of one stage. Raises ConfigError, with what would do, where none fits."""
        try:
            return search(_model(self.recipe, stage), self.cluster, stage.tokens_per_sequence, stage.batch_tokens, self.precisions,
                          here, self.release)
        except ConfigError as error:
            raise ConfigError(f"{self.recipe.name} on {self.cluster.gpus:,} {self.cluster.gpu}", f"{stage.name}: {error.rule}",
                              self._repair(here)) from None

    def job(self, stage: TrainingStage, own: bool, here: bool) -> Job:
        """A stage in its own best layout, for a checkpoint is laid out anew where a stage begins: with `own` one that is
        runnable here, with a sequence a GPU if its batch has fewer; else, unless all must be `here`, any."""
        alone = fitted(self.recipe.replace(stages=(stage,)), self.cluster.gpus, True)[0].stages[0]
        tries = [(alone, True)] * own + [(stage, False)] * (not here)
        for n, (tried, only) in enumerate(tries, 1):
            with contextlib.suppress(*(ConfigError,) * (n < len(tries))):
                found = self.search(tried, only)
                return _stage_job(self.recipe, tried, self.cluster, (found.here or found.best[0]).layout, self.release)
        raise AssertionError(tries)

    def _repair(self, here: bool) -> str:
        """The next power of two of GPUs on which all stages fit: more, where memory is short, fewer, where nothing divides."""
        room, powers = self._room(self.cluster.gpus, here), [2**k for k in range(18)]
        short = math.isfinite(room)
        for gpus in [n for n in powers if n > self.cluster.gpus] if short else [n for n in powers[::-1] if n < self.cluster.gpus]:
            if self._room(gpus, here) <= self.cluster.kind.memory_bytes:
                return f"use {gpus:,} GPUs"
        return f"use GPUs of {room / GIB:,.0f} GiB" if short else "use a power of two of GPUs"

    def _room(self, gpus: int, here: bool) -> float:
        """Bytes a GPU that the hungriest stage needs at least."""
        cluster = self.cluster.replace(gpus=gpus)
        return max(least_bytes(_model(self.recipe, s), cluster, s.tokens_per_sequence, s.batch_tokens, self.precisions, here)
                   for s in fitted(self.recipe, gpus, here)[0].stages)


def _shape(recipe: Recipe, stage: TrainingStage) -> tuple[Architecture, int, int]:
    return _model(recipe, stage), stage.tokens_per_sequence, stage.batch_tokens


def _model(recipe: Recipe, stage: TrainingStage) -> Architecture:
    """Text alone is trained before the vocabulary grows."""
    return recipe.omni if stage.media_share else recipe.architecture


def stage_job(recipe: Recipe, stage: TrainingStage, cluster: Cluster, layout: Layout, release: float | None = None) -> Job:
    """A stage of other sequences or a larger vocabulary than the layout was chosen for: its batch grows to the next that
    divides; where it would not fit, its micro-batch shrinks, then it recomputes all."""
    smaller = [layout.replace(micro_batch=layout.micro_batch >> k) for k in range(layout.micro_batch.bit_length())]
    tried = [_stage_job(recipe, stage, cluster, each, release)
             for each in (*smaller, *(each.replace(recompute="full") for each in smaller))]
    tried[0].check()
    near, most = None, cluster.kind.memory_bytes
    for job in tried:
        room = memory(job)
        if room.high <= most:
            return job
        near = near or (job if room.total <= most else None)
    return near or tried[-1]


def _stage_job(recipe: Recipe, stage: TrainingStage, cluster: Cluster, layout: Layout, release: float | None) -> Job:
    fewer = max(1, min(layout.micro_batch, stage.batch_tokens // (stage.tokens_per_sequence * layout.dp)))
    while stage.batch_tokens % (stage.tokens_per_sequence * layout.dp * fewer) and fewer > 1:
        fewer -= 1
    unit = stage.tokens_per_sequence * layout.dp * fewer
    return Job(architecture=_model(recipe, stage), layout=layout.replace(micro_batch=fewer), cluster=cluster,
               tokens=stage.tokens_per_sequence, batch_tokens=math.ceil(stage.batch_tokens / unit) * unit, release=release)
