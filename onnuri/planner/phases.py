"""Stages of training as jobs on a cluster: which layout each gets, and what gives way where it would not fit or divide.

Knows no figure of a plan; `search.py` finds layouts, `memory.py` says what fits.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator

from onnuri.errors import ConfigError
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.layout import Layout, Precision, parse, spelled
from onnuri.planner.memory import memory
from onnuri.planner.recipe import Recipe, TrainingStage
from onnuri.planner.search import Search, search


def fitted(recipe: Recipe, gpus: int) -> tuple[Recipe, list[str]]:
    """A recipe made for other GPUs: batches become the nearest whole number of sequences a GPU."""
    stages: list[TrainingStage] = []
    for s in recipe.stages:
        unit = s.tokens_per_sequence * gpus
        stages.append(s.replace(batch_tokens=max(1, round(s.batch_tokens / unit)) * unit) if s.batch_tokens >= unit else s)
    return recipe.replace(stages=tuple(stages)), other_batches(zip(recipe.stages, stages))


def other_batches(changed: Iterable[tuple[TrainingStage, TrainingStage | Job]]) -> list[str]:
    """A note where batches are not what a recipe says."""
    said = [f"{s.name} {s.batch_tokens:,} → {other.batch_tokens:,} tokens" for s, other in changed
            if other.batch_tokens != s.batch_tokens]
    return ["batches that the ranks divide: " + ", ".join(said)] if said else []


def jobs(recipe: Recipe, cluster: Cluster, layout: Layout | None, precisions: tuple[Precision, ...], here: bool,
         release: float | None) -> tuple[list[Job], Search | None]:
    """Every stage as a job, and how its layout was found, if none was given."""
    if layout is None:
        searched = searched_for(recipe, cluster, precisions, here, release)
        chosen = (searched.here or searched.best[0]).layout
        return [_own_layout(recipe, s, cluster, chosen, precisions, release) for s in recipe.stages], searched
    return [stage_job(recipe, s, cluster, layout, release) for s in recipe.stages], None


def asked(recipe: Recipe, cluster: Cluster, layout: Layout | str | None) -> Layout | None:
    """A layout that is given, by name, as it is typed, or as it is. Raises ConfigError for what is none."""
    if isinstance(layout, str):
        layout = recipe.layout if layout == "own" else parse(layout, cluster.gpus)
    if layout:
        layout.check_degrees()
    return layout


def eased(recipe: Recipe, jobs: Iterable[Job], layout: Layout) -> list[str]:
    """A note on stages that are laid out otherwise than was asked."""
    other = [f"{s.name} {spelled(job.layout)}" for s, job in zip(recipe.stages, jobs) if job.layout != layout]
    return ["laid out so that they divide and fit: " + "; ".join(other)] if other else []


def searched_for(recipe: Recipe, cluster: Cluster, precisions: tuple[Precision, ...], here: bool = False,
                 release: float | None = None) -> Search:
    """Layouts of the stage that trains the most tokens."""
    main = max(recipe.stages, key=lambda s: s.tokens)
    return search(_model(recipe, main), cluster, main.tokens_per_sequence, main.batch_tokens, precisions, here, release)


def _own_layout(recipe: Recipe, stage: TrainingStage, cluster: Cluster, layout: Layout, precisions: tuple[Precision, ...],
                release: float | None) -> Job:
    """The best layout of a stage that the whole's does not suit: a checkpoint is laid out anew where a stage begins."""
    main = max(recipe.stages, key=lambda s: s.tokens)
    if _shape(recipe, stage) != _shape(recipe, main):
        with contextlib.suppress(ConfigError):  # where none fits, the whole's is eased
            found = search(_model(recipe, stage), cluster, stage.tokens_per_sequence, stage.batch_tokens, precisions, True, release)
            if found.here and layout.engine is None:
                layout = found.here.layout
    return stage_job(recipe, stage, cluster, layout, release)


def _shape(recipe: Recipe, stage: TrainingStage) -> tuple[Architecture, int, int]:
    return _model(recipe, stage), stage.tokens_per_sequence, stage.batch_tokens


def _model(recipe: Recipe, stage: TrainingStage) -> Architecture:
    """Text alone is trained before the vocabulary grows."""
    return recipe.omni if stage.media_share else recipe.architecture


def stage_job(recipe: Recipe, stage: TrainingStage, cluster: Cluster, layout: Layout, release: float | None = None) -> Job:
    """A stage of other sequences or a larger vocabulary than the layout was chosen for: its batch grows to the next that
    divides; where it would not fit, its micro-batch shrinks, then it recomputes all, then its sequences are cut over more
    tensor ranks, as far as fast links reach."""
    tried = [_stage_job(recipe, stage, cluster, each, release) for each in _eased(layout, recipe.architecture, cluster)]
    tried[0].check()
    near, most = None, cluster.kind.memory_bytes
    for job in tried:
        room = memory(job)
        if room.high <= most:
            return job
        near = near or (job if room.total <= most else None)
    return near or tried[0]


def _eased(layout: Layout, a: Architecture, cluster: Cluster) -> Iterator[Layout]:
    """The layout, then ones that need less and less memory."""
    smaller = [layout.replace(micro_batch=layout.micro_batch >> k) for k in range(layout.micro_batch.bit_length())]
    yield from smaller
    yield from (each.replace(recompute="full") for each in smaller)
    heads, ranks = [b.attention.heads for b in a.blocks if b.attention], layout.dp * layout.tp
    for tp in (2, 4, 8):
        dp = ranks // (layout.tp * tp)
        if layout.tp * tp <= cluster.kind.domain and not any(h % (layout.tp * tp) for h in heads) and not (
                ranks % (layout.tp * tp) or dp * layout.cp % layout.ep or layout.sharding == "hsdp"):
            yield layout.replace(tp=layout.tp * tp, dp=dp, micro_batch=1, recompute="full")


def _stage_job(recipe: Recipe, stage: TrainingStage, cluster: Cluster, layout: Layout, release: float | None) -> Job:
    fewer = max(1, min(layout.micro_batch, stage.batch_tokens // (stage.tokens_per_sequence * layout.dp)))
    while stage.batch_tokens % (stage.tokens_per_sequence * layout.dp * fewer) and fewer > 1:
        fewer -= 1
    unit = stage.tokens_per_sequence * layout.dp * fewer
    return Job(architecture=_model(recipe, stage), layout=layout.replace(micro_batch=fewer), cluster=cluster,
               tokens=stage.tokens_per_sequence, batch_tokens=math.ceil(stage.batch_tokens / unit) * unit, release=release)
