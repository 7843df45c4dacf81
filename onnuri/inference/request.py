"""What is asked of the engine, what may be drawn for it, and the answer as it grows. Knows no
tensors and no media."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Literal, Protocol

from onnuri import config
from onnuri.errors import ConfigError, OnnuriError

Finish = Literal["stop", "length", "cancelled"]
"""why an answer ended: by itself, for want of room, or since nobody waits for it"""


class SamplingConfig(config.Config):
    """How ids are drawn."""

    temperature: float = 0.7
    """0 always takes the likeliest"""
    top_p: float = 0.95
    guidance: float = 1.0
    """classifier-free guidance (Ho & Salimans 2022): 1 is none"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What may be generated: a range of ids for every position, or one range until `end`."""

    ranges: tuple[tuple[int, int], ...] | None = None
    """for every position the ids [lo, hi)"""
    leads: tuple[int | None, ...] = ()
    """for every position the one that it agrees with: both take the last id of their range, or
    neither. One that leads itself is decided in two steps, whether it is the last, then which of
    the others"""
    first: tuple[int, int] | None = None
    """ids [lo, hi) of the first of a row of free length, if it has others than the rest"""
    free: tuple[int, int] = (0, 0)
    """ids [lo, hi) of any position where the length is free"""
    end: int = -1
    """id that ends a row of free length"""
    longest: int = 0
    """most ids of a row of free length"""
    stretch: int = 0
    """most ids in a row of a script before it goes on; 0: any number"""

    def at(self, step: int) -> tuple[int, int, bool]:
        """Ids [lo, hi) that may stand at a step, and whether the row may end instead."""
        if self.ranges:
            return *self.ranges[step], False
        return (*self.first, False) if self.first and step == 0 else (*self.free, True)


class Constraint(Protocol):
    """What may stand in one answer of free length beyond its plan, a grammar for instance.

    Ids are counted from the first of the plan's range; the end comes after the last. Called on the
    engine's thread.
    """

    def allowed(self) -> bytes:
        """A byte for every id of the range and one for the end, 0 where it may not stand now; never
        all 0."""

    def closing(self) -> int | None:
        """The id that takes the end's score, where the answer may not end now but something within
        it may."""

    def take(self, drawn: int) -> int:
        """The id that stands: the one that was drawn, or another, if after that one there were no
        room to end."""


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely a drawn id was among those that were allowed, before temperature."""

    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()
    """ids and their logprobs, the likeliest first"""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One answer that is wanted."""

    prompt: list[int]
    plan: Plan
    sampling: SamplingConfig = SamplingConfig()
    seed: int = 0
    without: list[int] | None = None
    """the prompt of guidance, which lacks the input"""
    script: list[list[int]] = dataclasses.field(default_factory=list)
    """runs of ids that are put in, the first at once, the next whenever an end is drawn; the answer
    is over when one is drawn after the last. They are not part of the answer"""
    kind: str = ""
    """whose share of the engine it takes: kinds are served in turn"""
    on_token: Callable[[int], None] | None = None
    """is told every id as it stands, put in or drawn, on the engine's thread"""
    constraint: Constraint | None = None
    """of this answer alone: it is changed by what is drawn"""
    on_score: Callable[[Score], None] | None = None
    """is told how likely a drawn id was, before `on_token`; without it nothing is computed"""
    likeliest: int = 0
    """how many a score names"""

    @property
    def steps(self) -> int:
        """Most ids that follow the prompt."""
        if self.plan.ranges:
            return len(self.plan.ranges)
        return self.plan.longest + sum(len(run) + 1 for run in self.script)

    @property
    def paired(self) -> bool:
        """Whether guidance runs it twice, with its input and without."""
        return self.without is not None and self.sampling.guidance != 1.0

    @property
    def prompts(self) -> list[list[int]]:
        """Of each of its rows."""
        return (
            [self.prompt, self.without]
            if self.paired and self.without is not None
            else [self.prompt]
        )

    def check(self, positions: int) -> None:
        """Raises ConfigError where a model of so many positions has no room for it."""
        if max(len(self.prompt), len(self.without or [])) + self.steps > positions:
            raise ConfigError(
                f"a prompt of {len(self.prompt)} tokens and {self.steps} more",
                f"is longer than the model's {positions} positions",
                "give less",
            )


class Ticket:
    """A request that was taken: its ids as they come, its end, and a way to call it off."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ids: list[int] = []
        """the answer, without what a script put in and without the end"""
        self.finish: Finish | None = None
        self.reused = 0
        """ids of the prompt that were kept from an earlier answer and not read again"""
        self.cancelled = False
        self.error: OnnuriError | None = None
        """why it was called off, if not since nobody waits for it"""
        self._done = threading.Event()
        self._waiting: list[Callable[[Ticket], None]] = []

    def cancel(self) -> None:
        """Let go of it; the engine does so before its next step."""
        self.cancelled = True

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Until it has ended; whether it has. Somebody else must step the engine."""
        return self._done.wait(seconds)

    def when_done(self, call: Callable[[Ticket], None]) -> None:
        """`call(ticket)` at its end, on the engine's thread; must be given before the request is
        submitted."""
        self._waiting.append(call)

    def fail(self, error: OnnuriError) -> None:
        """By the engine: no more will come, for a reason that whoever waits is told."""
        self.error = error
        self.close("cancelled")

    def close(self, finish: Finish) -> None:
        """By the engine: no more will come."""
        if self.finish is None:
            self.finish = finish
            self._done.set()
            for call in self._waiting:
                call(self)


class Course:
    """How far an answer is: what a script has yet to put in, what stands, whether it is over."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket, self.request, self.plan = ticket, ticket.request, ticket.request.plan
        self.script = [list(run) for run in self.request.script]
        self.waiting = self.script.pop(0) if self.script else []
        self.stands: list[int] = []
        """every id behind the prompt"""
        self.since = 0
        self.finish: Finish | None = None

    @property
    def step(self) -> int:
        return len(self.stands)

    @property
    def forced(self) -> bool:
        """Whether the next id is a script's, and none need be drawn."""
        return bool(self.waiting)

    def take(self, drawn: int | None) -> int:
        """The id that stands next: of the script, or what was drawn."""
        token = self.waiting.pop(0) if self.waiting else self._own(drawn)
        self.stands.append(token)
        if self.finish is None and self.step >= self.request.steps:
            self.finish = "stop" if self.plan.ranges else "length"
        return token

    def _own(self, drawn: int | None) -> int:
        assert drawn is not None
        self.since += 1
        if self.plan.stretch and self.since > self.plan.stretch:
            drawn = self.plan.end
        if self.plan.ranges is None and drawn == self.plan.end:
            self.since = 0
            if self.script:
                self.waiting = self.script.pop(0)
            else:
                self.finish = "stop"
        else:
            self.ticket.ids.append(drawn)
        return drawn
