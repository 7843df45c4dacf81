"""The planner's answer for one recipe on one cluster: memory, step time, days, dollars, failures, loss, serving.

Every figure has a range and names what it leans on. Knows no recipe by name and runs nothing: `step_time.py`,
`memory.py` and the rest estimate, this file puts their answers together for all stages of training.
"""

from __future__ import annotations

import math

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.modality import MEDIA
from onnuri.planner import bill as bills
from onnuri.planner import goodput as goodputs
from onnuri.planner import loss as losses
from onnuri.planner import operate
from onnuri.planner.architecture import Architecture
from onnuri.planner.bill import Bill
from onnuri.planner.goodput import DAY, Goodput
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval, exact, spread
from onnuri.planner.job import Job
from onnuri.planner.layout import Layout, Precision, parse
from onnuri.planner.memory import Memory, memory
from onnuri.planner.operate import Serving
from onnuri.planner.recipe import Recipe, TrainingStage
from onnuri.planner.search import Search, search
from onnuri.planner.step_time import StepTime, step_time

GIB = 2**30
FROZEN = 2 / 3
"""of a step's time while only embeddings learn: no gradients of the other weights, 4 of 6 FLOPs"""
ENCODING = Interval(low=0.1, mid=0.25, high=0.5)
"""share of the bf16 peak that a codec's encoder reaches: assumed"""
MEMORY_PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "transient", "buffers", "runtime")


class StepPart(Config):
    """What a step spends time on."""

    name: str
    exposed_seconds: float
    """that lengthen the step"""
    overlapped_seconds: float = 0.0
    """that pass while something else runs"""


class StagePlan(Config):
    """One stage of training."""

    name: str
    tokens: float
    tokens_per_sequence: int
    batch_tokens: int
    layout: Layout
    steps: float
    tokens_per_s_per_gpu: Interval
    memory_gib: float
    days: Interval
    """failures counted"""


class Plan(Config):
    """What training a recipe on a cluster takes. Frozen; prints as text and, in a notebook, as a page."""

    recipe: str
    title: str
    cluster: Cluster
    layout: Layout
    engine: str | None
    """None: runnable here; else the engine that the layout needs"""
    total_params: float
    active_params: float
    tokens: float
    tokens_of_recipe: float
    memory: dict[str, float]
    """GiB of the fullest GPU in the largest stage, by part"""
    memory_gib: Interval
    """of the stage that needs most"""
    capacity_gib: float
    step: tuple[StepPart, ...]
    """of the largest stage"""
    step_seconds: Interval
    mfu: Interval
    """model FLOPs over the bf16 peak; causal attention, no recomputation"""
    tokens_per_s_per_gpu: Interval
    stages: tuple[StagePlan, ...]
    goodput: Goodput
    state_bytes: float
    """of a checkpoint"""
    days: Interval
    encoding_gpu_hours: Interval | None
    """media into tokens, once; None where the codecs' cost is unknown"""
    gpu_hours: Interval
    """training and encoding"""
    bill: Bill
    loss: Interval
    """nats a text token by published laws; compare sizes with it, not other models"""
    serving: Serving
    media: tuple[str, ...]
    days_wanted: float | None
    usd_wanted: float | None
    in_time: float | None
    """probability of being done by the day that was asked for"""
    in_budget: float | None
    evidence: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    search: Search | None
    """how the layout was found; None where it was given"""

    @property
    def fits(self) -> bool:
        return self.memory_gib.mid <= self.capacity_gib

    def __str__(self) -> str:
        from onnuri.planner import report

        return report.text(self)

    def _repr_html_(self) -> str:
        from onnuri.planner import report

        return report.page_of(self, whole=False)


def plan(recipe: Recipe, cluster: Cluster, layout: Layout | str | None = None, tokens: float | None = None,
         days: float | None = None, budget_usd: float | None = None, precisions: tuple[Precision, ...] | None = None,
         release: float | None = None, here: bool = False) -> Plan:
    """A recipe laid out on a cluster. Its stages shrink or grow together to `tokens`, or to what `days` and `budget_usd`
    allow at the middle of the range; without any of them it trains what it says. Without a layout, all are searched and the
    fastest that is runnable here is taken (the recipe's own with "own"); `here` leaves the others unsearched."""
    for name, value in (("gpus", cluster.gpus), ("tokens", tokens), ("days", days), ("budget", budget_usd)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{name} {value:g}", "is not a positive number", "give more than 0")
    if budget_usd is not None and bills.price(cluster.kind) is None:
        raise ConfigError(f"GPU {cluster.gpu}", "has no list price in the hardware table", "leave the budget out")
    recipe, notes = fitted(recipe, cluster.gpus)
    searched = None
    if layout is None:
        searched = searched_for(recipe, cluster, precisions or (recipe.layout.precision,), here, release)
        layout = (searched.here or searched.best[0]).layout
    elif isinstance(layout, str):
        layout = recipe.layout if layout == "own" else parse(layout, cluster.gpus)
    jobs = [stage_job(recipe, s, cluster, layout, release) for s in recipe.stages]
    speeds, rooms = [step_time(j) for j in jobs], [memory(j) for j in jobs]
    state = recipe.omni.num_params() * STATE_BYTES
    good = goodputs.goodput(cluster, state)
    share = _scale(recipe, cluster, jobs, speeds, good, tokens, days, budget_usd)
    stages = tuple(_stage(s, j, t, r, good, share) for s, j, t, r in zip(recipe.stages, jobs, speeds, rooms))
    notes = notes + [_raised(s, j) for s, j in zip(recipe.stages, jobs)] + [_tight(max(rooms, key=lambda m: m.total), cluster)]
    return _assemble(recipe, cluster, layout, stages, speeds, rooms, good, state, [n for n in notes if n], days, budget_usd,
                     searched)


def fitted(recipe: Recipe, gpus: int) -> tuple[Recipe, list[str | None]]:
    """A recipe made for other GPUs: batches become the nearest whole number of sequences a GPU."""
    stages: list[TrainingStage] = []
    notes: list[str | None] = []
    for s in recipe.stages:
        unit = s.tokens_per_sequence * gpus
        batch = round(s.batch_tokens / unit) * unit if s.batch_tokens >= unit else s.batch_tokens
        if batch != s.batch_tokens:
            notes.append(_other_batch(s, batch, gpus))
        stages.append(s.replace(batch_tokens=batch))
    return recipe.replace(stages=tuple(stages)), notes


def _other_batch(stage: TrainingStage, batch: int, ranks: int) -> str:
    return (f"{stage.name}: a batch of {batch / 1e6:.1f}M tokens, not {stage.batch_tokens / 1e6:.1f}M, which {ranks} ranks "
            f"do not divide")


def searched_for(recipe: Recipe, cluster: Cluster, precisions: tuple[Precision, ...], here: bool = False,
                 release: float | None = None) -> Search:
    """Layouts of the stage that trains the most tokens."""
    main = max(recipe.stages, key=lambda s: s.tokens)
    return search(_model(recipe, main), cluster, main.tokens_per_sequence, main.batch_tokens, precisions, here, release)


def _model(recipe: Recipe, stage: TrainingStage) -> Architecture:
    """Text alone is trained before the vocabulary grows."""
    return recipe.omni if stage.media_share else recipe.architecture


STATE_BYTES = 12.0
"""a parameter in a checkpoint: fp32 weights and Adam's two moments"""


def stage_job(recipe: Recipe, stage: TrainingStage, cluster: Cluster, layout: Layout, release: float | None = None) -> Job:
    """A stage of other sequences than the layout was chosen for: its micro-batch shrinks, its batch grows to the next that
    divides, and it recomputes all where it would not fit else."""
    fewer = max(1, min(layout.micro_batch, stage.batch_tokens // max(1, stage.tokens_per_sequence * layout.dp)))
    while stage.batch_tokens % (stage.tokens_per_sequence * layout.dp * fewer) and fewer > 1:
        fewer -= 1
    unit = stage.tokens_per_sequence * layout.dp * fewer
    job = Job(architecture=_model(recipe, stage), layout=layout.replace(micro_batch=fewer), cluster=cluster,
              tokens=stage.tokens_per_sequence, batch_tokens=math.ceil(stage.batch_tokens / unit) * unit, release=release)
    job.check()
    if layout.recompute == "full" or memory(job).high <= cluster.kind.memory_gb * 1e9:
        return job
    return job.replace(layout=job.layout.replace(recompute="full"))


def _raised(stage: TrainingStage, job: Job) -> str | None:
    return None if job.batch_tokens == stage.batch_tokens else _other_batch(stage, job.batch_tokens, job.layout.dp)


def _tight(fullest: Memory, cluster: Cluster) -> str | None:
    capacity = cluster.kind.memory_gb * 1e9
    if fullest.high <= capacity:
        return None
    return "does not fit the GPU" if fullest.total > capacity else "fits the GPU with less than 90 % probability"


def speed(found: StepTime) -> Interval:
    return Interval(low=found.low, mid=found.tokens_per_s_per_gpu, high=found.high)


def _days(stage: TrainingStage, job: Job, found: StepTime, good: Goodput, share: float) -> Interval:
    work = stage.tokens * share * (FROZEN if stage.trains != "all" else 1.0)
    return spread(lambda rate, kept: work / (rate * kept * job.cluster.gpus * DAY), speed(found), good.share)


def total(parts: list[Interval]) -> Interval:
    """Of stages that share one error: speeds of one model on one cluster are wrong together."""
    return Interval(low=sum(p.low for p in parts), mid=sum(p.mid for p in parts), high=sum(p.high for p in parts))


def encoding_hours(recipe: Recipe, cluster: Cluster, share: float) -> Interval | None:
    """GPU hours to turn media into tokens; they are kept, so once."""
    costs = {m.medium: m.encode_flops_per_token for m in recipe.media}
    flops = sum(s.tokens * share * part * costs.get(medium, 0.0) for s in recipe.stages for medium, part in s.media_share.items())
    if not flops:
        return None
    return spread(lambda reached: flops / (cluster.kind.bf16_tflops * 1e12 * reached) / 3600, ENCODING)


def _scale(recipe: Recipe, cluster: Cluster, jobs: list[Job], speeds: list[StepTime], good: Goodput, tokens: float | None,
           days: float | None, usd: float | None) -> float:
    """Share of the recipe's tokens that is trained."""
    if tokens is not None:
        return tokens / recipe.tokens
    whole = total([_days(s, j, t, good, 1.0) for s, j, t in zip(recipe.stages, jobs, speeds)]).mid
    shares = [days / whole] if days is not None else []
    if usd is not None:
        price = bills.price(cluster.kind)
        assert price
        hours = whole * 24 * cluster.gpus
        encoding = encoding_hours(recipe, cluster, 1.0)
        shares.append(usd / (price.mid * (hours + (encoding.mid if encoding else 0.0))))
    return min(shares, default=1.0)


def _stage(stage: TrainingStage, job: Job, found: StepTime, room: Memory, good: Goodput, share: float) -> StagePlan:
    return StagePlan(name=stage.name, tokens=stage.tokens * share, tokens_per_sequence=job.tokens, batch_tokens=job.batch_tokens,
                     layout=job.layout, steps=stage.tokens * share / job.batch_tokens, tokens_per_s_per_gpu=speed(found),
                     memory_gib=room.total / GIB, days=_days(stage, job, found, good, share))


def media_tokens(recipe: Recipe) -> float:
    """Tokens of media other than text."""
    return sum(s.tokens * part for s in recipe.stages for medium, part in s.media_share.items() if medium != "text")


def _assemble(recipe: Recipe, cluster: Cluster, layout: Layout, stages: tuple[StagePlan, ...], speeds: list[StepTime],
              rooms: list[Memory], good: Goodput, state: float, notes: list[str], days: float | None, usd: float | None,
              search: Search | None) -> Plan:
    main = max(range(len(stages)), key=lambda n: stages[n].tokens)
    share, a = sum(s.tokens for s in stages) / recipe.tokens, recipe.omni
    plain = recipe.architecture
    took, encoding = total([s.days for s in stages]), encoding_hours(recipe, cluster, share)
    hours = spread(lambda d, e: d * 24 * cluster.gpus + e, took, encoding or exact(0.0))
    cost, other = bills.bill(cluster.kind, hours), media_tokens(recipe) * share
    fullest, found = max(rooms, key=lambda m: m.total), speeds[main]
    step = speed(found)
    return Plan(
        recipe=recipe.name, title=recipe.title, cluster=cluster, layout=stages[main].layout, engine=layout.engine,
        total_params=plain.num_params(), active_params=plain.num_active_params(), tokens=recipe.tokens * share,
        tokens_of_recipe=recipe.tokens, memory={p: getattr(rooms[main], p) / GIB for p in MEMORY_PARTS},
        memory_gib=Interval(low=fullest.low / GIB, mid=fullest.total / GIB, high=fullest.high / GIB),
        capacity_gib=cluster.kind.memory_gb * 1e9 / GIB, step=step_parts(found),
        step_seconds=spread(lambda rate: stages[main].batch_tokens / (rate * cluster.gpus), step),
        mfu=step * (found.mfu / found.tokens_per_s_per_gpu), tokens_per_s_per_gpu=step, stages=stages, goodput=good,
        state_bytes=state, days=took, encoding_gpu_hours=encoding, gpu_hours=hours, bill=cost,
        loss=losses.expected_loss(a.num_params(), a.num_active_params(), recipe.tokens * share - other, other),
        serving=operate.serving(a, cluster), media=tuple(m for m in MEDIA if m in {r.medium for r in recipe.media}),
        days_wanted=days, usd_wanted=usd, in_time=took.below(days) if days else None,
        in_budget=cost.usd.below(usd) if usd and cost.usd else None, evidence=_evidence(recipe, found), notes=tuple(notes),
        search=search)


def _evidence(recipe: Recipe, found: StepTime) -> dict[str, tuple[str, ...]]:
    assumed = sorted(k for k, source in recipe.sources.items() if source == "assumed")
    known = {"step": found.evidence, "goodput": goodputs.EVIDENCE, "loss": losses.EVIDENCE, "serving": operate.EVIDENCE,
             "bill": ("list prices and rated power of the hardware table", "assumed: draw, cooling")}
    return known | ({"recipe": ("assumed: " + ", ".join(assumed),)} if assumed else {})


def step_parts(found: StepTime) -> tuple[StepPart, ...]:
    """The longest first; nothing that takes no time."""
    names = sorted({*found.parts, *found.overlapped}, key=lambda n: -found.parts.get(n, 0.0))
    every = (StepPart(name=n, exposed_seconds=found.parts.get(n, 0.0), overlapped_seconds=found.overlapped.get(n, 0.0))
             for n in names)
    return tuple(p for p in every if p.exposed_seconds + p.overlapped_seconds > 1e-4 * found.total)
