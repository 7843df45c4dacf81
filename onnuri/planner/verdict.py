"""The verdict of a plan, which stands before its figures: fits or not, tokens, days, dollars, loss,
the one thing that limits.

Where a number of days (or dollars) was asked for, that number is the answer's edge and has no
range: the tokens have one. Knows no sentence; `report.py` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from onnuri.config import Config
from onnuri.planner import goodput as goodputs
from onnuri.planner.goodput import Goodput
from onnuri.planner.interval import Interval
from onnuri.planner.parallel import ParallelConfig

Edge = Literal["days", "usd", "tokens", "recipe"]
"""what ends training: the days or dollars that were given, the tokens that were, or those that the
recipe says"""
COMPUTE = ("projections", "feed_forward", "experts", "head", "attention")
PARTS = {
    "bandwidth": ("elementwise", "permute", "scan", "convert", "optimizer", "copies"),
    "network": ("tp", "cp", "ep", "pp", "gather", "reduce"),
    "bubble": ("bubble",),
    "launch": ("launch",),
    "imbalance": ("imbalance",),
    "crowd": ("crowd",),
}
"""what else a step spends time on, by what limits it"""
RECOMPUTED = {"none": 0.0, "selective": 0.0, "full": 0.25}
"""of the layers' time: a second forward pass beside one of forward and two of backward"""


class Verdict(Config):
    """What a reader decides by."""

    fits: bool
    """at the middle of the range, in every stage"""
    fits_likely: float
    """probability that it does"""
    edge: Edge
    tokens: Interval
    """trained"""
    days: Interval
    usd: Interval | None
    """None without a price"""
    likely: float | None
    """probability that all tokens that were wanted are trained within the days and dollars that
    were given; None for neither"""
    loss: Interval | None
    """nats a text token; None where no law holds"""
    limit: str
    """the one thing that limits: memory, price, or what takes most of the hours"""
    hours: dict[str, float]
    """shares of the clock, the largest first; they sum to 1"""


def by_then(tokens: float, took: Interval, days: float) -> Interval:
    """Return the tokens that are trained when `days` are over, if `tokens` of them take `took`."""
    return Interval(
        low=tokens * days / took.high, mid=tokens * days / took.mid, high=tokens * days / took.low
    )


def hours(step: Mapping[str, float], layout: ParallelConfig, good: Goodput) -> dict[str, float]:
    """Return on what the clock's hours go, as shares that sum to 1: of a step by what limits it, of
    the rest failures with their checkpoints, and what neither explains. `step` has the exposed
    seconds by part."""
    whole = sum(step.values())
    layers = sum(step.get(name, 0.0) for name in COMPUTE if name != "head")
    again = RECOMPUTED[layout.recompute] * layers
    parts = {"compute": layers + step.get("head", 0.0) - again, "recomputation": again}
    parts |= {limit: sum(step.get(name, 0.0) for name in names) for limit, names in PARTS.items()}
    trained, explained = good.share.mid, max(goodputs.OTHER_SHARE.mid, good.share.mid)
    shares = {name: trained * seconds / whole for name, seconds in parts.items()}
    shares |= {"failures": explained - trained, "other hours": 1 - explained}
    return dict(sorted(((k, v) for k, v in shares.items() if v > 0), key=lambda kv: -kv[1]))


def limit(fits: bool, edge: Edge, shares: Mapping[str, float]) -> str:
    """Return the one thing that limits. Recomputation is what lack of memory costs."""
    if not fits:
        return "memory"
    if edge == "usd":
        return "price"
    first = next(iter(shares))
    return "memory" if first == "recomputation" else first
