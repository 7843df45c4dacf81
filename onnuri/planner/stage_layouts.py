"""Stages of training as jobs on a cluster: which layout each gets, and what gives way where it
would not fit or divide.

Knows no figure of a plan; `search.py` finds layouts, `memory.py` says what fits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase, joined
from onnuri.planner.architecture import Architecture
from onnuri.planner.counts import Aim, Counts, Engines, sequences_on
from onnuri.planner.grid import UNEVEN
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import GIB, memory
from onnuri.planner.parallel import ONNURI, ParallelConfig, Precision, parse, to_string
from onnuri.planner.recipe import Recipe, TrainingStage
from onnuri.planner.saved import Saved
from onnuri.planner.search import Search, least_bytes, search


def fitted(recipe: Recipe, gpus: int, here: bool = False) -> tuple[Recipe, list[str]]:
    """A recipe made for other GPUs: batches become the nearest whole number of sequences a GPU. One
    that has fewer sequences than there are GPUs becomes one a GPU where all is to run `here`, else
    one a rank, of the most ranks that divide the GPUs."""
    stages: list[TrainingStage] = []
    for s in recipe.stages:
        stages.append(s.replace(batch_tokens=sequences_on(s, gpus, here) * s.tokens_per_sequence))
    return recipe.replace(stages=tuple(stages)), other_batches(zip(recipe.stages, stages))


def other_batches(changed: Iterable[tuple[TrainingStage, TrainingStage | Job]]) -> list[str]:
    """A note where batches are not what a recipe says."""
    said = [
        Phrase("{} {:,} → {:,} tokens", s.name, s.batch_tokens, other.batch_tokens)
        for s, other in changed
        if other.batch_tokens != s.batch_tokens
    ]
    return [Phrase("batches that the ranks divide: {}", joined(", ", said))] if said else []


class Question(Config):
    """What the layouts of a plan depend on, days and dollars aside."""

    recipe: Recipe
    cluster: Cluster
    """all GPUs that are there"""
    precisions: tuple[Precision, ...]
    software_year: float | None
    engines: Engines
    here: bool
    exact_gpus: bool


class Phases(NamedTuple):
    """A recipe's stages on the GPUs that are used."""

    cluster: Cluster
    recipe: Recipe
    """with batches that the GPUs divide"""
    jobs: list[Job]
    search: Search | None
    """how the layout of the stage that trains most was found; None where it was given"""
    days_on_all: float | None
    """of the whole recipe on all GPUs that are there, where that was counted"""


def given(q: Question, layout: ParallelConfig) -> Phases:
    """Every stage in a layout that is given. Raises ConfigError for one that does not divide."""
    recipe, _ = fitted(q.recipe, q.cluster.gpus, q.here)
    return Phases(
        q.cluster,
        recipe,
        [stage_job(recipe, s, q.cluster, layout, q.software_year) for s in recipe.stages],
        None,
        None,
    )


def found(q: Question, aim: Aim, counts: Counts, saved: Saved) -> Phases:
    """Every stage in the best layout, on as many GPUs as are best. Raises ConfigError where a stage
    fits in no layout."""
    inputs = {
        "question": q.to_json(),
        "gpu": q.cluster.kind.to_json(),
        "aim": aim.layouts_depend_on(),
    }
    if (kept := saved.get(inputs)) and (phases := _restored(q, kept)):
        return phases
    choice = counts.choose(aim, q.engines, q.here, q.exact_gpus)
    cluster = q.cluster.replace(gpus=choice.gpus)
    recipe, _ = fitted(counts.with_batch(choice.sequences), cluster.gpus, q.here)
    laid, searched = jobs(recipe, cluster, q, counts)
    phases = Phases(cluster, recipe, laid, searched, counts.days.get(q.cluster.gpus))
    saved.put(
        inputs,
        {
            "gpus": cluster.gpus,
            "batches": [s.batch_tokens for s in recipe.stages],
            "layouts": [job.layout.to_json() for job in laid],
            "job_batches": [job.batch_tokens for job in laid],
            "search": searched.to_json(),
            "days_on_all": phases.days_on_all,
        },
    )
    return phases


def _restored(q: Question, kept: dict[str, Any]) -> Phases | None:
    """What `found` kept, None where it is not whole."""
    try:
        cluster = q.cluster.replace(gpus=int(kept["gpus"]))
        recipe = q.recipe.replace(
            stages=tuple(
                s.replace(batch_tokens=int(batch))
                for s, batch in zip(q.recipe.stages, kept["batches"], strict=True)
            )
        )
        laid = [
            Job(
                architecture=_model(recipe, s),
                layout=ParallelConfig.from_json(layout),
                cluster=cluster,
                tokens=s.tokens_per_sequence,
                batch_tokens=int(batch),
                software_year=q.software_year,
            )
            for s, layout, batch in zip(
                recipe.stages, kept["layouts"], kept["job_batches"], strict=True
            )
        ]
        return Phases(cluster, recipe, laid, Search.from_json(kept["search"]), kept["days_on_all"])
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError):
        return None


def jobs(recipe: Recipe, cluster: Cluster, q: Question, counts: Counts) -> tuple[list[Job], Search]:
    """Every stage as a job, and how the layout of the one that trains most was found. Raises
    ConfigError where a stage fits in no layout."""
    ask = _Ask(recipe, cluster, q.precisions, q.software_year, counts)
    main = max(recipe.stages, key=lambda s: s.tokens)
    searched = ask.search(main, q.here)
    chosen = ((searched.here if q.engines == "here" else None) or searched.best[0]).layout
    own = q.engines == "here" and chosen.engine is ONNURI
    return [
        stage_job(recipe, s, cluster, chosen, q.software_year)
        if _shape(recipe, s) == _shape(recipe, main)
        else ask.job(s, own, q.here)
        for s in recipe.stages
    ], searched


def asked(
    recipe: Recipe, cluster: Cluster, layout: ParallelConfig | str | None
) -> ParallelConfig | None:
    """A layout that is given, by name, as it is typed, or as it is. Raises ConfigError for what is
    none."""
    if layout == "own" and not recipe.own_layout:
        raise ConfigError(
            "--layout own",
            Phrase("is a recipe's, and {} is none", recipe.name),
            "leave it out, or write one",
        )
    if isinstance(layout, str):
        layout = recipe.layout if layout == "own" else parse(layout, cluster.gpus)
    if layout:
        layout.check_degrees()
    return layout


def uneven(layers: int, layouts: Iterable[ParallelConfig]) -> list[str]:
    """A note on what an engine needs for pipelines whose stages do not divide the layers."""
    stages = sorted({(x.pp, x.other_engine or "") for x in layouts if layers % x.pp})
    sentence = "{} layers over {} stages are uneven: {} needs "
    return [
        Phrase(sentence + "{}", layers, pp, engine, UNEVEN[engine])
        if engine in UNEVEN
        else Phrase(sentence + "its stages written out", layers, pp, engine)
        for pp, engine in stages
    ]


def eased(recipe: Recipe, jobs: Iterable[Job], layout: ParallelConfig) -> list[str]:
    """A note on stages that are laid out otherwise than was asked."""
    other = [
        Phrase("{} {}", s.name, to_string(job.layout))
        for s, job in zip(recipe.stages, jobs)
        if job.layout != layout
    ]
    return (
        [Phrase("laid out so that they divide and fit: {}", joined("; ", other))] if other else []
    )


class _Ask:
    """Searches for a recipe's stages on one cluster."""

    def __init__(
        self,
        recipe: Recipe,
        cluster: Cluster,
        precisions: tuple[Precision, ...],
        software_year: float | None,
        counts: Counts,
    ) -> None:
        self.recipe, self.cluster, self.precisions, self.software_year = (
            recipe,
            cluster,
            precisions,
            software_year,
        )
        self.counts = counts

    def search(self, stage: TrainingStage, here: bool) -> Search:
        """Layouts of one stage. Raises ConfigError, with what would do, where none fits."""
        a = _model(self.recipe, stage)
        try:
            return search(
                a,
                self.cluster,
                stage.tokens_per_sequence,
                stage.batch_tokens,
                self.precisions,
                here,
                self.software_year,
                self.counts.timer(a, stage.tokens_per_sequence),
                self.counts.cluster.gpus,
            )
        except ConfigError as error:
            raise ConfigError(
                Phrase("{} on {:,} {}", self.recipe.name, self.cluster.gpus, self.cluster.gpu),
                Phrase("{}: {}", stage.name, error.rule),
                self._repair(here),
            ) from None

    def job(self, stage: TrainingStage, own: bool, here: bool) -> Job:
        """A stage in its own best layout, for a checkpoint is laid out anew where a stage
        begins."""
        laid = self.counts.stage(stage, self.cluster.gpus, own, here)
        if laid is None:
            self.search(stage, here)  # says why
            raise AssertionError(stage)
        alone = stage.replace(batch_tokens=laid.sequences * stage.tokens_per_sequence)
        return _stage_job(self.recipe, alone, self.cluster, laid.fit.layout, self.software_year)

    def _repair(self, here: bool) -> str:
        """The next power of two of GPUs on which all stages fit: more, where memory is short,
        fewer, where nothing divides."""
        room, powers = self._room(self.cluster.gpus, here), [2**k for k in range(18)]
        short = math.isfinite(room)
        for gpus in (
            [n for n in powers if n > self.cluster.gpus]
            if short
            else [n for n in powers[::-1] if n < self.cluster.gpus]
        ):
            if self._room(gpus, here) <= self.cluster.kind.memory_bytes:
                return Phrase("use {:,} GPUs", gpus)
        return (
            Phrase("use GPUs of {:,.0f} GiB", room / GIB) if short else "use a power of two of GPUs"
        )

    def _room(self, gpus: int, here: bool) -> float:
        """Bytes a GPU that the hungriest stage needs at least."""
        cluster = self.cluster.replace(gpus=gpus)
        return max(
            least_bytes(
                _model(self.recipe, s),
                cluster,
                s.tokens_per_sequence,
                s.batch_tokens,
                self.precisions,
                here,
            )
            for s in fitted(self.recipe, gpus, here)[0].stages
        )


def _shape(recipe: Recipe, stage: TrainingStage) -> tuple[Architecture, int, int]:
    return _model(recipe, stage), stage.tokens_per_sequence, stage.batch_tokens


def _model(recipe: Recipe, stage: TrainingStage) -> Architecture:
    """Text alone is trained before the vocabulary grows."""
    return recipe.omni if stage.media_share else recipe.architecture


def stage_job(
    recipe: Recipe,
    stage: TrainingStage,
    cluster: Cluster,
    layout: ParallelConfig,
    software_year: float | None = None,
) -> Job:
    """A stage of other sequences or a larger vocabulary than the layout was chosen for: its batch
    grows to the next that divides; where it would not fit, its micro-batch shrinks, then it
    recomputes all."""
    smaller = [
        layout.replace(micro_batch=layout.micro_batch >> k)
        for k in range(layout.micro_batch.bit_length())
    ]
    tried = [
        _stage_job(recipe, stage, cluster, each, software_year)
        for each in (*smaller, *(each.replace(recompute="full") for each in smaller))
    ]
    tried[0].check()
    near, most = None, cluster.kind.memory_bytes
    for job in tried:
        room = memory(job)
        if room.high <= most:
            return job
        near = near or (job if room.total <= most else None)
    return near or tried[-1]


def _stage_job(
    recipe: Recipe,
    stage: TrainingStage,
    cluster: Cluster,
    layout: ParallelConfig,
    software_year: float | None,
) -> Job:
    fewer = max(
        1, min(layout.micro_batch, stage.batch_tokens // (stage.tokens_per_sequence * layout.dp))
    )
    while stage.batch_tokens % (stage.tokens_per_sequence * layout.dp * fewer) and fewer > 1:
        fewer -= 1
    unit = stage.tokens_per_sequence * layout.dp * fewer
    return Job(
        architecture=_model(recipe, stage),
        layout=layout.replace(micro_batch=fewer),
        cluster=cluster,
        tokens=stage.tokens_per_sequence,
        batch_tokens=math.ceil(stage.batch_tokens / unit) * unit,
        software_year=software_year,
    )
