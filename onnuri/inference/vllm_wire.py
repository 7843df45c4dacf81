"""What the server and vLLM's worker say to each other: a line of JSON each. Runs in both
environments; knows neither vLLM nor HTTP.

to the worker     {"ask": …}        a request, under a key
                  {"cancel": key}   nobody waits for it
                  {"stands": …}     what a constraint makes of what was drawn, and what may follow
from the worker   {"ready": …}      once: vLLM's version, and what it can do
                  {"fault": why}    once: it cannot start
                  {"step": […]}     [key, id, score] of every request that got an id
                  {"take": […]}     [key, id within the range]: what does its constraint make of this?
                  {"refused": …}    [key, why]
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Any

from onnuri.inference.request import Constraint, Plan, Request, SamplingConfig, Score


def asked(key: str, request: Request) -> dict[str, Any]:
    """A request as JSON values."""
    return {
        "key": key,
        "prompt": request.prompt,
        "without": request.without,
        "plan": dataclasses.asdict(request.plan),
        "sampling": request.sampling.to_json(),
        "seed": request.seed,
        "script": request.script,
        "likeliest": request.likeliest if request.on_score else None,
        "bound": bound(request.constraint),
    }


def request_of(
    said: dict[str, Any],
    constraint: Constraint | None = None,
    on_score: Callable[[Score], None] | None = None,
) -> Request:
    """The request that `asked` wrote, with a constraint and a listener of this side, if it has
    them."""
    plan = Plan(**{name: _tuples(value) for name, value in said["plan"].items()})
    scored: dict[str, Any] = (
        {} if said["likeliest"] is None else {"on_score": on_score, "likeliest": said["likeliest"]}
    )
    return Request(
        prompt=said["prompt"],
        without=said["without"],
        plan=plan,
        seed=said["seed"],
        script=said["script"],
        sampling=SamplingConfig.from_json(said["sampling"]),
        constraint=constraint if said["bound"] else None,
        **scored,
    )


def bound(constraint: Constraint | None) -> list[Any] | None:
    """What a constraint allows now: its mask, and what takes the end's score."""
    return (
        None
        if constraint is None
        else [base64.b64encode(constraint.allowed()).decode(), constraint.closing()]
    )


class Remote:
    """`inference.request.Constraint` in the worker: the grammar itself stays with the server, which
    is asked once a draw."""

    def __init__(
        self, first: list[Any], ask: Callable[[int], tuple[int, list[Any] | None]]
    ) -> None:
        self.ask = ask
        self._may(first)

    def allowed(self) -> bytes:
        return self.mask

    def closing(self) -> int | None:
        return self.place

    def take(self, drawn: int) -> int:
        stands, more = self.ask(drawn)
        if more is not None:
            self._may(more)
        return stands

    def _may(self, now: list[Any]) -> None:
        self.mask, self.place = base64.b64decode(now[0]), now[1]


def score_of(said: list[Any]) -> Score:
    """The score that `dataclasses.astuple` and JSON made lists of."""
    return Score(said[0], tuple((token, logprob) for token, logprob in said[1]))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
