"""Choose how many of the available GPUs a plan should use: the count, at most all, that trains a
recipe soonest.

What is best of all counts up to a number cannot fall when the number grows, so tokens never do.
Knows no engine and no figure of a plan; `search.py` finds layouts on one count, and bounds what
other counts could reach.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from onnuri.planner.architecture import Architecture
from onnuri.planner.goodput import DAY, other_share
from onnuri.planner.hardware import Cluster
from onnuri.planner.parallel import Precision
from onnuri.planner.recipe import Recipe, TrainingStage
from onnuri.planner.search import Board, CellStream, Fit, Problem, fastest_on
from onnuri.planner.timing import Timer

Engines = Literal["here", "any"]
"""whose layouts a plan takes: those of Onnuri's own trainer where there is one ("here"), or any
engine's ("any")"""
EVERY, NODES = 4_096, 32_768
"""GPUs up to which every count is tried, and up to which whole nodes are; beyond, eight nodes at a
time. A count that is not tried is less than 0.2 % larger than one that is"""
OTHER_BATCH = 0.1
"""share of a recipe's batch by which another batch may be larger or smaller, where it is not the
nearest that divides"""
WINDOW = 64
"""number of counts that are bounded together"""
Report = Callable[[int, int], None]
"""a callback for progress: it gets the GPUs that are being tried, and the best count so far"""


def quiet(gpus: int, best: int) -> None:
    """Ignore a report of progress; the default where no one wants to see it."""


def admissible(most: int, node: int) -> list[int]:
    """Return the counts of GPUs that are tried, the largest first. Whether a count is tried does
    not depend on `most`."""
    return [
        n for n in range(most, 0, -1) if n <= EVERY or n % (node if n <= NODES else 8 * node) == 0
    ]


def sequences_on(stage: TrainingStage, gpus: int, here: bool) -> int:
    """Return the sequences per batch of a stage on so many GPUs: the nearest whole number per GPU.

    A batch with fewer sequences than there are GPUs gets one per GPU where all is to run `here`,
    else one per rank, of the most ranks that divide the GPUs.
    """
    return batches(stage, gpus, here)[0]


def batches(stage: TrainingStage, gpus: int, here: bool) -> list[int]:
    """Return the sequences per batch that a search may take: the nearest number that divides, and
    the next on the other side unless it is more than `OTHER_BATCH` from what the recipe says.

    Two are tried because nine sequences per GPU do not divide as eight do.
    """
    wanted = stage.batch_tokens / stage.tokens_per_sequence
    most = gpus if here else max(1, min(gpus, stage.batch_tokens // stage.tokens_per_sequence))
    unit = next(n for n in range(most, 0, -1) if gpus % n == 0)
    nearest = max(1, round(wanted / unit))
    other = nearest + (1 if nearest * unit < wanted else -1)
    near = other > 0 and nearest * unit != wanted and abs(other * unit / wanted - 1) <= OTHER_BATCH
    return [nearest * unit, other * unit] if near else [nearest * unit]


class Choice(NamedTuple):
    """A number of GPUs to use, and how good it is."""

    score: float
    """what they reach, by the aim; 0 where nothing is known"""
    gpus: int
    sequences: int
    """per batch of the largest stage"""


class StageFit(NamedTuple):
    """A stage's layout, and the sequences per batch that it was found for."""

    fit: Fit
    sequences: int


@dataclasses.dataclass(frozen=True)
class Aim:
    """What a plan is to reach, a date, dollars or both; a larger `score` is better."""

    days: float | None
    """until the date; None without one"""
    usd: float | None
    """dollars to spend; None without a limit"""
    usd_per_hour: float
    """dollars per GPU hour"""
    encoding_hours: float
    """GPU hours to encode the media of the whole recipe"""

    def score(self, gpus: int, days: float) -> float:
        """Return the share of the recipe that is trained in the time and for the dollars, where the
        whole recipe takes `days` on these GPUs; without a date, one over those days."""
        if self.days is None:
            return 1 / days
        return min(self.days / days, self._affordable(gpus, days)) * self._shorter(gpus)

    def layouts_depend_on(self) -> list[float] | None:
        """Return the fields of the aim that the best layouts depend on: None unless a date and
        dollars limit together."""
        if self.days is None or self.usd is None:
            return None
        return [self.days, self.usd, self.usd_per_hour, self.encoding_hours]

    def most_days(self, gpus: int, score: float) -> float:
        """Return the most days that the whole recipe may take on these GPUs to reach the score."""
        if score <= 0:
            return math.inf
        if self.days is None:
            return 1 / score
        if self.usd is None:
            return self.days / score
        score /= self._shorter(gpus)
        hours = self.usd / (score * self.usd_per_hour) - self.encoding_hours
        return min(self.days / score, hours / (24 * gpus))

    def _shorter(self, gpus: int) -> float:
        """Return the factor by which a project whose money ends before its time keeps more of its
        hours than one that takes all of the time, because it is shorter (`goodput.other_share`).

        It is 1 where only a date limits, for all counts have as long then.
        """
        if self.days is None or self.usd is None:
            return 1.0
        clock = min(self.days, self.usd / (self.usd_per_hour * 24 * gpus))
        return other_share(clock).mid / other_share(self.days).mid

    def _affordable(self, gpus: int, days: float) -> float:
        """Return the share of the recipe that the dollars pay for; infinite without a limit."""
        if self.usd is None:
            return math.inf
        return self.usd / (self.usd_per_hour * (24 * gpus * days + self.encoding_hours))


class Counts:
    """Tries counts of GPUs for a recipe on one kind of cluster and returns the best."""

    def __init__(
        self,
        recipe: Recipe,
        cluster: Cluster,
        precisions: tuple[Precision, ...],
        software_year: float | None,
        goodput: Callable[[int], float],
        frozen: float,
        report: Report = quiet,
    ) -> None:
        self.recipe, self.cluster, self.precisions, self.software_year = (
            recipe,
            cluster,
            precisions,
            software_year,
        )
        self.goodput, self.report = functools.cache(goodput), report
        self.weights = {
            s.name: s.tokens * (frozen if s.trains != "all" else 1.0) for s in recipe.stages
        }
        """tokens by stage, fewer for one that trains only embeddings, which takes less time"""
        self.main = max(recipe.stages, key=lambda s: s.tokens)
        self._timers: dict[tuple[Architecture, int], Timer] = {}
        self.days: dict[int, float] = {}
        """days of the whole recipe, by the counts of GPUs that were searched to the end"""
        self._floors: dict[bool, float] = {}
        self._stages: dict[tuple[str, int, bool, bool], StageFit | None] = {}

    def timer(self, a: Architecture, tokens: int) -> Timer:
        """Return the timer that all searches of a model and a sequence length share."""
        if (a, tokens) not in self._timers:
            self._timers[a, tokens] = Timer(a, self.cluster, tokens, self.software_year)
        return self._timers[a, tokens]

    def model(self, stage: TrainingStage) -> Architecture:
        """Return the model that a stage trains: text alone is trained before the vocabulary
        grows."""
        return self.recipe.omni if stage.media_share else self.recipe.architecture

    def with_batch(self, sequences: int) -> Recipe:
        """Return the recipe with so many sequences per batch in its largest stage, and in those
        that are trained in its layout."""
        return self.recipe.replace(
            stages=tuple(
                s.replace(batch_tokens=sequences * s.tokens_per_sequence)
                if self.like_main(s)
                else s
                for s in self.recipe.stages
            )
        )

    def problem(self, stage: TrainingStage, here: bool) -> Problem:
        """Return the search problem of a stage, its model, sequences and precisions on this kind of
        GPU; with `here`, only for Onnuri's trainer."""
        return Problem(
            self.timer(self.model(stage), stage.tokens_per_sequence),
            self.precisions,
            here,
            self.cluster.gpus,
        )

    def fastest(self, stage: TrainingStage, gpus: int, sequences: int, here: bool) -> Fit | None:
        """Return the fastest layout of a stage on so many GPUs; None where none fits."""
        problem, board = self.problem(stage, here), Board(1)
        fastest_on(problem, gpus, sequences, CellStream(problem, [(gpus, sequences)]), board)
        return board.best

    def choose(self, aim: Aim, engines: Engines, here: bool, exact: bool = False) -> Choice:
        """Return the count of GPUs that reaches most by the aim, and all GPUs where none holds the
        recipe (or `exact` asks for them).

        With `engines` "here", counts on which Onnuri's trainer holds the largest stage come first;
        any engine's are taken where none does, and where a cluster too small for Onnuri's trainer
        reaches more.
        """
        most = self.cluster.gpus
        counts = [most] if exact else admissible(most, self.cluster.node)
        own = here or engines == "here"
        best = self._best(
            counts, aim, own, here, Choice(0.0, most, sequences_on(self.main, most, here))
        )
        if own and not here:
            if best.score > 0:
                counts = [] if exact else self._below_own_trainer(counts, aim, best)
            best = self._best(counts, aim, False, False, best)
        return best

    def _best(self, counts: list[int], aim: Aim, own: bool, here: bool, best: Choice) -> Choice:
        """Return the best choice among `counts` and the one already known, `best`.

        A smaller count is searched only if its bound is better than the best so far, and only for
        what is better.
        """
        problem = self.problem(self.main, own)
        for first in range(0, len(counts), WINDOW):  # bounds are finer on counts that are alike
            window = [
                (n, sequences)
                for n in counts[first : first + WINDOW]
                for sequences in batches(self.main, n, here)
            ]
            if not self._could_improve(window, aim, problem, best):
                continue
            stream = CellStream(problem, window)
            for gpus, sequences in window:
                board = Board(1, self._pace_limit(gpus, aim, best.score, self._least_pace(stream)))
                fastest_on(problem, gpus, sequences, stream, board)
                if board.best:
                    days = self._days(gpus, board.best, sequences, own, here)
                    self.days[gpus] = min(self.days.get(gpus, math.inf), days or math.inf)
                    best = (
                        max(best, Choice(aim.score(gpus, days), gpus, sequences)) if days else best
                    )
                self.report(gpus, best.gpus)
        return best

    def _could_improve(
        self, window: list[tuple[int, int]], aim: Aim, problem: Problem, best: Choice
    ) -> bool:
        """Return whether a count of a window could be better than the best, even if it ran the
        fastest layers there are."""
        least = self._pace_floor(problem.here)
        return any(self._pace_limit(gpus, aim, best.score, least) >= least for gpus, _ in window)

    def _pace_floor(self, here: bool) -> float:
        """Return a lower bound of the pace of the largest stage on any number of GPUs, in GPU
        seconds per token."""
        if here not in self._floors:
            self._floors[here] = CellStream(self.problem(self.main, here), [(1, 1)]).floor
        return self._floors[here]

    def _below_own_trainer(self, counts: list[int], aim: Aim, best: Choice) -> list[int]:
        """Return the counts that are too small for Onnuri's trainer but on which another engine
        could be better than the best."""
        least = self._pace_floor(False)
        promising = [n for n in counts if self._pace_limit(n, aim, best.score, least) >= least]
        fits_own_trainer = functools.partial(self.fastest, self.main, here=True)
        if not promising:
            return []
        below = sorted(
            range(1, promising[-1]), key=lambda n: (n % 64 > 0, n % 8 > 0, -n)
        )  # the likeliest first
        if any(
            fits_own_trainer(n, sequences)
            for n in below
            for sequences in batches(self.main, n, False)
        ):
            return []
        smallest = next(
            (
                n
                for n in reversed(promising)
                for sequences in batches(self.main, n, False)
                if fits_own_trainer(n, sequences)
            ),
            promising[0] + 1,
        )
        return [n for n in promising if n < smallest]

    def _least_pace(self, stream: CellStream) -> float:
        """Return a lower bound of the pace of any layout on a stream's counts; infinite where the
        stream is empty."""
        first = next(iter(stream), None)
        return first.pace if first else math.inf

    def _pace_limit(self, gpus: int, aim: Aim, score: float, least: float) -> float:
        """Return the largest pace of the largest stage, in GPU seconds per token, with which a
        count would beat the score.

        Other stages of its sequence length are taken to need no less per token than `least`, the
        pace of its fastest layout.
        """
        alike = sum(
            w
            for s in self.recipe.stages
            if (w := self.weights[s.name])
            and s is not self.main
            and s.tokens_per_sequence == self.main.tokens_per_sequence
        )
        seconds = aim.most_days(gpus, score) * DAY * gpus * self.goodput(gpus)
        return (seconds - alike * (least if math.isfinite(least) else 0.0)) / self.weights[
            self.main.name
        ]

    def _days(self, gpus: int, main: Fit, sequences: int, own: bool, here: bool) -> float:
        """Return the days of the whole recipe with the largest stage in the layout `main`; 0 where
        a stage fits in no layout."""
        total = 0.0
        for s in self.recipe.stages:
            if self.like_main(s):
                pace = main.pace
            elif stage_fit := self.stage(s, gpus, own and main.layout.other_engine is None, here):
                pace = stage_fit.fit.pace
            else:
                return 0.0
            total += self.weights[s.name] * pace
        return total / (gpus * self.goodput(gpus) * DAY)

    def stage(self, s: TrainingStage, gpus: int, own: bool, here: bool) -> StageFit | None:
        """Return the fastest layout of a stage by itself; None where none fits.

        With `own` it is one that Onnuri's trainer runs, with a sequence per GPU if its batch has
        fewer; else, unless all must be `here`, any engine's.
        """
        key = (s.name, gpus, own, here)
        if key not in self._stages:
            tries = [True] * (own or here) + [False] * (not here)
            self._stages[key] = next(
                filter(None, (self._any_batch(s, gpus, only) for only in tries)), None
            )
        return self._stages[key]

    def _any_batch(self, s: TrainingStage, gpus: int, here: bool) -> StageFit | None:
        """Return the fastest layout of a stage over all batches that divide; None where none
        fits."""
        fits = [
            StageFit(fit, sequences)
            for sequences in batches(s, gpus, here)
            if (fit := self.fastest(s, gpus, sequences, here))
        ]
        return min(fits, key=lambda stage_fit: stage_fit.fit.pace, default=None)

    def like_main(self, s: TrainingStage) -> bool:
        """Return whether a stage trains the same model in the same batches as the largest, and so
        in its layout."""
        return (s.tokens_per_sequence, s.batch_tokens) == (
            self.main.tokens_per_sequence,
            self.main.batch_tokens,
        ) and (self.model(s) == self.model(self.main))
