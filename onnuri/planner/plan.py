"""Plan one recipe on one cluster: memory, step time, days, dollars, failures, loss, serving.

Every figure has a range and names its evidence. Knows no recipe by name and runs nothing:
`moe_imbalance.py`, `memory.py` and the rest estimate, this file puts their answers together for all
stages of training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from onnuri.errors import ConfigError
from onnuri.modality import MEDIA
from onnuri.phrases import Phrase, joined
from onnuri.planner import cost as bills
from onnuri.planner import goodput as goodputs
from onnuri.planner import loss as losses
from onnuri.planner import report, serving_cost, stage_layouts
from onnuri.planner import verdict as verdicts
from onnuri.planner.cost import Bill
from onnuri.planner.counts import Aim, Counts, Engines, Report, quiet
from onnuri.planner.goodput import DAY, Goodput
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval, exact, spread
from onnuri.planner.latency import Demand, limited
from onnuri.planner.memory import GIB, memory
from onnuri.planner.moe_imbalance import real_step
from onnuri.planner.parallel import ParallelConfig, Precision
from onnuri.planner.plan_record import PlanRecord, StagePlan, StepPart
from onnuri.planner.recipe import Recipe, TrainingStage
from onnuri.planner.saved import Saved
from onnuri.planner.search import Candidate, Search
from onnuri.planner.step_time import StepTime, newest
from onnuri.planner.verdict import Edge, Verdict

FASTER = 1.3
"""how many times faster another engine's layout must be than the best that Onnuri's trainer runs,
to be shown beside it"""
FROZEN = 2 / 3
"""share of a step's time while only embeddings learn: no gradients of the other weights, 4 of 6
FLOPs"""
YEARS = 2018, 2035
"""in which training software may have been released"""
MOST = 1e18
"""tokens, days or dollars beyond which a number is a slip of the keyboard"""
ENCODING = Interval(low=0.1, mid=0.25, high=0.5)
"""share of the bf16 peak that a codec's encoder reaches: assumed"""
MEMORY_PARTS = (
    "parameters",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "transient",
    "buffers",
    "runtime",
)


class Plan(PlanRecord):
    """What training a recipe on a cluster takes. Frozen; prints as text and, in a notebook, as a
    page."""

    def __str__(self) -> str:
        """Return the plan as text for a terminal."""
        return report.text(self)

    def _repr_html_(self) -> str:
        """Return the plan as HTML for a cell of a notebook."""
        return report.page_of(self, whole=False)


def plan(
    recipe: Recipe,
    cluster: Cluster,
    layout: ParallelConfig | str | None = None,
    tokens: float | None = None,
    days: float | None = None,
    budget_usd: float | None = None,
    precisions: tuple[Precision, ...] | None = None,
    software_year: float | None = None,
    here: bool = False,
    engines: Engines = "here",
    exact_gpus: bool = False,
    report: Report = quiet,
    cache: Path | None = None,
    serve: Demand | None = None,
) -> Plan:
    """Return what training a recipe on a cluster takes.

    Its stages shrink or grow together to `tokens`, or to what `days` and `budget_usd` allow at the
    middle of the range; without any of them it trains what it says. Without a layout, all are
    searched, on as many GPUs as train fastest (on all with `exact_gpus`), and the fastest that
    Onnuri's trainer runs is taken, or with `engines` "any" the fastest of all (the recipe's own
    with "own"); `here` leaves the others unsearched. Without a release, software is as new as the
    newest that was published. `report` is told how far the search is; `cache` is a folder in which
    answers of searches are kept. With `serve`, its serving is also planned within limits.
    """
    wanted = Wanted(tokens, days, budget_usd)
    _check(cluster, wanted, layout, precisions, software_year, engines)
    software_year = software_year or newest()
    chosen_layout = stage_layouts.requested_layout(recipe, cluster, layout)
    searched_precisions = precisions or (recipe.layout.precision,)
    cluster.kind.check(*((chosen_layout.precision,) if chosen_layout else precisions or ()))
    question = stage_layouts.Question(
        recipe=recipe,
        cluster=cluster,
        precisions=searched_precisions,
        software_year=software_year,
        engines=engines,
        here=here,
        exact_gpus=exact_gpus,
    )
    if chosen_layout:
        phases = stage_layouts.phases_in_layout(question, chosen_layout)
    else:
        goodput = functools.partial(_goodput_share, recipe, cluster)
        counts = Counts(
            recipe, cluster, searched_precisions, software_year, goodput, FROZEN, report
        )
        phases = stage_layouts.phases_by_search(
            question, _aim(recipe, cluster, wanted), counts, Saved(cache)
        )
    work = _Work(phases, wanted, cluster.gpus)
    stages, jobs = work.recipe.stages, work.jobs
    step = max(j.batch_tokens for j in jobs)
    if work.trained < step:
        raise ConfigError(
            Phrase("{:.3g} tokens", work.trained),
            Phrase("are less than one step of {:,} tokens", step),
            "give more of them",
        )
    shown_layouts = [c.layout for c in work.search.best] if work.search else []
    layers = work.recipe.architecture.layers
    notes = [
        *stage_layouts.batch_notes(zip(recipe.stages, stages)),
        *(
            stage_layouts.changed_layout_notes(work.recipe, jobs, chosen_layout)
            if chosen_layout
            else []
        ),
        *work.recipe.notes,
        *stage_layouts.batch_notes(zip(stages, jobs)),
        *work.tight(),
        *stage_layouts.uneven_notes(layers, [*shown_layouts, *(j.layout for j in jobs)]),
    ]
    answer = _assemble(work, notes)
    return answer.replace(limited=limited(recipe.omni, work.cluster, serve)) if serve else answer


class Wanted(NamedTuple):
    """The tokens, days and dollars that a plan is made for; None for no wish."""

    tokens: float | None
    days: float | None
    usd: float | None


def _check(
    cluster: Cluster,
    wanted: Wanted,
    layout: ParallelConfig | str | None,
    precisions: tuple[Precision, ...] | None,
    software_year: float | None,
    engines: Engines,
) -> None:
    """Raise ConfigError for numbers out of range, or for arguments that contradict each other,
    before anything is planned."""
    numbers = {
        "gpus": cluster.gpus,
        "tokens": wanted.tokens,
        "days": wanted.days,
        "budget": wanted.usd,
    }
    for name, value in numbers.items():
        if value is not None and not 0 < value < MOST:
            raise ConfigError(
                Phrase("{} {:g}", name, value),
                Phrase("is not a positive number below {:g}", MOST),
                "give more than 0",
            )
    if software_year is not None and not YEARS[0] <= software_year <= YEARS[1]:
        raise ConfigError(
            Phrase("software year {:g}", software_year),
            Phrase("is not a year from {} to {}", YEARS[0], YEARS[1]),
            "give such as 2025.9",
        )
    if layout is not None and precisions:
        raise ConfigError(
            Phrase("precision {}", ", ".join(precisions)),
            "stands beside a layout, which has its own",
            "write it in the layout",
        )
    if layout is not None and engines != "here":
        raise ConfigError(
            f"engines {engines}",
            "stands beside a layout, which says what runs it",
            "leave one of them out",
        )
    if wanted.usd is not None and bills.price(cluster.kind) is None:
        raise ConfigError(
            f"GPU {cluster.gpu}",
            "has no list price in the hardware table",
            "give your own, --price-usd, or leave the budget out",
        )


def _aim(recipe: Recipe, cluster: Cluster, wanted: Wanted) -> Aim:
    """Return the aim by which layouts and numbers of GPUs are judged."""
    price, encoding = bills.price(cluster.kind), encoding_hours(recipe, cluster)
    return Aim(
        days=wanted.days,
        usd=wanted.usd,
        usd_per_hour=price.mid if price else 0.0,
        encoding_hours=encoding.mid if encoding else 0.0,
    )


def _goodput_share(recipe: Recipe, cluster: Cluster, gpus: int) -> float:
    """Return the share of the time of so many GPUs that trains the recipe, at the middle of the
    range."""
    nodes = math.ceil(gpus / cluster.node)
    return _goodput_share_on(recipe.omni.num_params(), cluster.replace(gpus=nodes * cluster.node))


@functools.lru_cache(4096)
def _goodput_share_on(params: int, cluster: Cluster) -> float:
    """Return the share of a cluster's time that trains a model of so many parameters, at the middle
    of the range."""
    return goodputs.goodput(cluster, params * goodputs.STATE_BYTES).share.mid


def encoding_hours(recipe: Recipe, cluster: Cluster, share: float = 1.0) -> Interval | None:
    """Return the GPU hours that encode a share of a recipe's media into tokens, once, because the
    tokens are stored. None where there is nothing to encode."""
    costs = {m.modality: m.encode_flops_per_token for m in recipe.media}
    flops = share * sum(
        s.tokens * part * costs.get(modality, 0.0)
        for s in recipe.stages
        for modality, part in s.media_share.items()
    )
    if not flops:
        return None
    return spread(
        lambda reached: flops / (cluster.kind.bf16_tflops * 1e12 * reached) / 3600, ENCODING
    )


class _Work:
    """The estimates of a plan that are made once: all stages on the cluster, and the share of the
    recipe that is trained."""

    def __init__(self, laid_out: stage_layouts.Phases, wanted: Wanted, gpus: int) -> None:
        """Estimate every stage of the phases. `gpus` are all that there are, of which the cluster
        has those that are used."""
        self.cluster, self.recipe, self.jobs, self.search, self.days_on_all = laid_out
        self.wanted, self.gpus = wanted, gpus
        self.price = bills.price(self.cluster.kind)
        self.steps, self.rooms = [real_step(j) for j in self.jobs], [memory(j) for j in self.jobs]
        self.state_bytes = self.recipe.omni.num_params() * goodputs.STATE_BYTES
        self.share = 1.0
        self.share, self.edge = self._share()

    @property
    def trained(self) -> float:
        """Return the number of tokens that all stages train together."""
        return self.recipe.tokens * self.share

    @property
    def goodput(self) -> Goodput:
        """Return the goodput while the trained part of the recipe runs: a short project loses
        less."""
        seconds = sum(
            self._tokens(s) / (step.speed.mid * self.cluster.gpus)
            for s, step in zip(self.recipe.stages, self.steps, strict=True)
        )
        return goodputs.goodput(self.cluster, self.state_bytes, hours=seconds / 3600)

    def _tokens(self, stage: TrainingStage) -> float:
        """Return the tokens of a stage that are trained, fewer where it trains only embeddings and
        so takes less time."""
        return stage.tokens * self.share * (FROZEN if stage.trains != "all" else 1.0)

    def stages(self) -> tuple[StagePlan, ...]:
        """Return the plan of every stage: its tokens, layout, speed, memory and days."""
        return tuple(
            StagePlan(
                name=s.name,
                tokens=s.tokens * self.share,
                tokens_per_sequence=job.tokens,
                batch_tokens=job.batch_tokens,
                layout=job.layout,
                engine=job.layout.other_engine,
                steps=s.tokens * self.share / job.batch_tokens,
                tokens_per_s_per_gpu=step.speed,
                memory_gib=room.total / GIB,
                days=self._days(s, step),
            )
            for s, job, step, room in zip(self.recipe.stages, self.jobs, self.steps, self.rooms)
        )

    def _days(self, stage: TrainingStage, step: StepTime) -> Interval:
        """Return the days that a stage takes with this step time, failures counted."""
        tokens = self._tokens(stage)
        return spread(
            lambda rate, kept: tokens / (rate * kept * self.cluster.gpus * DAY),
            step.speed,
            self.goodput.share,
        )

    def encoding_hours(self) -> Interval | None:
        """Return the GPU hours that encode the media of the trained part of the recipe."""
        return encoding_hours(self.recipe, self.cluster, self.share)

    def gpu_hours(self, days: Interval) -> Interval:
        """Return the GPU hours of training for so many days and of encoding."""
        encoding = self.encoding_hours() or exact(0.0)
        return spread(lambda d, e: d * 24 * self.cluster.gpus + e, days, encoding)

    def _share(self) -> tuple[float, Edge]:
        """Return the share of the recipe's tokens that is trained, and what ends it."""
        wanted, price = self.wanted, self.price
        if wanted.tokens is not None:
            return wanted.tokens / self.recipe.tokens, "tokens"
        shares: list[tuple[float, Edge]] = []
        if wanted.days is not None:
            shares.append((self._reached(wanted.days, lambda days: days), "days"))
        if wanted.usd is not None and price:

            def cost(days: float) -> float:
                encoding = self.encoding_hours()
                hours = days * 24 * self.cluster.gpus + (encoding.mid if encoding else 0.0)
                return price.mid * hours

            shares.append((self._reached(wanted.usd, cost), "usd"))
        return min(shares, default=(1.0, "recipe"))

    def _reached(self, most: float, cost: Callable[[float], float]) -> float:
        """Return the share of the recipe whose days cost `most`, by iteration: a longer project
        loses more of its hours, so this is no division."""
        self.share = 1.0
        for _ in range(200):
            ratio = most / cost(total([s.days for s in self.stages()]).mid)
            self.share *= ratio
            if abs(ratio - 1) <= 1e-12:
                break
        return self.share

    def tight(self) -> list[str]:
        """Return notes that name the stages whose memory does not fit the GPU, or may not."""
        capacity, named = self.cluster.kind.memory_bytes, list(zip(self.recipe.stages, self.rooms))
        over = [s.name for s, m in named if m.total > capacity]
        near = [s.name for s, m in named if m.total <= capacity < m.high]
        return [
            Phrase("{}: {}", joined(", ", names), why)
            for names, why in (
                (over, "does not fit the GPU"),
                (near, "fits the GPU with less than 90 % probability"),
            )
            if names
        ]


def total(parts: list[Interval]) -> Interval:
    """Return the sum over stages that share one error: speeds of one model on one cluster are wrong
    together."""
    return Interval(
        low=sum(p.low for p in parts),
        mid=sum(p.mid for p in parts),
        high=sum(p.high for p in parts),
    )


def media_tokens(recipe: Recipe) -> float:
    """Return the number of a recipe's training tokens that are of media other than text."""
    return sum(
        s.tokens * part
        for s in recipe.stages
        for modality, part in s.media_share.items()
        if modality != "text"
    )


def _assemble(work: _Work, notes: list[str]) -> Plan:
    """Return the plan with all its figures, from the estimates and the notes."""
    recipe, cluster, stages, omni = work.recipe, work.cluster, work.stages(), work.recipe.omni
    tokens = work.wanted.tokens or recipe.tokens
    longer = tokens / work.trained
    main = max(range(len(stages)), key=lambda n: stages[n].tokens)
    step, fullest = work.steps[main], max(work.rooms, key=lambda m: m.total)
    faster = _faster(work.search, stages[main].engine)
    days = total([s.days for s in stages])
    whole_bill = bills.bill(cluster.kind, work.gpu_hours(days), cluster.power_w)
    end = _end(work, days, whole_bill.usd)
    capacity, room = cluster.kind.memory_bytes / GIB, fullest.range * (1 / GIB)
    _, wanted_days, wanted_usd = work.wanted
    in_time = (days * longer).cdf(wanted_days) if wanted_days else None
    in_budget = (whole_bill.usd * longer).cdf(wanted_usd) if wanted_usd and whole_bill.usd else None
    expected = losses.by_tokens(
        omni.num_params(),
        omni.num_active_params(),
        end.tokens,
        media_tokens(recipe) / recipe.tokens,
    )
    fits = room.mid <= capacity
    shares = verdicts.hours(step.parts, stages[main].layout, work.goodput)
    verdict = Verdict(
        fits=fits,
        fits_likely=room.cdf(capacity),
        edge=work.edge,
        tokens=end.tokens,
        days=end.days,
        usd=end.bill.usd,
        likely=min((p for p in (in_time, in_budget) if p is not None), default=None),
        loss=expected,
        limit=verdicts.limit(fits, work.edge, shares),
        hours=shares,
    )
    speed, batch = step.speed, stages[main].batch_tokens
    return Plan(
        verdict=verdict,
        recipe=recipe.name,
        title=recipe.title,
        cluster=cluster,
        layout=stages[main].layout,
        engine=stages[main].engine,
        total_params=recipe.architecture.num_params(),
        active_params=recipe.architecture.num_active_params(),
        tokens=work.trained,
        tokens_of_recipe=recipe.tokens,
        memory={p: getattr(fullest, p) / GIB for p in MEMORY_PARTS},
        memory_gib=room,
        capacity_gib=capacity,
        step=step_parts(step),
        step_seconds=spread(lambda rate: batch / (rate * cluster.gpus), speed),
        mfu=speed * (step.mfu / step.tokens_per_s_per_gpu),
        tokens_per_s_per_gpu=speed,
        stages=stages,
        goodput=work.goodput,
        state_bytes=work.state_bytes,
        days=days,
        encoding_gpu_hours=work.encoding_hours(),
        gpu_hours=end.gpu_hours,
        bill=end.bill,
        loss=expected,
        serving=serving_cost.serving(omni, cluster),
        media=tuple(m for m in MEDIA if m in {r.modality for r in recipe.media}),
        days_wanted=wanted_days,
        usd_wanted=wanted_usd,
        tokens_wanted=tokens,
        in_time=in_time,
        in_budget=in_budget,
        evidence=_evidence(recipe, cluster, step),
        notes=tuple(notes),
        search=work.search,
        gpus_given=work.gpus,
        faster=faster,
        warnings=(
            *_fewer_gpus_note(work, days.mid),
            *_engines_note(stages),
            *_faster_engine_note(stages[main], faster),
        ),
    )


class _End(NamedTuple):
    """When training ends, and what has been trained and spent then."""

    days: Interval
    tokens: Interval
    gpu_hours: Interval
    bill: Bill


def _end(work: _Work, days: Interval, cost: Interval | None) -> _End:
    """Return the end of training: what the user fixed has no range, the rest has.

    `days` and `cost` are those of all the tokens that are trained.
    """
    cluster, wanted, trained, price = work.cluster, work.wanted, work.trained, work.price
    until, tokens = days, exact(trained)
    if work.edge == "days" and wanted.days:
        until, tokens = exact(wanted.days), verdicts.by_then(trained, days, wanted.days)
    if work.edge != "usd" or not (wanted.usd and cost and price):
        hours = work.gpu_hours(until)
        return _End(until, tokens, hours, bills.bill(cluster.kind, hours, cluster.power_w))
    usd = wanted.usd
    until = spread(lambda p: usd / p / (24 * cluster.gpus), price)
    hours = spread(lambda p: usd / p, price)
    bill = bills.bill(cluster.kind, hours, cluster.power_w).replace(usd=exact(usd))
    return _End(until, verdicts.by_then(trained, cost, usd), hours, bill)


def _fewer_gpus_note(work: _Work, days: float) -> list[str]:
    """Return a warning that says what using fewer GPUs than there are gains; `days` are those on
    the GPUs that are used."""
    gpus_used, gpus, on_all = work.cluster.gpus, work.gpus, work.days_on_all
    if gpus_used == gpus:
        return []
    if on_all is None:
        return [
            Phrase("use {:,} of {:,} GPUs: no layout is better on more of them", gpus_used, gpus)
        ]
    gain = on_all * work.share / days
    if work.wanted.days is not None and work.wanted.tokens is None and gain > 0:
        trained = work.trained / 1e12
        sentence = "use {:,} of {:,} GPUs: they train {:.3g}T tokens, all would train {:.3g}T"
        return [Phrase(sentence, gpus_used, gpus, trained, trained / gain)]
    sentence = "use {:,} of {:,} GPUs: they need {:.3g} days, all would need {:.3g}"
    return [Phrase(sentence, gpus_used, gpus, days, days * gain)]


def _engines_note(stages: tuple[StagePlan, ...]) -> list[str]:
    """Return a warning that says which stage needs which engine, where it is not the same for
    all."""
    by: dict[str | None, list[str]] = {}
    for s in stages:
        by.setdefault(s.engine, []).append(s.name)
    if len(by) < 2:
        return []
    needs = (
        Phrase("{} with {}", joined(", ", names), engine)
        if engine
        else Phrase("{} here", joined(", ", names))
        for engine, names in by.items()
    )
    return [Phrase("stages need different engines: {}", joined("; ", needs))]


def _faster(search: Search | None, engine: str | None) -> Candidate | None:
    """Return the best layout of another engine, where it is much faster than the best that Onnuri's
    trainer runs; else None."""
    if engine is not None or search is None or search.here is None:
        return None
    best = search.best[0]
    return best if best.engine and search.here.slower > FASTER else None


def _faster_engine_note(main: StagePlan, faster: Candidate | None) -> list[str]:
    """Return a warning that another engine's layout, `faster`, trains the largest stage faster."""
    if faster is None:
        return []
    times = faster.tokens_per_s_per_gpu.mid / main.tokens_per_s_per_gpu.mid
    return [
        Phrase(
            "{} trains {} {:.2g} times faster than what is runnable here: --engines any plans"
            " with it",
            faster.engine,
            main.name,
            times,
        )
    ]


def _evidence(recipe: Recipe, cluster: Cluster, step: StepTime) -> dict[str, tuple[str, ...]]:
    """Return the sentences on what each figure of a plan is based on, by the figure's name."""
    assumed = sorted(k for k, source in recipe.sources.items() if source == "assumed")
    yours = {"cluster": cluster.yours} if cluster.yours else {}
    sources = yours | {
        "step": step.evidence,
        "goodput": goodputs.EVIDENCE,
        "loss": losses.EVIDENCE,
        "serving": serving_cost.EVIDENCE,
        "bill": (_bill_evidence(cluster), "assumed: draw, cooling"),
    }
    return sources | ({"recipe": (Phrase("assumed: {}", ", ".join(assumed)),)} if assumed else {})


def _bill_evidence(cluster: Cluster) -> str:
    """Return the sentence that says whose price and power dollars and energy are based on."""
    own_figures = {line.partition(":")[0] for line in cluster.yours}
    price = "your price" if "price" in own_figures else "list prices of the hardware table"
    power = "your power" if "power" in own_figures else "rated power"
    return joined(", ", (price, power))


def step_parts(step: StepTime) -> tuple[StepPart, ...]:
    """Return the parts of a step, the longest first, without those that take no time."""
    names = sorted({*step.parts, *step.overlapped}, key=lambda n: -step.parts.get(n, 0.0))
    every = (
        StepPart(
            name=n,
            exposed_seconds=step.parts.get(n, 0.0),
            overlapped_seconds=step.overlapped.get(n, 0.0),
        )
        for n in names
    )
    return tuple(p for p in every if p.exposed_seconds + p.overlapped_seconds > 1e-4 * step.total)
