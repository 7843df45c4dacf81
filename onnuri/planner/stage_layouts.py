"""Turn a recipe's stages into jobs on a cluster: which layout each gets, and what gives way where
it would not fit or divide.

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
from onnuri.planner.parallel import ParallelConfig, Precision, parse, to_string
from onnuri.planner.recipe import Recipe, TrainingStage
from onnuri.planner.saved import Saved
from onnuri.planner.search import Search, least_bytes, search


def fit_batches(recipe: Recipe, gpus: int, here: bool = False) -> tuple[Recipe, list[str]]:
    """Return a recipe with batches that so many GPUs divide, and notes on those that changed.

    Batches become the nearest whole number of sequences per GPU. One that has fewer sequences than
    there are GPUs becomes one per GPU where all is to run `here`, else one per rank, of the most
    ranks that divide the GPUs.
    """
    stages: list[TrainingStage] = []
    for s in recipe.stages:
        stages.append(s.replace(batch_tokens=sequences_on(s, gpus, here) * s.tokens_per_sequence))
    return recipe.replace(stages=tuple(stages)), batch_notes(zip(recipe.stages, stages))


def batch_notes(changed: Iterable[tuple[TrainingStage, TrainingStage | Job]]) -> list[str]:
    """Return a note where batches are not what a recipe says; an empty list where all are."""
    sentences = [
        Phrase("{} {:,} → {:,} tokens", s.name, s.batch_tokens, other.batch_tokens)
        for s, other in changed
        if other.batch_tokens != s.batch_tokens
    ]
    return (
        [Phrase("batches that the ranks divide: {}", joined(", ", sentences))] if sentences else []
    )


class Question(Config):
    """All that the layouts of a plan depend on, days and dollars aside."""

    recipe: Recipe
    cluster: Cluster
    """with all available GPUs"""
    precisions: tuple[Precision, ...]
    software_year: float | None
    engines: Engines
    here: bool
    """whether only layouts that Onnuri's trainer runs count"""
    exact_gpus: bool
    """whether all GPUs of the cluster must be used"""


class Phases(NamedTuple):
    """A recipe's stages as jobs on the GPUs that are used."""

    cluster: Cluster
    recipe: Recipe
    """with batches that the GPUs divide"""
    jobs: list[Job]
    search: Search | None
    """how the layout of the stage that trains most was found; None where the layout was the
    user's"""
    days_on_all: float | None
    """days of the whole recipe on all available GPUs, where they were counted"""


def phases_in_layout(q: Question, layout: ParallelConfig) -> Phases:
    """Return every stage as a job in the user's layout. Raises ConfigError for one that does not
    divide."""
    recipe, _ = fit_batches(q.recipe, q.cluster.gpus, q.here)
    return Phases(
        q.cluster,
        recipe,
        [stage_job(recipe, s, q.cluster, layout, q.software_year) for s in recipe.stages],
        None,
        None,
    )


def phases_by_search(q: Question, aim: Aim, counts: Counts, saved: Saved) -> Phases:
    """Return every stage as a job in its best layout, on the best number of GPUs. Raises
    ConfigError where a stage fits in no layout.

    An answer that `saved` holds is taken from there, a new one is put there.
    """
    inputs = {
        "question": q.to_json(),
        "gpu": q.cluster.kind.to_json(),
        "aim": aim.layouts_depend_on(),
    }
    if (record := saved.get(inputs)) and (phases := _restored(q, record)):
        return phases
    choice = counts.choose(aim, q.engines, q.here, q.exact_gpus)
    cluster = q.cluster.replace(gpus=choice.gpus)
    recipe, _ = fit_batches(counts.with_batch(choice.sequences), cluster.gpus, q.here)
    stage_jobs, result = jobs(recipe, cluster, q, counts)
    phases = Phases(cluster, recipe, stage_jobs, result, counts.days.get(q.cluster.gpus))
    saved.put(
        inputs,
        {
            "gpus": cluster.gpus,
            "batches": [s.batch_tokens for s in recipe.stages],
            "layouts": [job.layout.to_json() for job in stage_jobs],
            "job_batches": [job.batch_tokens for job in stage_jobs],
            "search": result.to_json(),
            "days_on_all": phases.days_on_all,
        },
    )
    return phases


def _restored(q: Question, record: dict[str, Any]) -> Phases | None:
    """Return the phases that `phases_by_search` saved; None where the record is not whole."""
    try:
        cluster = q.cluster.replace(gpus=int(record["gpus"]))
        recipe = q.recipe.replace(
            stages=tuple(
                s.replace(batch_tokens=int(batch))
                for s, batch in zip(q.recipe.stages, record["batches"], strict=True)
            )
        )
        stage_jobs = [
            Job(
                architecture=_model(recipe, s),
                layout=ParallelConfig.from_json(layout),
                cluster=cluster,
                tokens=s.tokens_per_sequence,
                batch_tokens=int(batch),
                software_year=q.software_year,
            )
            for s, layout, batch in zip(
                recipe.stages, record["layouts"], record["job_batches"], strict=True
            )
        ]
        return Phases(
            cluster, recipe, stage_jobs, Search.from_json(record["search"]), record["days_on_all"]
        )
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError):
        return None


def jobs(recipe: Recipe, cluster: Cluster, q: Question, counts: Counts) -> tuple[list[Job], Search]:
    """Return every stage as a job, and the search that found the layout of the stage that trains
    most. Raises ConfigError where a stage fits in no layout."""
    stage_search = _StageSearch(recipe, cluster, q.precisions, q.software_year, counts)
    main = max(recipe.stages, key=lambda s: s.tokens)
    result = stage_search.search(main, q.here)
    chosen = ((result.here if q.engines == "here" else None) or result.best[0]).layout
    own = q.engines == "here" and chosen.other_engine is None
    return [
        stage_job(recipe, s, cluster, chosen, q.software_year)
        if _workload(recipe, s) == _workload(recipe, main)
        else stage_search.job(s, own, q.here)
        for s in recipe.stages
    ], result


def requested_layout(
    recipe: Recipe, cluster: Cluster, layout: ParallelConfig | str | None
) -> ParallelConfig | None:
    """Return the layout that the user gives: by the name `own`, as it is typed, or as it is; None
    where none is given. Raises ConfigError for what is no layout."""
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


def uneven_notes(layers: int, layouts: Iterable[ParallelConfig]) -> list[str]:
    """Return notes on what an engine needs for pipelines whose stages do not divide the layers."""
    stages = sorted({(x.pp, x.other_engine or "") for x in layouts if layers % x.pp})
    sentence = "{} layers over {} stages are uneven: {} needs "
    return [
        Phrase(sentence + "{}", layers, pp, engine, UNEVEN[engine])
        if engine in UNEVEN
        else Phrase(sentence + "its stages written out", layers, pp, engine)
        for pp, engine in stages
    ]


def changed_layout_notes(recipe: Recipe, jobs: Iterable[Job], layout: ParallelConfig) -> list[str]:
    """Return a note on stages whose layout differs from the user's, because they would not divide
    or fit otherwise."""
    other = [
        Phrase("{} {}", s.name, to_string(job.layout))
        for s, job in zip(recipe.stages, jobs)
        if job.layout != layout
    ]
    return (
        [Phrase("laid out so that they divide and fit: {}", joined("; ", other))] if other else []
    )


class _StageSearch:
    """Searches for the layouts of a recipe's stages on one cluster."""

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
        """Return the layouts of one stage. Raises ConfigError, with a number of GPUs that would do,
        where none fits."""
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
        """Return the job of a stage in its own best layout. It need not be the other stages'
        layout, because a checkpoint is resharded where a stage begins."""
        stage_fit = self.counts.stage(stage, self.cluster.gpus, own, here)
        if stage_fit is None:
            self.search(stage, here)  # says why
            raise AssertionError(stage)
        alone = stage.replace(batch_tokens=stage_fit.sequences * stage.tokens_per_sequence)
        return _stage_job(
            self.recipe, alone, self.cluster, stage_fit.fit.layout, self.software_year
        )

    def _repair(self, here: bool) -> str:
        """Return the error's advice: the next power of two of GPUs on which all stages fit, more
        where memory is short, fewer where nothing divides."""
        room, powers = self._least_memory(self.cluster.gpus, here), [2**k for k in range(18)]
        short = math.isfinite(room)
        for gpus in (
            [n for n in powers if n > self.cluster.gpus]
            if short
            else [n for n in powers[::-1] if n < self.cluster.gpus]
        ):
            if self._least_memory(gpus, here) <= self.cluster.kind.memory_bytes:
                return Phrase("use {:,} GPUs", gpus)
        return (
            Phrase("use GPUs of {:,.0f} GiB", room / GIB) if short else "use a power of two of GPUs"
        )

    def _least_memory(self, gpus: int, here: bool) -> float:
        """Return the bytes per GPU that the stage with the largest need takes at least on so many
        GPUs; infinite where nothing divides."""
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
            for s in fit_batches(self.recipe, gpus, here)[0].stages
        )


def _workload(recipe: Recipe, stage: TrainingStage) -> tuple[Architecture, int, int]:
    """Return what must be equal for two stages to share a layout: model, tokens per sequence and
    tokens per batch."""
    return _model(recipe, stage), stage.tokens_per_sequence, stage.batch_tokens


def _model(recipe: Recipe, stage: TrainingStage) -> Architecture:
    """Return the model that a stage trains: text alone is trained before the vocabulary grows."""
    return recipe.omni if stage.media_share else recipe.architecture


def stage_job(
    recipe: Recipe,
    stage: TrainingStage,
    cluster: Cluster,
    layout: ParallelConfig,
    software_year: float | None = None,
) -> Job:
    """Return the job of a stage in a layout that was chosen for another stage, changed so that it
    divides and fits.

    Where sequences are longer or the vocabulary is larger, the batch grows to the next that
    divides; where it would not fit, the micro-batch shrinks, then all is recomputed.
    """
    smaller = [
        layout.replace(micro_batch=layout.micro_batch >> k)
        for k in range(layout.micro_batch.bit_length())
    ]
    candidates = [
        _stage_job(recipe, stage, cluster, each, software_year)
        for each in (*smaller, *(each.replace(recompute="full") for each in smaller))
    ]
    candidates[0].check()
    likely, most = None, cluster.kind.memory_bytes
    for job in candidates:
        room = memory(job)
        if room.high <= most:
            return job
        likely = likely or (job if room.total <= most else None)
    return likely or candidates[-1]


def _stage_job(
    recipe: Recipe,
    stage: TrainingStage,
    cluster: Cluster,
    layout: ParallelConfig,
    software_year: float | None,
) -> Job:
    """Return the job of a stage in a layout with the largest micro-batch up to the layout's that
    divides the batch; the batch is rounded up where none does."""
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
