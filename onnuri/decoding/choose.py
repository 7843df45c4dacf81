"""Which id stands next, of many requests at once: what a plan allows, guidance, constraints, the
draw. Knows no cache and no model: whoever calls it has the logits. Our engine and vLLM's worker
(`server/vllm_processor.py`) both do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from onnuri.decoding.request import Course, Score, Ticket
from onnuri.decoding.sample import draw, guided, likelihood, masked, whether_first


class Drawing:
    """A request for which ids are drawn."""

    def __init__(self, ticket: Ticket) -> None:
        self.ticket, self.request, self.course = ticket, ticket.request, Course(ticket)
        self.generator = torch.Generator().manual_seed(ticket.request.seed)


D = TypeVar("D", bound=Drawing)
Scoring = Callable[[list[D], bool, int, int, int | None], Tensor]
"""of (members, whether without the input, lo, hi, extra) the logits of ids [lo, hi), and one more
for an id beyond them"""


def choose(drawings: Iterable[D], score: Scoring[D]) -> dict[D, int]:
    """What every request draws; those that a script goes on for draw nothing."""
    groups: dict[Any, list[D]] = {}
    for drawing in drawings:
        if not drawing.course.forced:
            groups.setdefault(_alike(drawing), []).append(drawing)
    chosen: dict[D, int] = {}
    for members in groups.values():
        chosen |= zip(members, _chosen(members, score), strict=True)
    return chosen


def _chosen(members: list[D], score: Scoring[D]) -> list[int]:
    """What requests that choose alike draw."""
    course, sampling = members[0].course, members[0].request.sampling
    plan, step = course.plan, course.step
    lo, hi, may_end = plan.at(step)
    extra = plan.end if may_end else None
    logits = score(members, False, lo, hi, extra)
    if members[0].request.paired:
        logits = guided(logits, score(members, True, lo, hi, extra), sampling.guidance)
    if _leads(members[0]):
        logits = whether_first(logits, sampling.temperature)
    elif _led(members[0]):
        logits = _agreeing(logits, [_follows_last(m) for m in members])
    logits = _constrained(logits, members)
    found = draw(
        logits, sampling.temperature, sampling.top_p, [m.generator for m in members]
    ).tolist()
    found = _settled(logits, found, members, lo, hi)
    return [lo + k if k < hi - lo else plan.end for k in found]


def _alike(drawing: Drawing) -> Any:
    """Requests of one key are scored and drawn in one go, wherever in their answers they are."""
    plan, step = drawing.course.plan, drawing.course.step
    return (
        plan.at(step),
        plan.end,
        drawing.request.sampling,
        drawing.request.paired,
        _leads(drawing),
        _led(drawing),
    )


def _constrained(logits: Tensor, members: list[D]) -> Tensor:
    """Logits [B, V] of what each request's own constraint allows."""
    constraints = [m.request.constraint for m in members]
    if not any(constraints):
        return logits
    return masked(
        logits,
        [c.allowed() if c else None for c in constraints],
        [c.closing() if c else None for c in constraints],
    )


def _settled(logits: Tensor, found: list[int], members: list[D], lo: int, hi: int) -> list[int]:
    """What stands of what was drawn from logits [B, V], by each request's constraint; whoever asked
    is told how likely it was."""
    settled = []
    for row, (drawing, drawn) in enumerate(zip(members, found, strict=True)):
        request = drawing.request
        settled.append(request.constraint.take(drawn) if request.constraint else drawn)
        if request.on_score:
            logprob, others = likelihood(logits[row], settled[-1], request.likeliest)
            request.on_score(
                Score(
                    logprob,
                    tuple((lo + k if k < hi - lo else request.plan.end, p) for k, p in others),
                )
            )
    return settled


def _lead(drawing: Drawing) -> int | None:
    """The position that the next one agrees with."""
    plan, step = drawing.course.plan, drawing.course.step
    return plan.leads[step] if plan.leads else None


def _leads(drawing: Drawing) -> bool:
    return _lead(drawing) == drawing.course.step


def _led(drawing: Drawing) -> bool:
    return _lead(drawing) not in (None, drawing.course.step)


def _follows_last(drawing: Drawing) -> bool:
    """Whether what leads the next position took the last id of its range."""
    lead = _lead(drawing)
    assert lead is not None
    return drawing.ticket.ids[lead] == drawing.course.plan.at(lead)[1] - 1


def _agreeing(logits: Tensor, last: list[bool]) -> Tensor:
    """Logits [B, V] of which a row may take the last alone, or all but the last."""
    only = torch.tensor(last)[:, None] == (torch.arange(logits.shape[1]) == logits.shape[1] - 1)
    return logits.masked_fill(~only, -torch.inf)
