"""What the server and vLLM's worker say to each other: a line of JSON each. Runs in both
environments; knows neither vLLM nor HTTP.

to the worker     {"ask": …}        a request, under a key
                  {"cancel": key}   nobody waits for it
                  {"stands": …}     what a constraint makes of what was sampled, and what may follow
from the worker   {"ready": …}      once: vLLM's version, and what it can do
                  {"fault": why}    once: it cannot start
                  {"step": […]}     [key, id, score] of every request that got an id
                  {"take": […]}     [key, id within the range]: what does its constraint say?
                  {"refused": …}    [key, why]
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Any

from onnuri.inference.request import (
    DynamicConstraint,
    Request,
    SamplingConfig,
    TokenConstraint,
    TokenScore,
)

Message = dict[str, Any]
Allowed = list[Any]
"""a constraint's mask in base64, and the id that gets the end's logit"""


def to_json(key: str, request: Request) -> Message:
    """Return a request, under a key, as a message of JSON values."""
    return {
        "key": key,
        "prompt": request.prompt,
        "unconditional_prompt": request.unconditional_prompt,
        "token_constraint": dataclasses.asdict(request.token_constraint),
        "sampling": request.sampling.to_json(),
        "seed": request.seed,
        "forced_segments": request.forced_segments,
        "likeliest": request.likeliest if request.on_score else None,
        "allowed": allowed_by(request.constraint) if request.constraint else None,
    }


def request_of(
    values: Message,
    constraint: DynamicConstraint | None = None,
    on_score: Callable[[TokenScore], None] | None = None,
) -> Request:
    """Return the request that `to_json` wrote, with a constraint and a listener of this process
    where the original has them."""
    ranges = {name: _tuples(value) for name, value in values["token_constraint"].items()}
    scored = values["likeliest"] is not None
    return Request(
        prompt=values["prompt"],
        unconditional_prompt=values["unconditional_prompt"],
        token_constraint=TokenConstraint(**ranges),
        seed=values["seed"],
        forced_segments=values["forced_segments"],
        sampling=SamplingConfig.from_json(values["sampling"]),
        constraint=constraint if values["allowed"] else None,
        on_score=on_score if scored else None,
        likeliest=values["likeliest"] or 0,
    )


def allowed_by(constraint: DynamicConstraint) -> Allowed:
    """Return what a constraint allows now: its mask in base64, and the id that gets the end's
    logit."""
    return [base64.b64encode(constraint.allowed()).decode(), constraint.closing()]


class RemoteConstraint:
    """A `DynamicConstraint` in the worker: the grammar itself stays with the server, which is asked
    once per sampled id."""

    def __init__(self, first: Allowed, ask: Callable[[int], tuple[int, Allowed | None]]) -> None:
        self.now, self.ask = first, ask

    def allowed(self) -> bytes:
        """Return the mask that the server sent last."""
        return base64.b64decode(self.now[0])

    def closing(self) -> int | None:
        """Return the id that gets the end's logit now, None where there is none."""
        place: int | None = self.now[1]
        return place

    def take(self, sampled: int) -> int:
        """Send the sampled id to the server, and return the id that it lets stand."""
        stands, allowed = self.ask(sampled)
        self.now = allowed or self.now
        return stands


def score_of(values: list[Any]) -> TokenScore:
    """Return the score that `dataclasses.astuple` and JSON made lists of."""
    return TokenScore(values[0], tuple((token, logprob) for token, logprob in values[1]))


def _tuples(value: Any) -> Any:
    """Return a value with all its lists, nested ones too, as tuples."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
