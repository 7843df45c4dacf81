"""Answer the planner's questions the other way round: the fewest GPUs that train these tokens by a
date, the largest model that a cluster trains by it.

Bisection over admissible counts and sizes; what was tried is kept, and checked for being monotone.
Knows no layout: `plan.py` answers each count.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner import budget, loss
from onnuri.planner.architecture import Architecture
from onnuri.planner.goodput import DAY
from onnuri.planner.hardware import MOST_GPUS, Cluster
from onnuri.planner.plan import MOST, Plan, plan
from onnuri.planner.plan_record import Fewest
from onnuri.planner.recipe import Recipe

LAYERS = range(4, 257, 2)
"""numbers of layers of the sizes by rule: 0.2B to 3.5T dense parameters"""
SMOOTH = 7
"""largest prime factor of the node counts that are tried first: they divide batches and experts"""


def duration(name: str, text: str) -> float:
    """Return the days that `30d`, `6w`, `72h` or `30` say. Raises ConfigError for what is no length
    of time."""
    parts = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([dwh]?)\s*", text)
    if not parts:
        raise ConfigError(
            f"{name} {text!r}", "is not a length of time", "write such as 30d, 6w or 72h"
        )
    days = float(parts[1]) * {"w": 7.0, "h": 1 / 24}.get(parts[2], 1.0)
    if not 0 < days <= budget.MOST_DAYS:
        raise ConfigError(
            f"{name} {text!r}",
            "is not above 0 and within a century",
            "write such as 30d, 6w or 72h",
        )
    return days


def _check(days: float, tokens: float | None) -> None:
    """Raise ConfigError for days or tokens that are not positive, or beyond all reason."""
    if not 0 < days <= budget.MOST_DAYS:
        raise ConfigError(
            Phrase("days {:g}", days),
            "is not above 0 and within a century",
            "write such as 30d, 6w or 72h",
        )
    if tokens is not None and not 0 < tokens < MOST:
        raise ConfigError(
            Phrase("tokens {:g}", tokens),
            Phrase("is not a positive number below {:g}", MOST),
            "give more than 0",
        )


# ---- how many GPUs


Answer = Callable[[int], Plan]
"""a function from a number of GPUs to the plan on them. Raises ConfigError where none fits or
divides"""


class _DaysByCount:
    """The days of a recipe by count of GPUs, each planned once when it is first called for;
    infinite where nothing fits."""

    def __init__(self, answer: Answer, unit: int) -> None:
        self.answer, self.unit = answer, unit
        self.days: dict[int, float] = {}
        self.why: ConfigError | None = None

    def __call__(self, gpus: int) -> float:
        """Return the days of the recipe on so many GPUs; infinite where nothing fits."""
        if gpus not in self.days:
            try:
                self.days[gpus] = self.answer(gpus).days.mid
            except ConfigError as error:
                self.why, self.days[gpus] = error, math.inf
        return self.days[gpus]

    def between(self, low: int, high: int) -> list[int]:
        """Return admissible counts above `low` and below `high`: whole nodes, or any count within
        one."""
        return [
            *range(low + 1, min(high, self.unit)),
            *range(max(low // self.unit + 1, 1) * self.unit, high, self.unit),
        ]

    def monotone(self) -> bool:
        """Return whether more GPUs never took longer, of the counts that were planned and fit."""
        planned_days = [days for _, days in sorted(self.days.items()) if math.isfinite(days)]
        return all(later <= earlier * 1.001 for earlier, later in itertools.pairwise(planned_days))


def fewest(
    recipe: Recipe,
    cluster: Cluster,
    days: float,
    tokens: float | None = None,
    answer: Answer | None = None,
    **wanted: Any,
) -> Plan:
    """Return the plan on the fewest GPUs that train the recipe's tokens, or `tokens`, in `days` at
    the middle of the range.

    `answer` makes the plan of a count; without it, `plan.plan` does with the rest of its arguments,
    `wanted`, and counts are compared by layouts that Onnuri's trainer runs. Raises ConfigError
    where no count does.
    """
    _check(days, tokens)
    whole_of = {"tokens": recipe.tokens if tokens is None else tokens, **wanted}

    def quick(gpus: int) -> Plan:
        """Return the plan on so many GPUs for comparing counts, with the tokens alone fixed."""
        return plan(
            recipe,
            cluster.replace(gpus=gpus),
            **{**whole_of, "here": wanted.get("engines", "here") == "here"},
        )

    def whole(gpus: int) -> Plan:
        """Return the plan on so many GPUs as the user asked for it."""
        return plan(recipe, cluster.replace(gpus=gpus), days=days, **whole_of)

    counts = _DaysByCount(answer or quick, cluster.node)
    low, high = _bracket(counts, _guess(recipe, cluster, days, whole_of["tokens"]), days)
    for admissible in (
        [n for n in counts.between(low, high) if _smooth(-(-n // cluster.node))],
        None,
    ):
        low, high = _bisected(counts, admissible or counts.between(low, high), low, high, days)
    best = (answer or whole)(high)
    while (
        answer is None and best.days.mid > days * 1.000_001 and high < MOST_GPUS
    ):  # a stage in another engine was slower
        low, high = high, high + max(1, cluster.node if high >= cluster.node else 1)
        best = whole(high)
    less_days = counts.days.get(low, math.inf)
    return best.replace(
        fewest=Fewest(
            days=days,
            gpus=best.cluster.gpus,
            less=low or None,
            less_days=less_days if less_days < math.inf else None,
            tried=len(counts.days),
            monotone=counts.monotone(),
        )
    )


def _guess(recipe: Recipe, cluster: Cluster, days: float, tokens: float) -> int:
    """Return the power of two of nodes, in GPUs, that would do at 20 % of the peak."""
    flops = 6 * recipe.architecture.num_active_params() * tokens
    gpus = flops / (0.2 * cluster.kind.bf16_tflops * 1e12 * days * DAY)
    if gpus < cluster.node:
        return 2 ** max(0, round(math.log2(max(gpus, 1))))
    return int(min(MOST_GPUS // 2, cluster.node * 2 ** round(math.log2(gpus / cluster.node))))


def _bracket(counts: _DaysByCount, start: int, days: float) -> tuple[int, int]:
    """Return two counts of which the lower is too few (0: none is) and the higher enough, a factor
    of two apart at most. Raises ConfigError where no count is enough."""
    high = start
    if counts(high) <= days:
        while high > 1 and counts(high // 2) <= days:
            high //= 2
        return high // 2, high
    low = high
    while counts(high := min(2 * low, MOST_GPUS)) > days:
        low = high
        if high == MOST_GPUS:
            best = min(counts.days, key=lambda n: counts.days[n])
            if not math.isfinite(counts.days[best]) and counts.why:
                raise counts.why
            raise ConfigError(
                Phrase("{:g} days", days),
                Phrase("are too few for any number of GPUs up to {:,}", MOST_GPUS),
                Phrase(
                    "give {:,.0f} days, which {:,} GPUs take, or fewer tokens",
                    counts.days[best],
                    best,
                ),
            )
    return low, high


def _bisected(
    counts: _DaysByCount, admissible: list[int], low: int, high: int, days: float
) -> tuple[int, int]:
    """Return the two neighbours among admissible counts of which the lower is too few and the
    higher enough."""
    ordered = [low, *admissible, high]
    first, last = 0, len(ordered) - 1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if counts(ordered[middle]) <= days else (middle, last)
    return ordered[first], ordered[last]


def _smooth(number: int) -> bool:
    """Return whether a number has no prime factor above `SMOOTH`."""
    for prime in range(2, SMOOTH + 1):
        while number % prime == 0:
            number //= prime
    return number == 1


# ---- how large a model


class Size(Config):
    """One model, and whether it is trained in time at the middle of the range."""

    name: str
    title: str
    kind: str
    """system, dense or sparse"""
    plan: Plan
    """for all its tokens"""
    done: bool
    """whether all its tokens are trained by the date"""
    likely: float
    """probability that all its tokens are trained by the date"""


class Largest(Config):
    """The largest models that a cluster trains by a date."""

    cluster: Cluster
    days: float
    tokens: float | None
    """tokens that every size trains; None: 20 per effective dense parameter, of a system its own"""
    sizes: tuple[Size, ...]
    """the largest dense one and the largest mixture of experts by rule, each followed by the next
    larger, which is late; then the systems, the largest first"""
    left_out: dict[str, str]
    """reasons by title, for systems that do not fit"""

    @property
    def best(self) -> dict[str, Size]:
        """Return the largest of each kind that is trained in time, the largest of all first."""
        best: dict[str, Size] = {}
        finished = (s for s in self.sizes if s.done)
        for size in sorted(finished, key=lambda s: -s.plan.total_params):
            best.setdefault(size.kind, size)
        return best


class _Rung(NamedTuple):
    """One size by rule with its plan, or the reason why there is none."""

    size: Size | None
    why: str = ""


def largest(
    recipes: Sequence[Recipe],
    cluster: Cluster,
    days: float,
    tokens: float | None = None,
    **wanted: Any,
) -> Largest:
    """Return the largest dense model, the largest mixture of experts and the systems that are
    trained fully in `days`, in layouts that Onnuri's trainer runs.

    `wanted` are the rest of `plan.plan`'s arguments. Raises ConfigError where no size is trained in
    time.
    """
    _check(days, tokens)
    sizes: list[Size] = []
    left_out: dict[str, str] = {}
    for kind, shape in (("dense", budget.dense), ("sparse", budget.sparse)):
        sizes += _by_rule(shape, kind, cluster, days, tokens=tokens, **wanted)
    for recipe in sorted(recipes, key=lambda r: -r.architecture.num_params()):
        rung = _rung(recipe, "system", cluster, days, tokens, **wanted)
        if rung.size:
            sizes.append(rung.size)
        else:
            left_out[recipe.title] = rung.why
    if not any(s.done for s in sizes):
        soonest = min((s.plan.days.mid for s in sizes), default=math.inf)
        repair = (
            Phrase("give {:,} days, or more GPUs", math.ceil(soonest))
            if math.isfinite(soonest)
            else "use GPUs of more memory, or more"
        )
        raise ConfigError(
            Phrase("{:,} {} for {:g} days", cluster.gpus, cluster.gpu, days),
            "train none of the sizes fully",
            repair,
        )
    return Largest(cluster=cluster, days=days, tokens=tokens, sizes=tuple(sizes), left_out=left_out)


def _by_rule(
    shape: Callable[[int], Architecture], kind: str, cluster: Cluster, days: float, **wanted: Any
) -> list[Size]:
    """Return the largest size of a kind that is trained in time and the next larger, by bisection
    over layers."""
    rungs: dict[int, Size | None] = {}

    def done(layers: int) -> bool:
        """Return whether the size of so many layers is trained in time, and record its plan."""
        recipe = budget.by_rule(shape(layers), cluster, days)
        size = rungs[layers] = _rung(recipe, kind, cluster, days, **wanted).size
        return size is not None and size.done

    first, last = -1, len(LAYERS)
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if done(LAYERS[middle]) else (first, middle)
    ends = (rungs[LAYERS[n]] for n in (first, last) if 0 <= n < len(LAYERS))
    return [size for size in ends if size]


def _rung(
    recipe: Recipe, kind: str, cluster: Cluster, days: float, tokens: float | None, **wanted: Any
) -> _Rung:
    """Return a size's plan for all its tokens, or why it has none."""
    whole = tokens or recipe.tokens
    try:
        answer = plan(recipe, cluster, tokens=whole, days=days, here=True, **wanted)
    except ConfigError as error:
        return _Rung(None, error.rule)
    if not loss.holds(answer.total_params, answer.active_params, whole):
        return _Rung(None, budget.TOO_FEW_TOKENS)
    return _Rung(
        Size(
            name=recipe.name,
            title=recipe.title,
            kind=kind,
            plan=answer,
            done=answer.days.mid <= days,
            likely=answer.days.cdf(days),
        )
    )
