"""Compare sizes of model for a budget of GPUs and days: the systems as they are, and dense and
sparse sizes made by one rule.

For each it gives the loss by the date, the odds of finishing, and what serving costs. Three aims
are ranked by drawing all unknowns together. Knows no recipe by name; the loss is of published laws
(`loss.py`).
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner import loss
from onnuri.planner.architecture import Architecture
from onnuri.planner.counts import Engines, Report, quiet
from onnuri.planner.goodput import DAY
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval, exact, spread
from onnuri.planner.plan import Plan, media_tokens, plan
from onnuri.planner.recipe import Recipe, TrainingStage, best_batch, text_recipe
from onnuri.planner.serving_cost import Serving
from onnuri.planner.sizes import dense, sparse

DENSE_LAYERS, SPARSE_LAYERS = (16, 24, 32, 40, 48, 64, 80, 100, 128), (16, 24, 32, 40, 48, 64, 80)
"""numbers of layers of the sizes by rule: from 1B to 440B dense, from 1B to 88B active"""
MOST_TOKENS = 40e12
"""tokens, as many as any published run has trained on: Llama 4 Scout's about 40T
(`published_runs.csv`); beyond it, text repeats"""
TOKENS = 4_096
"""tokens per sequence"""
MOST_DAYS = 36_525.0
TOO_FEW_TOKENS = (
    "trains too few tokens by then for a law of loss to hold: less than one for each parameter"
    " it is worth"
)
DRAWS = 4_000
COMMON = math.sqrt(0.5)
"""weight of the error of a speed that all options share (one cluster, one software): half of the
variance, assumed"""


class Option(Config):
    """One size of model on the budget."""

    name: str
    title: str
    kind: str
    """system, dense or sparse"""
    plan: Plan
    """its plan until the date"""
    tokens: Interval
    """trained by the date, `MOST_TOKENS` at most"""
    text_share: float
    """share of text among those tokens"""
    loss: Interval
    """nats per text token, by the date"""
    days_needed: Interval
    """days for all tokens of its own plan"""
    finish: float
    """probability that all tokens of its own plan are trained by the date"""
    trained_params: tuple[float, float]
    """total and active parameters with the ids that media add, for which the laws of loss are
    evaluated"""

    def loss_after(self, tokens: float, *law: float) -> float:
        """Return the nats per text token after so many tokens, with a value for every unknown of
        the laws."""
        return loss.loss_at(
            *self.trained_params, tokens * self.text_share, tokens * (1 - self.text_share), *law
        )

    @property
    def serving(self) -> Serving:
        """Return the estimate of serving this size: GPUs, users, tokens per second, dollars per
        million tokens."""
        return self.plan.serving


class Rank(Config):
    """The place of a system under one aim."""

    name: str
    place: int
    """equal for a tie: its 80 % range and the range of the place's first overlap"""
    first: float
    """probability of being the best of all"""
    win_probability: float | None
    """probability of being better than the first of the list, with what is unknown of both drawn
    once; None for the first"""


class Budget(Config):
    """All options on a budget and how they rank."""

    cluster: Cluster
    days: float
    engines: Engines
    systems: tuple[Option, ...]
    """the options that are recipes"""
    ladder: tuple[Option, ...]
    """the options that are sizes by rule"""
    flops: float
    """FLOPs of the whole budget at 40 % of the bf16 peak"""
    optimal: dict[str, tuple[float, float]]
    """dense parameters and tokens that each law calls optimal for those FLOPs"""
    aims: dict[str, tuple[Rank, ...]]
    """the ranking of the systems by aim: loss, operate, media"""
    left_out: dict[str, str]
    """reasons by title, for options that no layout holds or no law reaches"""


def budget(
    recipes: Sequence[Recipe],
    cluster: Cluster,
    days: float,
    engines: Engines = "here",
    report: Report = quiet,
    cache: Path | None = None,
    exact_gpus: bool = False,
) -> Budget:
    """Return the systems and the ladder of sizes, as far as they fit. Raises ConfigError where
    nothing does.

    `report` is told how far the searches are, `cache` is a folder in which their answers are kept;
    with `exact_gpus` no size uses fewer GPUs.
    """
    if not 0 < days <= MOST_DAYS:
        raise ConfigError(
            Phrase("days {:g}", days),
            "is not a positive number of days within a century",
            "give such as 120",
        )
    options: list[Option] = []
    left_out: dict[str, str] = {}
    for recipe, kind in [*((r, "system") for r in recipes), *_ladder(cluster, days)]:
        try:
            options.append(option(recipe, kind, cluster, days, engines, report, cache, exact_gpus))
        except ConfigError as error:
            left_out[recipe.title] = error.rule
    if not options:
        why, times = Counter(left_out.values()).most_common(1)[0]
        raise ConfigError(
            Phrase("{} {} for {:g} days", cluster.gpus, cluster.gpu, days),
            Phrase("is enough for none of {} sizes; {} of them: {}", len(left_out), times, why),
            "give more GPUs or days",
        )
    systems = tuple(o for o in options if o.kind == "system")
    return Budget(
        cluster=cluster,
        days=days,
        engines=engines,
        systems=systems,
        left_out=left_out,
        ladder=tuple(o for o in options if o.kind != "system"),
        flops=compute(cluster, days),
        optimal=loss.optimal_sizes(compute(cluster, days)),
        aims=rank(systems, days) if systems else {},
    )


def compute(cluster: Cluster, days: float) -> float:
    """Return the FLOPs of a budget at 40 % of the bf16 peak, which good dense runs reach."""
    return 0.4 * cluster.kind.bf16_tflops * 1e12 * cluster.gpus * days * DAY


def option(
    recipe: Recipe,
    kind: str,
    cluster: Cluster,
    days: float,
    engines: Engines = "here",
    report: Report = quiet,
    cache: Path | None = None,
    exact_gpus: bool = False,
) -> Option:
    """Return a recipe as an option that trains until the date. Its own plan is what the recipe says
    without a date. Raises ConfigError where nothing fits or no law of loss holds."""
    answer = plan(
        recipe,
        cluster,
        days=days,
        here=engines == "here",
        engines=engines,
        report=report,
        cache=cache,
        exact_gpus=exact_gpus,
    )
    if answer.tokens > MOST_TOKENS:
        answer = plan(recipe, answer.cluster, answer.layout, tokens=MOST_TOKENS)
    if answer.loss is None:
        raise ConfigError(recipe.title, TOO_FEW_TOKENS, "give more GPUs or days")
    whole, text = (
        answer.days * (recipe.tokens / answer.tokens),
        1 - media_tokens(recipe) / recipe.tokens,
    )
    by_then = spread(lambda d: min(recipe.tokens * days / d, MOST_TOKENS), whole)
    omni = recipe.omni
    sizes = omni.num_params(), omni.num_active_params()
    expected = loss.by_tokens(*sizes, by_then, 1 - text)
    assert expected, "the plan of these tokens has one"
    return Option(
        name=recipe.name,
        title=recipe.title,
        kind=kind,
        plan=answer,
        days_needed=whole,
        finish=whole.cdf(days),
        tokens=by_then,
        text_share=text,
        loss=expected,
        trained_params=sizes,
    )


# ---- sizes by rule


def _ladder(cluster: Cluster, days: float) -> list[tuple[Recipe, str]]:
    """Return the sizes by rule as recipes, each with its kind, dense or sparse."""
    shapes = [(dense(n), "dense") for n in DENSE_LAYERS] + [
        (sparse(n), "sparse") for n in SPARSE_LAYERS
    ]
    return [(by_rule(a, cluster, days), kind) for a, kind in shapes]


def by_rule(a: Architecture, cluster: Cluster, days: float) -> Recipe:
    """Return a size by rule as a recipe: text alone, in batches of whole sequences per GPU."""
    batch = best_batch(compute(cluster, days), TOKENS * cluster.gpus)
    active = a.num_active_params()
    title = f"{a.num_params() / 1e9:.0f}B" + (
        f"-A{active / 1e9:.0f}B" if active < a.num_params() else ""
    )
    tokens = 20 * loss.effective_params(a.num_params(), active)
    stage = TrainingStage(
        name="text",
        tokens=tokens,
        tokens_per_sequence=TOKENS,
        batch_tokens=batch,
        source="20 tokens a parameter it is worth, arXiv 2203.15556",
    )
    return text_recipe(a, stage, cluster.gpu, cluster.gpus, title=title)


# ---- ranking


Draws = list[list[float]]
"""one list per draw of all unknowns: a figure for every option, the lowest is best"""


def rank(options: Sequence[Option], days: float) -> dict[str, tuple[Rank, ...]]:
    """Return under every aim the places and ties of the options, and how often each is first when
    all unknowns are drawn."""
    draws = draw(options, days)
    return {
        "loss": _ranks(options, draws["loss"], lambda o: o.loss),
        "operate": _ranks(options, draws["operate"], cost),
        "media": _ranks(options, draws["media"], lambda o: exact(-len(o.plan.media))),
    }


def cost(o: Option) -> Interval:
    """Return dollars per million tokens served; without a list price, GPU seconds."""
    return o.serving.usd_per_million_tokens or spread(
        lambda rate: 1e6 / rate, o.serving.tokens_per_s_per_gpu
    )


def draw(options: Sequence[Option], days: float) -> dict[str, Draws]:
    """Return the figures of all options under each aim, drawn together so that they share their
    common errors."""
    dice, draws = random.Random(0), dict[str, Draws](loss=[], operate=[], media=[])
    for _ in range(DRAWS):
        law = [i.quantile(dice.gauss(0, 1)) for i in loss.INPUTS]
        speed, served = dice.gauss(0, 1), dice.gauss(0, 1)
        days_taken = [o.days_needed.quantile(COMMON * (speed + dice.gauss(0, 1))) for o in options]
        draws["loss"].append(
            [
                o.loss_after(min(o.plan.tokens_of_recipe * days / t, MOST_TOKENS), *law)
                for o, t in zip(options, days_taken)
            ]
        )
        draws["operate"].append(
            [
                -o.serving.tokens_per_s_per_gpu.quantile(COMMON * (served + dice.gauss(0, 1)))
                for o in options
            ]
        )
        draws["media"].append(
            [-len(o.plan.media) * float(t <= days) for o, t in zip(options, days_taken)]
        )
    return draws


def _ranks(
    options: Sequence[Option], draws: Draws, value: Callable[[Option], Interval]
) -> tuple[Rank, ...]:
    """Return the ranking of the options under one aim, from the figures drawn and the `value` by
    which they are sorted."""
    ranks: list[Rank] = []
    order = sorted(range(len(options)), key=lambda n: (value(options[n]).mid, -options[n].finish))
    leader = order[0]
    for n in order:
        tied = bool(ranks) and value(options[n]).overlaps(value(options[leader]))
        leader = leader if tied else n
        ranks.append(
            Rank(
                name=options[n].name,
                place=ranks[-1].place if tied else len(ranks) + 1,
                first=sum((d[n] == min(d)) / d.count(min(d)) for d in draws) / len(draws),
                win_probability=sum(_better(d[n], d[order[0]]) for d in draws) / len(draws)
                if ranks
                else None,
            )
        )
    return tuple(ranks)


def _better(mine: float, other: float) -> float:
    """Return 1 where the first figure is lower and so better, 0 where it is not, and a half for
    equals."""
    return 0.5 if mine == other else float(mine < other)
