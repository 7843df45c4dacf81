"""Give the verdict of a plan, which stands before its figures: fits or not, tokens, days, dollars,
loss, the one thing that limits.

Where the user fixed a number of days (or dollars), that number ends the training and has no range:
the tokens have one. Knows no sentence; `report.py` writes them.
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
"""what ends training: the user's days, dollars or tokens, or the tokens that the recipe says"""
COMPUTE = ("projections", "feed_forward", "experts", "head", "attention")
PARTS = {
    "bandwidth": ("elementwise", "permute", "scan", "convert", "optimizer", "copies"),
    "network": ("tp", "cp", "ep", "pp", "gather", "reduce"),
    "bubble": ("bubble",),
    "launch": ("launch",),
    "imbalance": ("imbalance",),
    "crowd": ("crowd",),
}
"""the other parts of a step, by what limits them"""
RECOMPUTED = {"none": 0.0, "selective": 0.0, "full": 0.25}
"""share of the layers' time that is recomputation: a second forward pass beside one of forward and
two of backward"""


class Verdict(Config):
    """The figures that a reader decides by."""

    fits: bool
    """whether the plan fits in memory at the middle of the range, in every stage"""
    fits_likely: float
    """probability that it fits"""
    edge: Edge
    tokens: Interval
    """trained"""
    days: Interval
    usd: Interval | None
    """None without a price"""
    likely: float | None
    """probability that all wanted tokens are trained within the user's days and dollars; None
    without either"""
    loss: Interval | None
    """nats per text token; None where no law holds"""
    limit: str
    """the one thing that limits: memory, price, or what takes most of the hours"""
    hours: dict[str, float]
    """shares of the clock's hours, the largest first; they sum to 1"""


def by_then(tokens: float, duration: Interval, days: float) -> Interval:
    """Return the tokens that are trained when `days` are over, if `tokens` of them take
    `duration`."""
    return Interval(
        low=tokens * days / duration.high,
        mid=tokens * days / duration.mid,
        high=tokens * days / duration.low,
    )


def hours(step: Mapping[str, float], layout: ParallelConfig, good: Goodput) -> dict[str, float]:
    """Return what the clock's hours go to, as shares that sum to 1: the training share by what
    limits a step, the rest to failures with their checkpoints, and to what neither explains. `step`
    has the exposed seconds by part."""
    whole = sum(step.values())
    layers = sum(step.get(name, 0.0) for name in COMPUTE if name != "head")
    recomputed = RECOMPUTED[layout.recompute] * layers
    parts = {"compute": layers + step.get("head", 0.0) - recomputed, "recomputation": recomputed}
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
