"""A request to a decoding back end, the token ids that it allows, and the state of its answer.

Knows no tensors and no media.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal, Protocol

from onnuri import config
from onnuri.errors import ConfigError, OnnuriError

Finish = Literal["stop", "length", "cancelled"]
"""why an answer ended: by itself, for want of room, or since nobody waits for it"""


class SamplingConfig(config.Config):
    """The sampling parameters of a request."""

    temperature: float = 0.7
    """0 always takes the most likely id"""
    top_p: float = 0.95
    guidance: float = 1.0
    """strength of classifier-free guidance (Ho & Salimans 2022); 1 is none"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenConstraint:
    """The token ids that may be generated: a range per position, or one range until the id
    `end`."""

    position_ranges: tuple[tuple[int, int], ...] | None = None
    """ids [lo, hi) of every position, where the length is fixed"""
    slot_gates: tuple[int | None, ...] = ()
    """for every position the one that it agrees with: both take the last id of their range, or
    neither. A position that is its own gate is sampled in two steps: whether it is the last id,
    then which of the others"""
    first_range: tuple[int, int] | None = None
    """ids [lo, hi) of the first position, where the length is free and it has others than the
    rest"""
    vocab_range: tuple[int, int] = (0, 0)
    """ids [lo, hi) of any position, where the length is free"""
    end: int = -1
    """id that ends an answer of free length"""
    max_tokens: int = 0
    """most ids of an answer of free length"""
    max_segment: int = 0
    """most ids between two forced segments; 0: any number"""

    def at(self, step: int) -> tuple[int, int, bool]:
        """Return the ids [lo, hi) that are allowed at a step of the answer, and whether `end` is
        allowed too."""
        if self.position_ranges:
            return *self.position_ranges[step], False
        if self.first_range and step == 0:
            return *self.first_range, False
        return *self.vocab_range, True


class DynamicConstraint(Protocol):
    """A constraint on one answer of free length that changes with what is sampled, such as a
    grammar.

    Ids are counted from the first of the vocabulary range; the end comes after the last. Called on
    the engine's thread.
    """

    def allowed(self) -> bytes:
        """Return a mask of one byte per id of the range and one for the end, 0 where it is not
        allowed now; never all 0."""

    def closing(self) -> int | None:
        """Return the id that gets the end's logit while the answer may not end but a part of it
        may, such as a quotation mark; None where there is none."""

    def take(self, sampled: int) -> int:
        """Take in the id that was sampled, and return the id that stands: the same, or another
        where the answer would have no room to end after it."""


@dataclasses.dataclass(frozen=True)
class TokenScore:
    """The log probability of a sampled id among the allowed ids, before temperature."""

    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()
    """ids and their logprobs, the likeliest first"""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """A request for one answer: its prompt, the ids it allows, how to sample them, and who
    listens."""

    prompt: list[int]
    token_constraint: TokenConstraint
    sampling: SamplingConfig = SamplingConfig()
    seed: int = 0
    unconditional_prompt: list[int] | None = None
    """the prompt of guidance, which lacks the input"""
    forced_segments: list[list[int]] = dataclasses.field(default_factory=list)
    """ids that are put in, the first segment at once, the next whenever an end is sampled; the
    answer is over when an end is sampled after the last. They are not part of the answer"""
    kind: str = ""
    """whose share of the engine it takes: kinds are served in turn"""
    on_token: Callable[[int], None] | None = None
    """is told every id as it stands, forced or sampled, on the engine's thread"""
    constraint: DynamicConstraint | None = None
    """of this answer alone: it is changed by what is sampled"""
    on_score: Callable[[TokenScore], None] | None = None
    """is told how likely a sampled id was, before `on_token`; without it nothing is computed"""
    likeliest: int = 0
    """how many ids a score names"""

    @property
    def steps(self) -> int:
        """Return the most ids that may follow the prompt, forced ones and ends included."""
        if self.token_constraint.position_ranges:
            return len(self.token_constraint.position_ranges)
        forced = sum(len(segment) + 1 for segment in self.forced_segments)
        return self.token_constraint.max_tokens + forced

    @property
    def guided(self) -> bool:
        """Return whether classifier-free guidance decodes it in two rows, with its input and
        without."""
        return self.unconditional_prompt is not None and self.sampling.guidance != 1.0

    @property
    def prompts(self) -> list[list[int]]:
        """Return the prompt of each row that it needs: its own, and for guidance the unconditional
        one."""
        if self.guided and self.unconditional_prompt is not None:
            return [self.prompt, self.unconditional_prompt]
        return [self.prompt]

    def check(self, positions: int) -> None:
        """Raise ConfigError where prompt and answer need more than a model's `positions`."""
        if max(len(self.prompt), len(self.unconditional_prompt or [])) + self.steps > positions:
            raise ConfigError(
                f"a prompt of {len(self.prompt)} tokens and {self.steps} more",
                f"is longer than the model's {positions} positions",
                "give less",
            )


class RequestHandle:
    """The caller's handle of a submitted request: its ids so far, its end, and a way to cancel
    it."""

    def __init__(self, request: Request) -> None:
        """Begin with no ids and no end."""
        self.request = request
        self.ids: list[int] = []
        """the answer, without forced segments and without the end"""
        self.finish: Finish | None = None
        self.reused = 0
        """ids of the prompt that the prefix cache held"""
        self.cancelled = False
        self.ended: Future[None] = Future()
        """is done at the end, with the error if there was one; its callbacks run on the engine's
        thread"""
        self.ended.set_running_or_notify_cancel()  # whoever awaits it must not cancel it by that

    def cancel(self) -> None:
        """Ask the engine to cancel the request, which it does before its next step."""
        self.cancelled = True

    @property
    def done(self) -> bool:
        """Return whether the request has ended."""
        return self.ended.done()

    def close(self, finish: Finish, error: OnnuriError | None = None) -> None:
        """Record why the request ended, with an error where it failed, and resolve `ended`; only
        the engine calls this, and only the first call counts."""
        if self.finish is None:
            self.finish = finish
            if error:
                self.ended.set_exception(error)
            else:
                self.ended.set_result(None)


class RequestState:
    """The state of one answer: the segments that are still to be forced, the ids so far, and
    whether it is finished."""

    def __init__(self, handle: RequestHandle) -> None:
        """Begin with the first forced segment, if there is one."""
        self.handle, self.request = handle, handle.request
        self.token_constraint = handle.request.token_constraint
        self.later_segments = [list(segment) for segment in self.request.forced_segments]
        self.segment = self.later_segments.pop(0) if self.later_segments else []
        """ids that are to be put in now"""
        self.tokens: list[int] = []
        """every id behind the prompt"""
        self.segment_tokens = 0
        """ids sampled since the last end"""
        self.finish: Finish | None = None

    @property
    def step(self) -> int:
        """Return how many ids follow the prompt so far."""
        return len(self.tokens)

    @property
    def forced(self) -> bool:
        """Return whether the next id comes from a forced segment, so that none is sampled."""
        return bool(self.segment)

    def take(self, sampled: int | None) -> int:
        """Append the next id and return it: the forced one if there is any, else the one that was
        sampled. Sets `finish` where the answer ends."""
        token = self.segment.pop(0) if self.segment else self._accept_sampled(sampled)
        self.tokens.append(token)
        if self.finish is None and self.step >= self.request.steps:
            self.finish = "stop" if self.token_constraint.position_ranges else "length"
        return token

    def _accept_sampled(self, sampled: int | None) -> int:
        """Return the sampled id that stands, which is `end` where the segment is at its longest.
        Any other id joins the answer; an end starts the next forced segment, or finishes the
        answer."""
        assert sampled is not None
        constraint = self.token_constraint
        self.segment_tokens += 1
        if constraint.max_segment and self.segment_tokens > constraint.max_segment:
            sampled = constraint.end
        if constraint.position_ranges or sampled != constraint.end:
            self.handle.ids.append(sampled)
            return sampled
        self.segment_tokens = 0
        if self.later_segments:
            self.segment = self.later_segments.pop(0)
        else:
            self.finish = "stop"
        return sampled
