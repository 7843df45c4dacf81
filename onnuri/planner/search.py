"""Search every layout of a model on a cluster for the fastest, for the fastest that Onnuri's
trainer runs, and for why the rest lost.

Exact, not greedy: branch and bound. What is left out without being timed is slower than the best
before its data ranks talk, needs more memory than a layout that does not fit, or recomputes more
than it must; tests hold the answer against asking every layout of `grid.py` one by one. Knows how
to bound; `timing.py` counts seconds and bytes.
"""

from __future__ import annotations

import collections
import functools
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
"""factor that allows for the rounding of sums taken in another order"""
PADDING = 1.25
"""factor on memory that is bounded over several counts of GPUs, because a shard is a whole number
of rows"""


class Candidate(Config):
    """One layout that fits, with its predicted speed and memory."""

    layout: ParallelConfig
    engine: str | None
    """name of the other group's engine that it needs; None where Onnuri's trainer runs it"""
    tokens_per_s_per_gpu: Interval
    memory_gib: float
    """GiB that it needs at most, with a probability of 90 %"""
    slower: float = 1.0
    """its step time over the best's"""
    because: str = ""
    """the part of a step that takes longer than the best's by most"""


class Search(Config):
    """The result of one search."""

    best: tuple[Candidate, ...]
    """the fastest of each engine and set of degrees, the fastest first"""
    here: Candidate | None
    """the fastest that Onnuri's trainer runs"""
    lost: dict[str, int]
    """reasons for which the others lost, and how many; what was not judged one by one is slower
    before its data ranks talk, or needs more memory than a layout of the same degrees that does not
    fit"""
    layouts: int
    """number of layouts that divide"""
    seconds: float


class Problem(NamedTuple):
    """What is searched for, on any number of GPUs."""

    timer: Timer
    precisions: tuple[Precision, ...]
    here: bool
    """whether only layouts that Onnuri's trainer runs are searched"""
    most_gpus: int = 0
    """the largest of all counts that are tried: what could fit is bounded on them once for all; 0
    for one count alone"""

    @property
    def capacity(self) -> float:
        """Return the bytes of memory of a GPU."""
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
    """Return the best layouts of a model on a cluster; with `here`, only among those that Onnuri's
    trainer runs.

    `tokens` is the sequence length. A `timer` that is passed has counted for the same model, GPU,
    sequences and release, on counts of GPUs up to `most_gpus`. Raises ConfigError where no layout
    fits.
    """
    began = time.perf_counter()
    timer = timer or Timer(a, cluster, tokens, software_year)
    sequences = batch_tokens // tokens if batch_tokens % tokens == 0 else 0
    all_board, own_board = (
        Board(SHOWN_LAYOUTS if not own_only else 1) for own_only in (False, True)
    )
    for own_only, board in (
        ((False, all_board), (True, own_board)) if not here else ((True, all_board),)
    ):
        problem = Problem(timer, precisions, own_only, most_gpus)
        fastest_on(
            problem,
            cluster.gpus,
            sequences,
            CellStream(problem, [(cluster.gpus, sequences)]),
            board,
        )
        if own_only and here:
            own_board = board
    if not all_board.fits:
        raise ConfigError(
            Phrase("{} on {:,} {}", a.name, cluster.gpus, cluster.gpu),
            _why_none(a, cluster, tokens, batch_tokens, precisions, here),
            "use more GPUs, or a power of two",
        )
    layouts = _count_layouts(grid(a, cluster, tokens, batch_tokens, precisions, here))
    return _report(timer, batch_tokens, all_board, own_board, layouts, began)


class Fit(NamedTuple):
    """A layout that fits in memory, and its pace."""

    pace: float
    """GPU seconds per token"""
    layout: ParallelConfig


class Board:
    """The best layouts so far, one of each kind, and the pace that a layout must beat to be among
    the best `size`."""

    def __init__(self, size: int, limit: float = math.inf) -> None:
        self.size, self.limit = size, limit
        self.fits: dict[tuple[object, ...], Fit] = {}
        self.timed: list[tuple[float, ParallelConfig]] = []
        """paces of layouts that were timed, whether they fit or not"""
        self.large: set[ParallelConfig] = set()
        """layouts that need too much memory"""

    def see(self, fit: Fit) -> None:
        """Keep a layout that fits if it is the best of its kind, and lower the limit where that is
        known now."""
        key = kind(fit.layout)
        if key not in self.fits or fit.pace < self.fits[key].pace:
            self.fits[key] = fit
            if len(self.fits) >= self.size:
                worst = heapq.nsmallest(self.size, (f.pace for f in self.fits.values()))[-1]
                self.limit = min(self.limit, worst)

    @property
    def best(self) -> Fit | None:
        """Return the fastest layout on the board; None where the board is empty."""
        return min(self.fits.values(), key=lambda f: f.pace, default=None)


def kind(layout: ParallelConfig) -> tuple[object, ...]:
    """Return what makes two layouts worth showing beside each other: engine, precision and
    degrees."""
    return layout.engine.name, layout.precision, layout.tp, layout.pp, layout.cp, layout.ep


class Bounded(NamedTuple):
    """A cell of layouts, and a lower bound of the pace of any of its layouts that could fit."""

    pace: float
    """GPU seconds per token; what a large cluster costs is not in it"""
    cell: Cell
    recompute: int
    """index in `RECOMPUTE` of the least recomputation that could fit"""


Count = tuple[int, int]
"""GPUs, and sequences per batch on them"""


class CellStream:
    """Yields cells in the order of their bounds on any of some counts of GPUs, each bounded no more
    finely than its place in the order requires.

    It may be iterated many times: what was counted stays.
    """

    def __init__(self, problem: Problem, counts: Sequence[Count]) -> None:
        self.problem, self.timer = problem, problem.timer
        self.counts = counts
        self.most_gpus = max(problem.most_gpus, max(gpus for gpus, _ in counts))
        self.share = max(sequences / gpus for gpus, sequences in counts)
        """most sequences per GPU"""
        self.done: list[Bounded] = []
        self._most: dict[tuple[object, ...], int] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        a = self.timer.a
        for d in degrees(a, self.timer.one, self.timer.tokens, problem.precisions, problem.here):
            self._push(self._layers_pace(d), functools.partial(self._add_pipelines, d))
        self.floor = min((pace for pace, _, _ in self._heap), default=math.inf)
        """a lower bound of the pace of any layout on any number of GPUs"""

    def __iter__(self) -> Iterator[Bounded]:
        """Yield the cells with their bounds, the lowest bound first, refining them as far as
        needed."""
        for n in itertools.count():
            while n >= len(self.done) and self._heap:
                heapq.heappop(self._heap)[2]()
            if n >= len(self.done):
                return
            yield self.done[n]

    def _push(self, pace: float, refine: Callable[[], None]) -> None:
        """Add a cell, or a group of cells, with its lower bound; `refine` is called when it becomes
        the lowest."""
        heapq.heappush(self._heap, (pace, next(self._order), refine))

    def _layers_pace(self, d: Degrees) -> float:
        """Return a lower bound of the pace with these degrees in any pipeline and micro-batch, in
        GPU seconds per token: the layers alone, in the largest micro-batch.

        A pipeline's first and last stage take at most one layer's share of tensor-parallel messages
        less than one stage of all layers.
        """
        cell = Cell(d, 1, 1, MICRO_BATCHES[-1])
        pace = (
            self.timer.bare.pace(cell.layout(1)).seconds
            / (cell.micro_batch * self.timer.tokens)
            * cell.copy
        )
        return pace * (1 - 1 / self.timer.a.layers)

    def _add_pipelines(self, d: Degrees) -> None:
        """Add the cells of these degrees, one for each pipeline and micro-batch, each bounded with
        the bubble that it has at least."""
        pace = self._layers_pace(d)
        for (pp, virtual), micro in itertools.product(
            pipelines(self.timer.a, d.own), MICRO_BATCHES
        ):
            cell = Cell(d, pp, virtual, micro)
            passes = self._most_micro_batches(cell)
            if passes < 1 or cell.copy > self.most_gpus or not self._divides(cell):
                continue
            self._push(
                pace * (1 + (pp - 1) / virtual / passes),
                functools.partial(self._add_timed, cell, 0),
            )

    def _most_micro_batches(self, cell: Cell) -> float:
        """Return the most micro-batches per step that a data rank of the cell can have."""
        return self.share * cell.copy / cell.micro_batch

    def _divides(self, cell: Cell) -> bool:
        """Return whether the cell divides one of the counts of GPUs and its batch; with many counts
        it is taken for granted."""
        return len(self.counts) > 8 or any(cell.data_ranks(*count) for count in self.counts)

    def _add_timed(self, cell: Cell, recompute: int) -> None:
        """Add a cell again with a finer bound: the pace of one copy of the model with this
        recomputation."""
        bound = self._bound(cell, recompute)
        self._push(bound, lambda: self._refine_by_memory(cell, recompute))

    def _bound(self, cell: Cell, recompute: int) -> float:
        """Return a lower bound of the cell's pace, in GPU seconds per token, from one copy of the
        model and the fewest bubbles."""
        pace = self.timer.pace(cell.layout(1, recompute=RECOMPUTE[recompute]))
        return (
            pace.seconds
            * (1 + pace.bubble / self._most_micro_batches(cell))
            * cell.copy
            / (cell.micro_batch * self.timer.tokens)
        )

    def _refine_by_memory(self, cell: Cell, recompute: int) -> None:
        """Add a cell that could fit with this recomputation to the stream's results, else try the
        next stronger recomputation; a cell that could fit with none is dropped."""
        bound, full = self._bound(cell, recompute), len(RECOMPUTE) - 1
        if recompute == 0 and cell.micro_batch > self._most_sequences(cell, full):
            return
        if cell.micro_batch <= self._most_sequences(cell, recompute):
            self._push(bound, lambda: self.done.append(Bounded(bound, cell, recompute)))
        elif recompute < full:
            self._add_timed(cell, recompute + 1)

    def _most_sequences(self, cell: Cell, recompute: int) -> int:
        """Return the largest micro-batch with which a cell's degrees could fit, found by bisection
        because larger ones need more memory; 0 for none."""
        key = (cell.degrees, cell.pp, cell.virtual_stages, recompute)
        if key not in self._most:
            fits, too_large = 0, MICRO_BATCHES[-1] + 1  # fits; does not
            while too_large - fits > 1:
                middle = (fits + too_large) // 2
                fits, too_large = (
                    (middle, too_large)
                    if self._could_fit(cell._replace(micro_batch=middle), recompute)
                    else (fits, middle)
                )
            self._most[key] = fits
        return self._most[key]

    def _could_fit(self, cell: Cell, recompute: int) -> bool:
        """Return whether a sharding of the cell could fit in memory: on one count of GPUs any
        sharding, on several the one that needs least over the most ranks."""
        dp = self.most_gpus // cell.copy
        while dp and dp * cell.degrees.cp % cell.degrees.ep:
            dp -= 1
        if not dp:
            return False
        several, slack, shared = (
            self.problem.most_gpus > 0 or len(self.counts) > 1,
            1.0,
            cell.shardings(dp),
        )
        if cell.degrees.own and several:
            # fully sharded parameters are padded to whole rows: over a power of two of ranks hardly
            # ever, so that such a number, not below the most ranks, bounds all the others
            dp, slack = (
                cell.degrees.ep * 2 ** math.ceil(math.log2(max(1, dp / cell.degrees.ep))),
                PADDING,
            )
            shared = cell.shardings(dp)[:1]
        elif not cell.degrees.own:
            shared = [*shared[:1], *shared[-1:]]
        passes = max(1, int(self._most_micro_batches(cell) / (2.0 if several else 1.0)))
        batch = self.timer.tokens * dp * cell.micro_batch * passes
        layouts = (cell.layout(dp, *sharing, RECOMPUTE[recompute]) for sharing in shared)
        return any(
            self.timer.room(layout, batch) <= self.problem.capacity * slack for layout in layouts
        )


def fastest_on(
    problem: Problem, gpus: int, sequences: int, stream: CellStream, board: Board
) -> None:
    """Put the fastest layouts on so many GPUs on the board, of those that beat the board's
    limit."""
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
    """Time a cell's layouts on `dp` data ranks, first the shardings of one engine and then of the
    other, with as little recomputation as fits."""
    shardings = cell.shardings(dp)
    fully_sharded = [s for s in shardings if s[0] != "zero1"]
    for shardings_of_engine in (fully_sharded, [s for s in shardings if s[0] == "zero1"]):
        remaining = shardings_of_engine
        for level in range(recompute, len(RECOMPUTE)):
            if remaining:
                remaining = _fit_fastest(problem, cell, dp, sequences, level, remaining, board)


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
            board.size == 1
            and shard
            and timer.copy_seconds(layout, batch) * gpus / batch > board.limit * ROUNDING
        ):
            continue
        timed.append((timer.seconds(layout, batch) * gpus / batch, layout))
    board.timed += timed
    too_large: list[tuple[Sharding, int | None]] = []
    for pace, layout in sorted(timed, key=lambda t: t[0]):
        if pace > board.limit * ROUNDING:
            break
        if timer.room(layout, batch) > problem.capacity:
            board.large.add(layout)
            too_large.append((layout.sharding, layout.shard))
        else:
            board.see(Fit(pace, layout))
            if board.size == 1:
                break
    return too_large


def least_bytes(
    a: Architecture,
    cluster: Cluster,
    tokens: int,
    batch_tokens: int,
    precisions: tuple[Precision, ...] = ("bf16",),
    here: bool = False,
) -> float:
    """Return the bytes per GPU of the layout that needs the least; infinite where no layout
    divides."""
    timer, least = Timer(a, cluster, tokens), math.inf
    for cell, dp in grid(a, cluster, tokens, batch_tokens, precisions, here):
        if cell.micro_batch == 1 and cell.virtual_stages == 1:
            shardings = cell.shardings(dp)
            for sharding, shard in shardings[:2] + shardings[-1:]:
                least = min(
                    least, timer.room(cell.layout(dp, sharding, shard, "full"), batch_tokens)
                )
    return least


def _count_layouts(cells: Iterable[tuple[Cell, int]]) -> int:
    """Return how many layouts cells have on their data ranks, each with every recomputation."""
    return sum(len(cell.shardings(dp)) * len(RECOMPUTE) for cell, dp in cells)


def _why_none(
    a: Architecture,
    cluster: Cluster,
    tokens: int,
    batch_tokens: int,
    precisions: tuple[Precision, ...],
    here: bool,
) -> str:
    """Return the sentence that says why no layout fits: none divides the batch, or the smallest
    needs too much memory."""
    layouts = _count_layouts(grid(a, cluster, tokens, batch_tokens, precisions, here))
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
    timer: Timer, batch_tokens: int, all_board: Board, own_board: Board, layouts: int, began: float
) -> Search:
    """Return the result of a search from the boards of all engines and of Onnuri's trainer; `began`
    is when it started (`time.perf_counter`)."""
    fits = sorted(all_board.fits.values(), key=lambda f: f.pace)[:SHOWN_LAYOUTS]
    first = real_step(timer.job(fits[0].layout, batch_tokens))
    best = tuple(_candidate(timer, fit.layout, batch_tokens, first) for fit in fits)
    here = own_board.best
    reasons = collections.Counter({"too much memory": len(all_board.large)})
    shown_layouts = {fit.layout for fit in fits}
    for _, layout in all_board.timed:
        if layout not in shown_layouts and layout not in all_board.large:
            part = _slower_part(timer.parts(layout, batch_tokens), first)
            reasons[f"slower: {part}"] += 1
    rest = layouts - sum(reasons.values()) - len(best)
    if rest > 0:
        reasons["slower before data ranks talk"] = rest
    return Search(
        best=best,
        here=_candidate(timer, here.layout, batch_tokens, first) if here else None,
        lost=dict(reasons.most_common()),
        layouts=layouts,
        seconds=time.perf_counter() - began,
    )


def _slower_part(parts: Mapping[str, float], best: StepTime) -> str:
    """Return the name of the part of a step that takes longer than the best's by most; `parts` are
    seconds."""
    return max(parts, key=lambda name: parts[name] - best.parts.get(name, 0.0))


def _candidate(
    timer: Timer, layout: ParallelConfig, batch_tokens: int, first: StepTime
) -> Candidate:
    """Return a layout with its speed and memory, compared with the step of the best layout,
    `first`."""
    step = real_step(timer.job(layout, batch_tokens))
    because = _slower_part(step.parts, first) if step != first else ""
    return Candidate(
        layout=layout,
        engine=layout.other_engine,
        memory_gib=timer.room(layout, batch_tokens) / GIB,
        slower=step.total / first.total,
        because=because,
        tokens_per_s_per_gpu=step.speed,
    )
