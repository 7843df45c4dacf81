"""Estimate what a router that does not spread tokens evenly costs a step, because `step_time.py` is
fitted to rows of which most force balance.

Knows no expert; the figures are two published pairs of runs.
"""

from __future__ import annotations

import math

from onnuri.planner.architecture import Architecture
from onnuri.planner.interval import Interval
from onnuri.planner.job import Job
from onnuri.planner.step_time import StepTime, step_time

REAL_ROUTING_EFFICIENCY = Interval(low=237 / 295, mid=math.sqrt(237 / 295 * 357 / 389), high=1.0)
"""speed with real routing over the speed with forced balance: 295 to 237 TFLOPS in sequences of
16K, 389 to 357 of 131K (`facts/scaling.md`); none at best"""
EVIDENCE = "router imbalance: 295 to 237 and 389 to 357 TFLOPS"


def slowdown(a: Architecture) -> float:
    """Return the factor by which a step of the model is slower than with a balanced router, at the
    middle; 1 without experts."""
    return 1 / REAL_ROUTING_EFFICIENCY.mid if a.mixture else 1.0


def real_step(job: Job) -> StepTime:
    """Return the step time as training has it, with real routing, not as a benchmark with forced
    balance."""
    balanced = step_time(job)
    if not job.architecture.mixture:
        return balanced
    speed, waiting = (
        balanced.tokens_per_s_per_gpu,
        balanced.total * (slowdown(job.architecture) - 1),
    )
    down = math.hypot(
        math.log(balanced.low / speed),
        math.log(REAL_ROUTING_EFFICIENCY.low / REAL_ROUTING_EFFICIENCY.mid),
    )
    up = math.hypot(
        math.log(balanced.high / speed),
        math.log(REAL_ROUTING_EFFICIENCY.high / REAL_ROUTING_EFFICIENCY.mid),
    )
    return balanced.replace(
        parts={**balanced.parts, "imbalance": waiting},
        total=balanced.total + waiting,
        mfu=balanced.mfu * REAL_ROUTING_EFFICIENCY.mid,
        tokens_per_s_per_gpu=speed * REAL_ROUTING_EFFICIENCY.mid,
        low=speed * REAL_ROUTING_EFFICIENCY.mid * math.exp(-down),
        high=speed * REAL_ROUTING_EFFICIENCY.mid * math.exp(up),
        evidence=(*balanced.evidence, EVIDENCE),
    )
