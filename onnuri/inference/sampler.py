"""Which id stands next, of many requests at once: what a plan allows, guidance, constraints, the
draw. Knows no cache and no model: whoever calls it has the logits. Our engine and vLLM's worker
(`inference/vllm_processor.py`) both do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from onnuri.inference.request import Course, Score, Ticket

FEW = 48
"""ids that nearly always hold all of top_p"""


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


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Logits [B, V] moved away from what would be said without the input."""
    return unconditional + guidance * (conditional - unconditional)


def whether_first(logits: Tensor, temperature: float) -> Tensor:
    """Logits [B, V] such that a draw decides between the last and all others by their sum, then
    among the others.

    A low temperature, and the likeliest alone, would else prefer one likely id to many that share a
    greater likelihood.
    """
    others = logits[:, :-1]
    inner = (
        torch.log_softmax(others / temperature, -1) * temperature
        if temperature > 0
        else others - others.amax(-1, keepdim=True)
    )
    return torch.cat([inner + others.logsumexp(-1, keepdim=True), logits[:, -1:]], -1)


def masked(logits: Tensor, allowed: list[bytes | None], closing: list[int | None]) -> Tensor:
    """Logits [B, V] without what a row may not take; the last, of the end, goes to `closing` where
    the row has one."""
    logits = logits.clone()
    for row, (mask, place) in enumerate(zip(allowed, closing, strict=True)):
        if place is not None:
            logits[row, place] = logits[row, -1]
        if mask is not None:
            logits[row].masked_fill_(
                torch.frombuffer(bytearray(mask), dtype=torch.uint8) == 0, -torch.inf
            )
    return logits


def likelihood(logits: Tensor, drawn: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Of logits [V] the log probability of one index, and the `count` likeliest with theirs."""
    logprobs = logits.log_softmax(-1)
    if not count:
        return float(logprobs[drawn]), []
    values, places = logprobs.topk(min(count, int(logits.isfinite().sum())))
    return float(logprobs[drawn]), list(zip(places.tolist(), values.tolist(), strict=True))


def draw(
    logits: Tensor, temperature: float, top_p: float, generators: list[torch.Generator]
) -> Tensor:
    """One index a row of logits [B, V], each row from its own random numbers."""
    if temperature <= 0:
        return torch.from_numpy(logits.numpy().argmax(-1))  # ten times as fast as torch's
    shares = torch.softmax(logits / temperature, -1)
    ranked, order = shares.topk(min(FEW, shares.shape[-1]))
    if bool((ranked.sum(-1) < top_p).any()):  # seldom, and then it takes twenty times as long
        ranked, order = shares.sort(-1, descending=True)
    ranked = ranked * (ranked.cumsum(-1) - ranked < top_p)
    threshold = torch.tensor([torch.rand((), generator=g) for g in generators])[
        :, None
    ] * ranked.sum(-1, keepdim=True)
    place = (ranked.cumsum(-1) < threshold).sum(-1).clamp(max=logits.shape[-1] - 1)
    return order.gather(1, place[:, None])[:, 0]
