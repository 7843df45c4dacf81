"""Which id each request gets next: allowed ids, guidance, constraints, temperature, top-p.

Knows no cache, no model and no media: whoever calls it has the logits. Our engine and vLLM's worker
(`vllm_processor.py`) both do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from onnuri.inference.request import (
    DynamicConstraint,
    RequestHandle,
    RequestState,
    SamplingConfig,
    TokenScore,
)

FEW = 48
"""ids that nearly always hold all of top_p"""


class SampledRequest:
    """A request for which ids are drawn."""

    def __init__(self, handle: RequestHandle) -> None:
        self.handle, self.request, self.state = handle, handle.request, RequestState(handle)
        self.generator = torch.Generator().manual_seed(handle.request.seed)

    @property
    def gate(self) -> int | None:
        """Return the position that the next one agrees with."""
        gates = self.state.token_constraint.slot_gates
        return gates[self.state.step] if gates else None

    @property
    def gate_is_shut(self) -> bool:
        """Return whether the next position's gate took the last id of its range."""
        assert self.gate is not None
        _, hi, _ = self.state.token_constraint.at(self.gate)
        return self.handle.ids[self.gate] == hi - 1


R = TypeVar("R", bound=SampledRequest)
ScoreFunction = Callable[[list[R], bool, int, int, int | None], Tensor]
"""of (requests, whether without the input, lo, hi, extra) the logits of ids [lo, hi), and one more
for an id beyond them"""


class _Draw(NamedTuple):
    """What requests have in common whose ids are scored and drawn together."""

    lo: int
    hi: int
    end: int | None
    """id that may stand instead of [lo, hi)"""
    sampling: SamplingConfig
    guided: bool
    slot: Literal["free", "gate", "gated"]

    @classmethod
    def of(cls, sampled: SampledRequest) -> _Draw:
        """Return what a request is to draw next, wherever in its answer it is."""
        state, gate = sampled.state, sampled.gate
        lo, hi, may_end = state.token_constraint.at(state.step)
        end = state.token_constraint.end if may_end else None
        slot: Literal["free", "gate", "gated"] = "free"
        if gate is not None:
            slot = "gate" if gate == state.step else "gated"
        return cls(lo, hi, end, sampled.request.sampling, sampled.request.guided, slot)

    def token(self, index: int) -> int:
        """Return the id that an index of the logits stands for."""
        if index < self.hi - self.lo:
            return self.lo + index
        assert self.end is not None
        return self.end


def sample(requests: Iterable[R], score: ScoreFunction[R]) -> dict[R, int]:
    """Return the id that every request draws; those with a forced id draw none."""
    groups: dict[_Draw, list[R]] = {}
    for sampled in requests:
        if not sampled.state.forced:
            groups.setdefault(_Draw.of(sampled), []).append(sampled)
    tokens: dict[R, int] = {}
    for group, members in groups.items():
        tokens |= zip(members, _sample_alike(group, members, score), strict=True)
    return tokens


def _sample_alike(group: _Draw, members: list[R], score: ScoreFunction[R]) -> list[int]:
    """Return the ids that requests draw which have the same draw before them."""
    sampling = group.sampling
    logits = score(members, False, group.lo, group.hi, group.end)
    if group.guided:
        unconditional = score(members, True, group.lo, group.hi, group.end)
        logits = guided(logits, unconditional, sampling.guidance)
    if group.slot == "gate":
        logits = whether_first(logits, sampling.temperature)
    elif group.slot == "gated":
        shut = torch.tensor([sampled.gate_is_shut for sampled in members])
        is_last = torch.arange(logits.shape[1]) == logits.shape[1] - 1
        logits = logits.masked_fill(shut[:, None] != is_last, -torch.inf)
    constraints = [sampled.request.constraint for sampled in members]
    if any(constraints):
        logits = masked(logits, constraints)
    generators = [sampled.generator for sampled in members]
    indices = draw(logits, sampling.temperature, sampling.top_p, generators).tolist()
    tokens = []
    for row, (sampled, index) in enumerate(zip(members, indices, strict=True)):
        request = sampled.request
        if request.constraint:
            index = request.constraint.take(index)
        if request.on_score:
            logprob, others = likelihood(logits[row], index, request.likeliest)
            likeliest = tuple((group.token(other), p) for other, p in others)
            request.on_score(TokenScore(logprob, likeliest))
        tokens.append(group.token(index))
    return tokens


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """Return logits [B, V] moved away from what would be said without the input."""
    return unconditional + guidance * (conditional - unconditional)


def whether_first(logits: Tensor, temperature: float) -> Tensor:
    """Return logits [B, V] such that a draw decides between the last and all others by their sum,
    then among the others.

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


def masked(logits: Tensor, constraints: Sequence[DynamicConstraint | None]) -> Tensor:
    """Return logits [B, V] without what each row's constraint forbids; the last, of the end, goes
    to `closing` where the constraint has one."""
    logits = logits.clone()
    for row, constraint in zip(logits, constraints, strict=True):
        if constraint is None:
            continue
        allowed, closing = constraint.allowed(), constraint.closing()
        if closing is not None:
            row[closing] = row[-1]
        mask = torch.frombuffer(bytearray(allowed), dtype=torch.uint8)
        row.masked_fill_(mask == 0, -torch.inf)
    return logits


def likelihood(logits: Tensor, drawn: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the log probability of one index of logits [V], and the `count` likeliest indices with
    theirs."""
    logprobs = logits.log_softmax(-1)
    if not count:
        return float(logprobs[drawn]), []
    values, places = logprobs.topk(min(count, int(logits.isfinite().sum())))
    return float(logprobs[drawn]), list(zip(places.tolist(), values.tolist(), strict=True))


def draw(
    logits: Tensor, temperature: float, top_p: float, generators: list[torch.Generator]
) -> Tensor:
    """Return one index per row of logits [B, V], each row drawn from its own random numbers."""
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
