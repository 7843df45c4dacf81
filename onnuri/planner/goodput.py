"""Estimate which share of a cluster's hours is training that lasts, after failures, restarts and
checkpoints.

Knows no model but the bytes of its state. Published rates bound the range; none is fitted here.
"""

from __future__ import annotations

import math

from onnuri.config import Config
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval, spread

DAY = 86_400.0
"""seconds per day"""
LLAMA3 = 3.8e-3
"""failures per node-day: 419 unexpected interruptions in 54 days on 2,048 nodes (arXiv
2407.21783)"""
RSC_LARGE, RSC_SMALL = 6.50e-3, 24 / 7.9 / 128
"""failures per node-day of Meta's RSC-1: fitted to its large jobs, and measured at 1,024 GPUs, a
mean time to failure of 7.9 h, 3.7 times less than the fit says (arXiv 2410.21680; its jobs of 8
GPUs, 47.7 days, fail as often per node)"""
SMALL_NODES, LARGE_NODES = 128, 2048
"""nodes of the jobs behind `RSC_SMALL` and `RSC_LARGE`"""
RESTART_SECONDS = Interval(low=300, mid=670, high=1500)
"""seconds from a failure to training again: MegaScale found faults in less than 10 and caught up in
less than 15 minutes (arXiv 2402.15627); ByteRobust's 97 % on 9,600 GPUs leave less than 8 (arXiv
2509.16293)"""
WRITE_GB_PER_NODE = Interval(low=0.5, mid=1.0, high=3.4)
"""GB per second and node that are written to storage: Llama 3's 2 TB/s sustained and 7 TB/s peak
over 2,048 nodes (arXiv 2407.21783, section 3.3.1); the low end assumed"""
STATE_BYTES = 12.0
"""bytes per parameter in a checkpoint: fp32 weights and Adam's two moments"""
OTHER_SHARE = Interval(low=0.55, mid=0.8, high=1.0)
"""share of a project's hours left by what neither failures nor checkpoints explain: evaluation,
stalls, slow nodes, runs begun again. Llama 3.1 405B's 30.84M hours hold 26.4M at its own steady
speed, which leaves 0.95; hours on model cards, which may count more than pretraining, hold 0.4 to
all of what `step_time.py` says, three quarters at the median (`onnuri plan validate`, gpu_hours)"""
SHORT_SHARE = Interval(low=0.9, mid=0.97, high=1.0)
"""the share that is left of a job of three hours, which is begun once and watched: start-up,
compilation, an evaluation; assumed"""
SHORT_DAYS, LONG_DAYS = 1 / 8, 16.0
"""clock days for which `SHORT_SHARE` and `OTHER_SHARE` hold; between them the share is a power of
the days (assumed). It is of time and not of nodes, so that which number of GPUs trains most by a
date does not depend on it"""
EVIDENCE = (
    "arXiv 2407.21783: 3.8 failures per 1,000 node-days",
    "arXiv 2410.21680: 6.5 to 23.7 per 1,000 node-days",
    "arXiv 2402.15627, 2509.16293: restarts",
    "Llama 3.1 405B: 86 % of its GPU hours at steady speed; model cards' hours",
)


class Goodput(Config):
    """What of a cluster's time is left for training."""

    share: Interval
    """of wall-clock time"""
    mttf_hours: Interval
    """mean time between failures of the job"""
    checkpoint_seconds: float
    """between checkpoints: sqrt(2 · write time · time to failure), unless the user sets it"""
    write_seconds: Interval
    """for which one checkpoint stops training"""


def failures_per_node_day(nodes: int) -> Interval:
    """Return the failures per node and day of a job on so many nodes.

    Small jobs fail more often per node: between the two sizes measured, the upper bound is a power
    of the nodes.
    """
    reach = min(max(math.log(nodes / SMALL_NODES) / math.log(LARGE_NODES / SMALL_NODES), 0.0), 1.0)
    high = RSC_SMALL * (RSC_LARGE / RSC_SMALL) ** reach
    return Interval(low=LLAMA3, mid=math.sqrt(LLAMA3 * high), high=high)


def other_share(days: float) -> Interval:
    """Return the share of the hours of a project of so many clock days that is left after what
    neither failures nor checkpoints explain."""
    reach = math.log(max(days, SHORT_DAYS) / SHORT_DAYS) / math.log(LONG_DAYS / SHORT_DAYS)
    reach = min(reach, 1.0)
    ends = ((getattr(SHORT_SHARE, n), getattr(OTHER_SHARE, n)) for n in ("low", "mid", "high"))
    low, mid, high = (short ** (1 - reach) * long**reach for short, long in ends)
    return Interval(low=low, mid=mid, high=high)


def clock_days(days: float) -> float:
    """Return the clock days of a project that would take `days` if nothing but failures and
    checkpoints took time: the longer it is, the larger is the share of the rest."""
    clock = days
    for _ in range(200):
        longer = days / other_share(clock).mid
        if abs(longer - clock) <= 1e-13 * longer:
            break
        clock = longer
    return clock


def share(
    failures_per_day: float, restart: float, write: float, other: float, every: float
) -> float:
    """Return the share of the clock that is effective training time (arXiv 2410.21680).

    `restart`, `write` and `every` are seconds: of a restart, of a checkpoint, between checkpoints;
    `other` is the share left by all other causes. A failure costs a restart and, on average, half
    the work since the last checkpoint.
    """
    lost_share = min(failures_per_day * (restart + every / 2) / DAY, 0.99)
    return (1 - lost_share) / (1 + write / every) * other


def best_checkpoint_seconds(write: float, failures_per_day: float) -> float:
    """Return the best seconds between checkpoints (Young 1974, "A first order approximation to the
    optimum checkpoint interval")."""
    return math.sqrt(2 * write * DAY / failures_per_day)


def goodput(
    cluster: Cluster,
    state_bytes: float,
    checkpoint_seconds: float | None = None,
    hours: float | None = None,
) -> Goodput:
    """Return the goodput of a job that fills the cluster and whose parameters and optimizer take
    `state_bytes` in all.

    `hours` are those that it trains at its steady speed; without them, a long project's goodput is
    returned.
    """
    nodes = max(1, math.ceil(cluster.gpus / cluster.node))
    failures = failures_per_node_day(nodes) * nodes
    write = spread(lambda rate: state_bytes / (nodes * rate * 1e9), WRITE_GB_PER_NODE)
    every = checkpoint_seconds or best_checkpoint_seconds(write.mid, failures.mid)
    steady_share = share(failures.mid, RESTART_SECONDS.mid, write.mid, 1.0, every)
    other = OTHER_SHARE if hours is None else other_share(clock_days(hours / 24 / steady_share))
    # the loss, not the share, is what a log scale suits; a share then cannot exceed 1
    lost_share = spread(
        lambda f, r, w, o: 1 - share(f, r, w, o, every), failures, RESTART_SECONDS, write, other
    )
    return Goodput(
        share=Interval(
            low=max(1 - lost_share.high, 0.01), mid=1 - lost_share.mid, high=1 - lost_share.low
        ),
        mttf_hours=spread(lambda f: 24 / f, failures),
        checkpoint_seconds=every,
        write_seconds=write,
    )
