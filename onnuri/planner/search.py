"""Every layout of a model on a cluster: the fastest, the fastest that runs here, and why the rest lost.

Exact, not greedy: what is left out without being timed needs more memory than a layout that does not fit, recomputes
more than it must, or is slower than the best by its products alone. Knows how to enumerate; `memory.py` and
`routing.py` judge.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval
from onnuri.planner.job import Job
from onnuri.planner.layout import Layout, Precision, Recompute, Sharding
from onnuri.planner.memory import GIB, memory
from onnuri.planner.routing import real_step
from onnuri.planner.step_time import StepTime

MICRO_BATCHES = (1, 2, 4, 8)
VIRTUAL_STAGES = (1, 2, 4)
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
"""the fastest and fullest first"""
MAX_CONTEXT_PARALLEL = 16
KEPT = 5
"""best layouts that are shown"""


class Candidate(Config):
    """One layout that fits."""

    layout: Layout
    engine: str | None
    """None: runnable here"""
    tokens_per_s_per_gpu: Interval
    memory_gib: float
    """that it needs at most, with a probability of 90 %"""
    slower: float = 1.0
    """times the best's step"""
    because: str = ""
    """the part of a step that takes longer than the best's by most"""


class Search(Config):
    """What was found."""

    best: tuple[Candidate, ...]
    """the fastest of each engine and degrees, the fastest first"""
    here: Candidate | None
    """the fastest that is runnable here"""
    lost: dict[str, int]
    """why the others lost, and how many"""
    layouts: int
    seconds: float


class Group(NamedTuple):
    """Layouts of the same degrees."""

    base: Layout
    shardings: tuple[tuple[Sharding, int | None], ...]
    """from the fewest weights a GPU to the most"""
    virtual_stages: tuple[int, ...]
    micro_batches: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.shardings) * len(self.virtual_stages) * len(self.micro_batches) * len(RECOMPUTE)


def search(a: Architecture, cluster: Cluster, tokens: int, batch_tokens: int, precisions: tuple[Precision, ...] = ("bf16",),
           here: bool = False, release: float | None = None) -> Search:
    """Every layout; with `here`, those alone that Onnuri's trainer runs. Raises ConfigError where none fits."""
    began, lost = time.perf_counter(), collections.Counter[str]()
    timed: list[tuple[float, Layout, StepTime, float]] = []
    limit = _Limit()
    for group in grid(a, cluster, tokens, batch_tokens, precisions, here):
        job = Job(architecture=a, layout=group.base, cluster=cluster, tokens=tokens, batch_tokens=batch_tokens, release=release)
        for layout, room in fitting(job, group, lost):
            laid = job.replace(layout=layout)
            if floor_seconds(laid) > limit.seconds:
                lost["products and bubble alone take longer"] += 1
                continue
            found = real_step(laid)
            limit.see(layout, found.total)
            timed.append((found.total, layout, found, room))
    if not timed:
        room = least_bytes(a, cluster, tokens, batch_tokens, precisions, here) / GIB
        why = (f"none of {sum(lost.values()):,} layouts fits, the smallest takes {room:,.0f} GiB of "
               f"{cluster.kind.memory_bytes / GIB:.0f}" if lost else
               f"no layout divides {batch_tokens // tokens:,} sequences a batch")
        raise ConfigError(f"{a.name} on {cluster.gpus:,} {cluster.gpu}", why, "use more GPUs, or a power of two")
    return _report(timed, lost, time.perf_counter() - began)


def grid(a: Architecture, cluster: Cluster, tokens: int, batch_tokens: int, precisions: tuple[Precision, ...] = ("bf16",),
         here: bool = False) -> Iterator[Group]:
    """All degrees that divide, the least communication first."""
    heads = [b.attention.heads for b in a.blocks if b.attention]
    experts = {b.experts.routed for b in a.blocks if b.experts}
    for pp, tp, cp in itertools.product(
            _divisors(1 if here else min(cluster.gpus, a.layers), of=cluster.gpus),
            [t for t in _powers(1 if here else min(cluster.kind.domain, 64)) if all(h % t == 0 for h in heads)],
            [c for c in _powers(1 if here else MAX_CONTEXT_PARALLEL)]):
        dp, rest = divmod(cluster.gpus, pp * tp * cp)
        if rest or not dp or tokens % (tp * cp) or batch_tokens % (tokens * dp):
            continue
        micro = tuple(m for m in MICRO_BATCHES if batch_tokens % (tokens * dp * m) == 0)
        virtual = tuple(v for v in VIRTUAL_STAGES if (v == 1 or pp > 1) and pp * v <= a.layers)
        for ep, precision in itertools.product(
                [e for e in _divisors(dp * cp, of=dp * cp) if e == 1 or (experts and all(n % e == 0 for n in experts))],
                precisions):
            base = Layout(dp=dp, tp=tp, cp=cp, pp=pp, ep=ep, precision=precision)
            if shardings := _shardings(cluster, base, here):
                yield Group(base, shardings, virtual, micro)


def _shardings(cluster: Cluster, base: Layout, here: bool) -> tuple[tuple[Sharding, int | None], ...]:
    """`ddp` is left out: `zero1` moves as many bytes and holds fewer; so is what has more experts' ranks than a copy."""
    dp = base.dp
    found: list[tuple[Sharding, int | None]] = [("ddp", None)]
    if dp > 1:
        inner = [s for s in (16 * cluster.node, 4 * cluster.node, cluster.node) if s < dp and dp % s == 0]
        found = [("fsdp", None), *(("hsdp", s) for s in inner), ("zero1", None)]
    layouts = [base.replace(sharding=sharding, shard=shard) for sharding, shard in found]
    return tuple((x.sharding, x.shard) for x in layouts if (not here if x.engine else x.shards * x.tp % x.ep == 0))


def fitting(job: Job, group: Group, lost: collections.Counter[str]) -> Iterator[tuple[Layout, float]]:
    """Of a group's layouts those that fit with the least recomputation. Fewer shards, a larger micro-batch and less
    recomputation never need less memory, so what is above a layout that does not fit is not asked. (`zero1` can need less
    than `hsdp`, which gathers weights on top of its share.)"""
    rest = group.size
    gathered = tuple(s for s in group.shardings if s[0] in ("fsdp", "hsdp"))
    for shardings in (gathered, tuple(s for s in group.shardings if s not in gathered)):
        for virtual in group.virtual_stages:
            for layout, room, tried in _ascending(job, group.base.replace(virtual_stages=virtual), shardings, group.micro_batches):
                rest -= len(RECOMPUTE) - tried
                lost["recomputes more than it must"] += len(RECOMPUTE) - 1 - tried
                yield layout, room
    lost["too much memory"] += rest


def _ascending(job: Job, base: Layout, shardings: tuple[tuple[Sharding, int | None], ...],
               micro_batches: tuple[int, ...]) -> Iterator[tuple[Layout, float, int]]:
    """Layouts that fit, their bytes, and the place of their recomputation in `RECOMPUTE`; memory only grows on the way."""
    least = dict.fromkeys(micro_batches, 0)
    for sharding, shard in shardings:
        for micro in tuple(least):
            layout = base.replace(sharding=sharding, shard=shard, micro_batch=micro)
            found = _least(job, layout, least[micro])
            if found is None:
                least = {m: tried for m, tried in least.items() if m < micro}
                break
            least[micro] = found[2]
            yield found


def _least(job: Job, base: Layout, start: int) -> tuple[Layout, float, int] | None:
    """The least recomputation that fits."""
    for tried in range(start, len(RECOMPUTE)):
        layout = base.replace(recompute=RECOMPUTE[tried])
        room = memory(job.replace(layout=layout)).high  # a tenth of such plans would not fit
        if room <= job.cluster.kind.memory_bytes:
            return layout, room, tried
    return None


def least_bytes(a: Architecture, cluster: Cluster, tokens: int, batch_tokens: int,
                precisions: tuple[Precision, ...] = ("bf16",), here: bool = False) -> float:
    """Of a GPU, of the layout that needs the least; infinite where none divides."""
    return min((memory(Job(architecture=a, cluster=cluster, tokens=tokens, batch_tokens=batch_tokens, layout=group.base.replace(
        sharding=sharding, shard=shard, recompute="full"))).high
        for group in grid(a, cluster, tokens, batch_tokens, precisions, here) for sharding, shard in group.shardings),
        default=math.inf)


def floor_seconds(job: Job) -> float:
    """Less than any step of the job takes: its products at the peak, and the pipeline's bubble of them (Narayanan et
    al. 2021, arXiv 2104.04473: (pp - 1) / (micro-batches · virtual stages))."""
    layout = job.layout
    passes = 4 / 3 if layout.recompute == "full" else 1
    work = job.batch_tokens / layout.gpus * job.architecture.flops_per_token(job.tokens) * passes
    bubble = (layout.pp - 1) / (job.micro_batches * layout.virtual_stages)
    return work * (1 + bubble) / (job.cluster.kind.peak_tflops(layout.precision) * 1e12)


class _Limit:
    """The time that a layout must beat to be among the best: the worst of the best of `KEPT` kinds."""

    def __init__(self) -> None:
        self.best: dict[tuple[object, ...], float] = {}
        self.seconds = float("inf")

    def see(self, layout: Layout, seconds: float) -> None:
        if seconds < self.best.get(kind(layout), float("inf")):
            self.best[kind(layout)] = seconds
            here = min((s for k, s in self.best.items() if k[0] is None), default=float("inf"))  # what runs here is kept too
            if len(self.best) >= KEPT:
                self.seconds = max(heapq.nsmallest(KEPT, self.best.values())[-1], here)


def kind(layout: Layout) -> tuple[object, ...]:
    """What makes two layouts worth showing beside each other."""
    return layout.engine, layout.precision, layout.tp, layout.pp, layout.cp, layout.ep


def _report(timed: list[tuple[float, Layout, StepTime, float]], lost: collections.Counter[str], seconds: float) -> Search:
    timed.sort(key=lambda t: t[0])
    first = timed[0]
    best: dict[tuple[object, ...], Candidate] = {}
    here: Candidate | None = None
    for total, layout, found, room in timed:
        because = _because(found, first[2]) if found is not first[2] else ""
        if len(best) < KEPT and kind(layout) not in best:
            best[kind(layout)] = _candidate(layout, found, room, total / first[0], because)
        elif because:
            lost[f"slower: {because}"] += 1
        if here is None and layout.engine is None:
            here = _candidate(layout, found, room, total / first[0], because)
    return Search(best=tuple(best.values()), here=here, lost=dict(lost.most_common()),
                  layouts=sum(lost.values()) + len(best), seconds=seconds)


def _because(found: StepTime, best: StepTime) -> str:
    return max(found.parts, key=lambda name: found.parts[name] - best.parts.get(name, 0.0))


def _candidate(layout: Layout, found: StepTime, room: float, slower: float, because: str) -> Candidate:
    return Candidate(layout=layout, engine=layout.engine, memory_gib=room / GIB, slower=slower, because=because,
                     tokens_per_s_per_gpu=found.speed)


def _powers(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length()) if 2**k <= most]


def _divisors(most: int, of: int) -> list[int]:
    return [d for d in range(1, most + 1) if of % d == 0]
