"""Every layout of a model on a cluster: the fastest, the fastest that runs here, and why the rest
lost.

Exact, not greedy: branch and bound. What is left out without being timed is slower than the best
before its data ranks talk, needs more memory than a layout that does not fit, or recomputes more
than it must; tests hold the answer against asking every layout of `grid.py` one by one. Knows how
to bound; `timing.py` counts seconds and bytes.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner.architecture import Architecture
from onnuri.planner.grid import MICRO_BATCHES, RECOMPUTE, Cell, Degrees, degrees, grid, pipelines
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval
from onnuri.planner.memory import GIB
from onnuri.planner.moe_imbalance import real_step
from onnuri.planner.parallel import ParallelConfig, Precision, Sharding
from onnuri.planner.step_time import StepTime
from onnuri.planner.timing import Timer

SHOWN_LAYOUTS = 5
"""best layouts that are shown"""
ROUNDING = 1 + 1e-9
"""of sums that are taken in another order"""
PADDING = 1.25
"""of memory that is bounded over several counts of GPUs, because a shard is a whole number of
rows"""


class Candidate(Config):
    """One layout that fits."""

    layout: ParallelConfig
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
    """The result of one search."""

    best: tuple[Candidate, ...]
    """the fastest of each engine and degrees, the fastest first"""
    here: Candidate | None
    """the fastest that is runnable here"""
    lost: dict[str, int]
    """why the others lost, and how many; what was not judged one by one is slower before its data
    ranks talk, or needs more memory than a layout of the same degrees that does not fit"""
    layouts: int
    seconds: float


class Problem(NamedTuple):
    """What is searched for, on any number of GPUs."""

    timer: Timer
    precisions: tuple[Precision, ...]
    here: bool
    """only layouts that Onnuri's trainer runs"""
    most_gpus: int = 0
    """of all counts that are tried: what could fit is bounded on them once for all; 0 for one count
    alone"""

    @property
    def capacity(self) -> float:
        """Bytes of a GPU."""
        return self.timer.one.kind.memory_bytes


def search(
    a: Architecture,
    cluster: Cluster,
    tokens: int,
    batch_tokens: int,
    precisions: tuple[Precision, ...] = ("bf16",),
    here: bool = False,
    software_year: float | None = None,
    timer: Timer | None = None,
    most_gpus: int = 0,
) -> Search:
    """Every layout; with `here`, those alone that Onnuri's trainer runs. Raises ConfigError where
    none fits. A timer that is given has counted for the same model, GPU, sequences and release, on
    counts up to `most_gpus`."""
    began = time.perf_counter()
    timer = timer or Timer(a, cluster, tokens, software_year)
    sequences = batch_tokens // tokens if batch_tokens % tokens == 0 else 0
    all_, own = (Board(SHOWN_LAYOUTS if not only else 1) for only in (False, True))
    for only, board in ((False, all_), (True, own)) if not here else ((True, all_),):
        problem = Problem(timer, precisions, only, most_gpus)
        fastest_on(
            problem,
            cluster.gpus,
            sequences,
            CellStream(problem, [(cluster.gpus, sequences)]),
            board,
        )
        if only and here:
            own = board
    if not all_.fits:
        raise ConfigError(
            Phrase("{} on {:,} {}", a.name, cluster.gpus, cluster.gpu),
            _why_none(a, cluster, tokens, batch_tokens, precisions, here),
            "use more GPUs, or a power of two",
        )
    layouts = sum(
        len(cell.shardings(dp)) * len(RECOMPUTE)
        for cell, dp in grid(a, cluster, tokens, batch_tokens, precisions, here)
    )
    return _report(timer, batch_tokens, all_, own, layouts, began)


class Fit(NamedTuple):
    """A layout that fits."""

    pace: float
    """GPU seconds per token"""
    layout: ParallelConfig


class Board:
    """The best so far of each kind, and the pace that a layout must beat to be among the best
    `kept`."""

    def __init__(self, kept: int, limit: float = math.inf) -> None:
        self.kept, self.limit = kept, limit
        self.fits: dict[tuple[object, ...], Fit] = {}
        self.timed: list[tuple[float, ParallelConfig]] = []
        """paces of layouts that were timed, whether they fit or not"""
        self.large: set[ParallelConfig] = set()
        """layouts that need too much memory"""

    def see(self, fit: Fit) -> None:
        """Keep a layout that fits if it is the best of its kind."""
        key = kind(fit.layout)
        if key not in self.fits or fit.pace < self.fits[key].pace:
            self.fits[key] = fit
            if len(self.fits) >= self.kept:
                worst = heapq.nsmallest(self.kept, (f.pace for f in self.fits.values()))[-1]
                self.limit = min(self.limit, worst)

    @property
    def best(self) -> Fit | None:
        return min(self.fits.values(), key=lambda f: f.pace, default=None)


def kind(layout: ParallelConfig) -> tuple[object, ...]:
    """What makes two layouts worth showing beside each other."""
    return layout.engine.name, layout.precision, layout.tp, layout.pp, layout.cp, layout.ep


class Bounded(NamedTuple):
    """A cell, and less than the pace of any of its layouts that could fit."""

    pace: float
    """GPU seconds per token; what a large cluster costs is not in it"""
    cell: Cell
    recompute: int
    """place in `RECOMPUTE` of the least that could fit"""


Count = tuple[int, int]
"""GPUs, and sequences a batch on them"""


class CellStream:
    """Cells in the order of their bounds on any of some counts of GPUs, each bounded no more finely
    than its place in the order asks for. May be gone through many times: what was counted stays."""

    def __init__(self, problem: Problem, counts: Sequence[Count]) -> None:
        self.problem, self.timer = problem, problem.timer
        self.counts = counts
        self.most_gpus = max(problem.most_gpus, max(gpus for gpus, _ in counts))
        self.share = max(sequences / gpus for gpus, sequences in counts)
        """most sequences a GPU"""
        self.done: list[Bounded] = []
        self._most: dict[tuple[object, ...], int] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        a = self.timer.a
        for d in degrees(a, self.timer.one, self.timer.tokens, problem.precisions, problem.here):
            self._push(self._of_layers(d), lambda d=d: self._split(d))  # type: ignore[misc]
        self.floor = min((pace for pace, _, _ in self._heap), default=math.inf)
        """less than the pace of any layout on any number of GPUs"""

    def __iter__(self) -> Iterator[Bounded]:
        for n in itertools.count():
            while n >= len(self.done) and self._heap:
                heapq.heappop(self._heap)[2]()
            if n >= len(self.done):
                return
            yield self.done[n]

    def _push(self, pace: float, refine: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (pace, next(self._order), refine))

    def _of_layers(self, d: Degrees) -> float:
        """Of any pipeline and micro-batch: the layers alone, in the largest micro-batch. A
        pipeline's first and last stage take at most one layer's share of tensor-parallel messages
        less than one stage of all layers."""
        cell = Cell(d, 1, 1, MICRO_BATCHES[-1])
        pace = (
            self.timer.bare.pace(cell.layout(1)).seconds
            / (cell.micro_batch * self.timer.tokens)
            * cell.copy
        )
        return pace * (1 - 1 / self.timer.a.layers)

    def _split(self, d: Degrees) -> None:
        """Pipelines and micro-batches of some degrees, with the bubble that they have at least."""
        pace = self._of_layers(d)
        for (pp, virtual), micro in itertools.product(
            pipelines(self.timer.a, d.own), MICRO_BATCHES
        ):
            cell = Cell(d, pp, virtual, micro)
            passes = self._passes(cell)
            if passes < 1 or cell.copy > self.most_gpus or not self._divides(cell):
                continue
            self._push(
                pace * (1 + (pp - 1) / virtual / passes),
                lambda cell=cell: self._time(cell, 0),  # type: ignore[misc]
            )

    def _passes(self, cell: Cell) -> float:
        """Most micro-batches of a data rank."""
        return self.share * cell.copy / cell.micro_batch

    def _divides(self, cell: Cell) -> bool:
        return len(self.counts) > 8 or any(cell.data_ranks(*count) for count in self.counts)

    def _time(self, cell: Cell, recompute: int) -> None:
        """The pace of one copy of the model."""
        bound = self._bound(cell, recompute)
        self._push(bound, lambda: self._fit(cell, recompute))

    def _bound(self, cell: Cell, recompute: int) -> float:
        pace = self.timer.pace(cell.layout(1, recompute=RECOMPUTE[recompute]))
        return (
            pace.seconds
            * (1 + pace.bubble / self._passes(cell))
            * cell.copy
            / (cell.micro_batch * self.timer.tokens)
        )

    def _fit(self, cell: Cell, recompute: int) -> None:
        """The least recomputation with which the cell could fit; a cell that could fit with none is
        dropped."""
        bound, full = self._bound(cell, recompute), len(RECOMPUTE) - 1
        if recompute == 0 and cell.micro_batch > self._most_sequences(cell, full):
            return
        if cell.micro_batch <= self._most_sequences(cell, recompute):
            self._push(bound, lambda: self.done.append(Bounded(bound, cell, recompute)))
        elif recompute < full:
            self._time(cell, recompute + 1)

    def _most_sequences(self, cell: Cell, recompute: int) -> int:
        """The largest micro-batch with which a cell's degrees could fit, 0 for none: larger ones
        need more memory."""
        key = (cell.degrees, cell.pp, cell.virtual_stages, recompute)
        if key not in self._most:
            few, many = 0, MICRO_BATCHES[-1] + 1  # fits; does not
            while many - few > 1:
                middle = (few + many) // 2
                few, many = (
                    (middle, many)
                    if self._could_fit(cell._replace(micro_batch=middle), recompute)
                    else (few, middle)
                )
            self._most[key] = few
        return self._most[key]

    def _could_fit(self, cell: Cell, recompute: int) -> bool:
        """Whether a sharding fits: of one count of GPUs any, of several the one that needs least
        over the most ranks."""
        dp = self.most_gpus // cell.copy
        while dp and dp * cell.degrees.cp % cell.degrees.ep:
            dp -= 1
        if not dp:
            return False
        many, slack, shared = (
            self.problem.most_gpus > 0 or len(self.counts) > 1,
            1.0,
            cell.shardings(dp),
        )
        if cell.degrees.own and many:
            # fully sharded parameters are padded to whole rows: over a power of two of ranks hardly
            # ever, so that such a number, not below the most ranks, bounds all the others
            dp, slack = (
                cell.degrees.ep * 2 ** math.ceil(math.log2(max(1, dp / cell.degrees.ep))),
                PADDING,
            )
            shared = cell.shardings(dp)[:1]
        elif not cell.degrees.own:
            shared = [*shared[:1], *shared[-1:]]
        passes = max(1, int(self._passes(cell) / (2.0 if many else 1.0)))
        batch = self.timer.tokens * dp * cell.micro_batch * passes
        layouts = (cell.layout(dp, *sharing, RECOMPUTE[recompute]) for sharing in shared)
        return any(
            self.timer.room(layout, batch) <= self.problem.capacity * slack for layout in layouts
        )


def fastest_on(
    problem: Problem, gpus: int, sequences: int, stream: CellStream, board: Board
) -> None:
    """Put on the board what is fastest on so many GPUs, of what beats the board's limit."""
    timer, crowd = problem.timer, problem.timer.crowd(gpus)
    for bounded in stream:
        if bounded.pace * crowd > board.limit * ROUNDING:
            break
        cell = bounded.cell
        if dp := cell.data_ranks(gpus, sequences):
            pace = timer.pace(cell.layout(1, recompute=RECOMPUTE[bounded.recompute]))
            passes = sequences // (dp * cell.micro_batch)
            least = (
                pace.seconds * (passes + pace.bubble) * crowd * gpus / (sequences * timer.tokens)
            )
            if least <= board.limit * ROUNDING:
                _judge(problem, cell, dp, sequences, bounded.recompute, board)


def _judge(
    problem: Problem, cell: Cell, dp: int, sequences: int, recompute: int, board: Board
) -> None:
    """A cell's layouts on so many data ranks, those of one engine after the other."""
    shardings = cell.shardings(dp)
    shared = [s for s in shardings if s[0] != "zero1"]
    for each in (shared, [s for s in shardings if s[0] == "zero1"]):
        left = each
        for again in range(recompute, len(RECOMPUTE)):
            if left:
                left = _fit_fastest(problem, cell, dp, sequences, again, left, board)


def _fit_fastest(
    problem: Problem,
    cell: Cell,
    dp: int,
    sequences: int,
    recompute: int,
    shardings: list[tuple[Sharding, int | None]],
    board: Board,
) -> list[tuple[Sharding, int | None]]:
    """Put the fastest of some shardings that fits on the board; return those that would need more
    recomputation."""
    timer, batch = problem.timer, sequences * problem.timer.tokens
    gpus = dp * cell.copy
    timed: list[tuple[float, ParallelConfig]] = []
    for sharding, shard in shardings:
        layout = cell.layout(dp, sharding, shard, RECOMPUTE[recompute])
        if (
            board.kept == 1
            and shard
            and timer.copy_seconds(layout, batch) * gpus / batch > board.limit * ROUNDING
        ):
            continue
        timed.append((timer.seconds(layout, batch) * gpus / batch, layout))
    board.timed += timed
    left: list[tuple[Sharding, int | None]] = []
    for pace, layout in sorted(timed, key=lambda t: t[0]):
        if pace > board.limit * ROUNDING:
            break
        if timer.room(layout, batch) > problem.capacity:
            board.large.add(layout)
            left.append((layout.sharding, layout.shard))
        else:
            board.see(Fit(pace, layout))
            if board.kept == 1:
                break
    return left


def least_bytes(
    a: Architecture,
    cluster: Cluster,
    tokens: int,
    batch_tokens: int,
    precisions: tuple[Precision, ...] = ("bf16",),
    here: bool = False,
) -> float:
    """Of a GPU, of the layout that needs the least; infinite where none divides."""
    timer, least = Timer(a, cluster, tokens), math.inf
    for cell, dp in grid(a, cluster, tokens, batch_tokens, precisions, here):
        if cell.micro_batch == 1 and cell.virtual_stages == 1:
            shardings = cell.shardings(dp)
            for sharding, shard in shardings[:2] + shardings[-1:]:
                least = min(
                    least, timer.room(cell.layout(dp, sharding, shard, "full"), batch_tokens)
                )
    return least


def _why_none(
    a: Architecture,
    cluster: Cluster,
    tokens: int,
    batch_tokens: int,
    precisions: tuple[Precision, ...],
    here: bool,
) -> str:
    layouts = sum(
        len(cell.shardings(dp)) * len(RECOMPUTE)
        for cell, dp in grid(a, cluster, tokens, batch_tokens, precisions, here)
    )
    if not layouts:
        return Phrase("no layout divides {:,} sequences a batch", batch_tokens // tokens)
    room = least_bytes(a, cluster, tokens, batch_tokens, precisions, here) / GIB
    return Phrase(
        "none of {:,} layouts fits, the smallest takes {:,.0f} GiB of {:.0f}",
        layouts,
        room,
        cluster.kind.memory_bytes / GIB,
    )


def _report(
    timer: Timer, batch_tokens: int, all_: Board, own: Board, layouts: int, began: float
) -> Search:
    fits = sorted(all_.fits.values(), key=lambda f: f.pace)[:SHOWN_LAYOUTS]
    first = real_step(timer.job(fits[0].layout, batch_tokens))
    best = tuple(_candidate(timer, fit.layout, batch_tokens, first) for fit in fits)
    here = own.best
    lost = collections.Counter({"too much memory": len(all_.large)})
    shown = {fit.layout for fit in fits}
    for _, layout in all_.timed:
        if layout not in shown and layout not in all_.large:
            parts = timer.parts(layout, batch_tokens)
            lost[
                f"slower: {max(parts, key=lambda name: parts[name] - first.parts.get(name, 0.0))}"
            ] += 1
    rest = layouts - sum(lost.values()) - len(best)
    if rest > 0:
        lost["slower before data ranks talk"] = rest
    return Search(
        best=best,
        here=_candidate(timer, here.layout, batch_tokens, first) if here else None,
        lost=dict(lost.most_common()),
        layouts=layouts,
        seconds=time.perf_counter() - began,
    )


def _because(found: StepTime, best: StepTime) -> str:
    return max(found.parts, key=lambda name: found.parts[name] - best.parts.get(name, 0.0))


def _candidate(
    timer: Timer, layout: ParallelConfig, batch_tokens: int, first: StepTime
) -> Candidate:
    step = real_step(timer.job(layout, batch_tokens))
    because = _because(step, first) if step != first else ""
    return Candidate(
        layout=layout,
        engine=layout.other_engine,
        memory_gib=timer.room(layout, batch_tokens) / GIB,
        slower=step.total / first.total,
        because=because,
        tokens_per_s_per_gpu=step.speed,
    )
