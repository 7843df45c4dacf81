"""The planner's answer for one recipe on one cluster: memory, step time, days, dollars, failures, loss, serving.

Every figure has a range and names what it leans on. Knows no recipe by name and runs nothing: `routing.py`,
`memory.py` and the rest estimate, this file puts their answers together for all stages of training.
"""

from __future__ import annotations

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.modality import MEDIA
from onnuri.planner import bill as bills
from onnuri.planner import goodput as goodputs
from onnuri.planner import loss as losses
from onnuri.planner import operate, phases
from onnuri.planner.bill import Bill
from onnuri.planner.goodput import DAY, Goodput
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval, exact, spread
from onnuri.planner.job import Job
from onnuri.planner.layout import Layout, Precision
from onnuri.planner.memory import GIB, memory
from onnuri.planner.operate import Serving
from onnuri.planner.recipe import Recipe, TrainingStage
from onnuri.planner.routing import real_step
from onnuri.planner.search import Search
from onnuri.planner.step_time import StepTime, newest

FROZEN = 2 / 3
"""of a step's time while only embeddings learn: no gradients of the other weights, 4 of 6 FLOPs"""
YEARS = 2018, 2035
"""in which training software may have been released"""
MOST = 1e18
"""tokens, days or dollars: beyond it, a slip of the keyboard"""
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
    engine: str | None
    """None: runnable here; else the engine that the layout needs"""
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
    """GiB of the fullest GPU in the stage that needs most, by part"""
    memory_gib: Interval
    """their sum"""
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
    loss: Interval | None
    """nats a text token by published laws; compare sizes with it, not other models; None for fewer tokens than parameters"""
    serving: Serving
    media: tuple[str, ...]
    days_wanted: float | None
    usd_wanted: float | None
    tokens_wanted: float
    """what was asked for, or what the recipe says"""
    in_time: float | None
    """probability that all of them are trained by the day that was asked for"""
    in_budget: float | None
    """the same of the dollars"""
    evidence: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    search: Search | None
    """how the layout was found; None where it was given"""

    @property
    def main(self) -> StagePlan:
        """The stage that trains the most tokens: layout, step and speed are its."""
        return max(self.stages, key=lambda s: s.tokens)

    @property
    def fullest(self) -> StagePlan:
        """The stage whose memory the plan's is."""
        return max(self.stages, key=lambda s: s.memory_gib)

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
    fastest that is runnable here is taken (the recipe's own with "own"); `here` leaves the others unsearched. Without a
    release, software is as new as the newest that was published."""
    for name, value in (("gpus", cluster.gpus), ("tokens", tokens), ("days", days), ("budget", budget_usd)):
        if value is not None and not 0 < value < MOST:
            raise ConfigError(f"{name} {value:g}", f"is not a positive number below {MOST:g}", "give more than 0")
    if release is not None and not YEARS[0] <= release <= YEARS[1]:
        raise ConfigError(f"release {release:g}", f"is not a year from {YEARS[0]} to {YEARS[1]}", "give such as 2025.9")
    if layout is not None and precisions:
        raise ConfigError(f"precision {', '.join(precisions)}", "stands beside a layout, which has its own",
                          "write it in the layout")
    if budget_usd is not None and bills.price(cluster.kind) is None:
        raise ConfigError(f"GPU {cluster.gpu}", "has no list price in the hardware table", "leave the budget out")
    release = release or newest()
    recipe, notes = phases.fitted(recipe, cluster.gpus, here)
    laid = phases.asked(recipe, cluster, layout)
    cluster.kind.check(*((laid.precision,) if laid else precisions or ()))
    jobs, searched = phases.jobs(recipe, cluster, laid, precisions or (recipe.layout.precision,), here, release)
    notes += phases.eased(recipe, jobs, laid) if laid else []
    notes += recipe.notes
    work = _Work(recipe, cluster, jobs)
    work.share = _share(work, tokens, days, budget_usd)
    trained, step = recipe.tokens * work.share, max(j.batch_tokens for j in jobs)
    if trained < step:
        raise ConfigError(f"{trained:.3g} tokens", f"are less than one step of {step:,} tokens", "give more of them")
    notes += [*phases.other_batches(zip(recipe.stages, jobs)), *work.tight()]
    return _assemble(work, notes, tokens, days, budget_usd, searched)


class _Work:
    """What is estimated once: all stages on the cluster."""

    def __init__(self, recipe: Recipe, cluster: Cluster, jobs: list[Job]) -> None:
        self.recipe, self.cluster, self.jobs, self.share = recipe, cluster, jobs, 1.0
        self.steps, self.rooms = [real_step(j) for j in jobs], [memory(j) for j in jobs]
        self.state_bytes = recipe.omni.num_params() * goodputs.STATE_BYTES
        self.goodput = goodputs.goodput(cluster, self.state_bytes)

    def stages(self) -> tuple[StagePlan, ...]:
        return tuple(
            StagePlan(name=s.name, tokens=s.tokens * self.share, tokens_per_sequence=job.tokens, batch_tokens=job.batch_tokens,
                      layout=job.layout, engine=job.layout.engine, steps=s.tokens * self.share / job.batch_tokens,
                      tokens_per_s_per_gpu=step.speed, memory_gib=room.total / GIB, days=self._days(s, step))
            for s, job, step, room in zip(self.recipe.stages, self.jobs, self.steps, self.rooms))

    def _days(self, stage: TrainingStage, step: StepTime) -> Interval:
        tokens = stage.tokens * self.share * (FROZEN if stage.trains != "all" else 1.0)
        return spread(lambda rate, kept: tokens / (rate * kept * self.cluster.gpus * DAY), step.speed, self.goodput.share)

    def encoding_hours(self) -> Interval | None:
        """GPU hours to turn media into tokens; they are kept, so once."""
        costs = {m.medium: m.encode_flops_per_token for m in self.recipe.media}
        flops = self.share * sum(s.tokens * part * costs.get(medium, 0.0) for s in self.recipe.stages
                                 for medium, part in s.media_share.items())
        if not flops:
            return None
        return spread(lambda reached: flops / (self.cluster.kind.bf16_tflops * 1e12 * reached) / 3600, ENCODING)

    def tight(self) -> list[str]:
        """Notes on stages that may not fit."""
        capacity, named = self.cluster.kind.memory_bytes, list(zip(self.recipe.stages, self.rooms))
        over = [s.name for s, m in named if m.total > capacity]
        near = [s.name for s, m in named if m.total <= capacity < m.high]
        return [f"{', '.join(names)}: {why}" for names, why in (
            (over, "does not fit the GPU"), (near, "fits the GPU with less than 90 % probability")) if names]


def total(parts: list[Interval]) -> Interval:
    """Of stages that share one error: speeds of one model on one cluster are wrong together."""
    return Interval(low=sum(p.low for p in parts), mid=sum(p.mid for p in parts), high=sum(p.high for p in parts))


def _share(work: _Work, tokens: float | None, days: float | None, usd: float | None) -> float:
    """Part of the recipe's tokens that is trained."""
    if tokens is not None:
        return tokens / work.recipe.tokens
    whole = total([s.days for s in work.stages()]).mid
    shares = [days / whole] if days is not None else []
    if usd is not None and (price := bills.price(work.cluster.kind)):
        encoding = work.encoding_hours()
        shares.append(usd / (price.mid * (whole * 24 * work.cluster.gpus + (encoding.mid if encoding else 0.0))))
    return min(shares, default=1.0)


def media_tokens(recipe: Recipe) -> float:
    """Tokens of media other than text."""
    return sum(s.tokens * part for s in recipe.stages for medium, part in s.media_share.items() if medium != "text")


def _assemble(work: _Work, notes: list[str], tokens: float | None, days: float | None, usd: float | None,
              search: Search | None) -> Plan:
    recipe, cluster, stages, omni = work.recipe, work.cluster, work.stages(), work.recipe.omni
    wanted = tokens or recipe.tokens
    more = wanted / (recipe.tokens * work.share)
    main = max(range(len(stages)), key=lambda n: stages[n].tokens)
    found, fullest = work.steps[main], max(work.rooms, key=lambda m: m.total)
    took, encoding, step = total([s.days for s in stages]), work.encoding_hours(), found.speed
    hours = spread(lambda d, e: d * 24 * cluster.gpus + e, took, encoding or exact(0.0))
    cost, other = bills.bill(cluster.kind, hours), media_tokens(recipe) * work.share
    return Plan(
        recipe=recipe.name, title=recipe.title, cluster=cluster, layout=stages[main].layout, engine=stages[main].engine,
        total_params=recipe.architecture.num_params(), active_params=recipe.architecture.num_active_params(),
        tokens=recipe.tokens * work.share, tokens_of_recipe=recipe.tokens,
        memory={p: getattr(fullest, p) / GIB for p in MEMORY_PARTS},
        memory_gib=fullest.range * (1 / GIB),
        capacity_gib=cluster.kind.memory_bytes / GIB, step=step_parts(found),
        step_seconds=spread(lambda rate: stages[main].batch_tokens / (rate * cluster.gpus), step),
        mfu=step * (found.mfu / found.tokens_per_s_per_gpu), tokens_per_s_per_gpu=step, stages=stages, goodput=work.goodput,
        state_bytes=work.state_bytes, days=took, encoding_gpu_hours=encoding, gpu_hours=hours, bill=cost,
        loss=losses.expected_loss(omni.num_params(), omni.num_active_params(), recipe.tokens * work.share - other, other),
        serving=operate.serving(omni, cluster), media=tuple(m for m in MEDIA if m in {r.medium for r in recipe.media}),
        days_wanted=days, usd_wanted=usd, tokens_wanted=wanted, in_time=(took * more).below(days) if days else None,
        in_budget=(cost.usd * more).below(usd) if usd and cost.usd else None, evidence=_evidence(recipe, found), notes=tuple(notes),
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
