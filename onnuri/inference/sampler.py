"""Sampling: which id each request gets next, by its allowed ids, guidance, constraints, temperature
and top-p.

Knows no cache, no model and no media: the caller supplies the logits. Our engine and vLLM's worker
(`vllm_processor.py`) both call it.
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
"""most likely ids that nearly always hold all of top_p, so that no full sort is needed"""


class SampledRequest:
    """A request that is being decoded: its state, and the random generator that its ids are drawn
    from."""

    def __init__(self, handle: RequestHandle) -> None:
        self.handle, self.request, self.state = handle, handle.request, RequestState(handle)
        self.generator = torch.Generator().manual_seed(handle.request.seed)

    @property
    def gate(self) -> int | None:
        """Return the position that gates the next one (`TokenConstraint.slot_gates`), None where it
        has no gate."""
        gates = self.state.token_constraint.slot_gates
        return gates[self.state.step] if gates else None

    @property
    def gate_is_shut(self) -> bool:
        """Return whether the gate's position took the last id of its range, so that the next must
        take its own last id."""
        assert self.gate is not None
        _, hi, _ = self.state.token_constraint.at(self.gate)
        return self.handle.ids[self.gate] == hi - 1


R = TypeVar("R", bound=SampledRequest)
ScoreFunction = Callable[[list[R], bool, int, int, int | None], Tensor]
"""takes (requests, whether unconditional, lo, hi, extra) and returns logits [N, hi - lo] of the ids
[lo, hi), with one more column for `extra`, an id beyond them"""


class _SamplingGroup(NamedTuple):
    """What requests have in common whose logits are computed and sampled in one batch."""

    lo: int
    hi: int
    end: int | None
    """id that may stand instead of [lo, hi)"""
    sampling: SamplingConfig
    guided: bool
    slot: Literal["free", "gate", "gated"]

    @classmethod
    def of(cls, sampled: SampledRequest) -> _SamplingGroup:
        """Return the group in which a request's next id is sampled, wherever in its answer it
        is."""
        state, gate = sampled.state, sampled.gate
        lo, hi, may_end = state.token_constraint.at(state.step)
        end = state.token_constraint.end if may_end else None
        slot: Literal["free", "gate", "gated"] = "free"
        if gate is not None:
            slot = "gate" if gate == state.step else "gated"
        return cls(lo, hi, end, sampled.request.sampling, sampled.request.guided, slot)

    def token(self, index: int) -> int:
        """Return the token id that a column of the group's logits stands for."""
        if index < self.hi - self.lo:
            return self.lo + index
        assert self.end is not None
        return self.end


def sample(requests: Iterable[R], score: ScoreFunction[R]) -> dict[R, int]:
    """Return the sampled id of every request whose next id is not forced. `score` computes the
    logits of requests that allow the same ids and sample alike."""
    groups: dict[_SamplingGroup, list[R]] = {}
    for sampled in requests:
        if not sampled.state.forced:
            groups.setdefault(_SamplingGroup.of(sampled), []).append(sampled)
    if not groups:
        return {}
    logits = [_group_logits(group, members, score) for group, members in groups.items()]
    drawn = [
        draw(
            rows,
            group.sampling.temperature,
            group.sampling.top_p,
            [sampled.generator for sampled in members],
        )
        for rows, (group, members) in zip(logits, groups.items(), strict=True)
    ]
    indices = torch.cat(drawn).tolist()  # of all groups at once: a GPU is waited for only here
    tokens: dict[R, int] = {}
    for rows, (group, members) in zip(logits, groups.items(), strict=True):
        own, indices = indices[: len(members)], indices[len(members) :]
        tokens |= zip(members, _take(group, members, rows, own), strict=True)
    return tokens


def _group_logits(group: _SamplingGroup, members: list[R], score: ScoreFunction[R]) -> Tensor:
    """Return the logits [N, V] of a group's members after guidance, gates and constraints."""
    logits = score(members, False, group.lo, group.hi, group.end)
    if group.guided:
        unconditional = score(members, True, group.lo, group.hi, group.end)
        logits = guided(logits, unconditional, group.sampling.guidance)
    if group.slot == "gate":
        logits = two_step_logits(logits, group.sampling.temperature)
    elif group.slot == "gated":
        shut = torch.tensor([sampled.gate_is_shut for sampled in members], device=logits.device)
        last = logits.shape[1] - 1
        is_last = torch.arange(logits.shape[1], device=logits.device) == last
        logits = logits.masked_fill(shut[:, None] != is_last, -torch.inf)
    constraints = [sampled.request.constraint for sampled in members]
    return masked(logits, constraints) if any(constraints) else logits


def _take(group: _SamplingGroup, members: list[R], logits: Tensor, indices: list[int]) -> list[int]:
    """Return the id of every member of a group whose sampled column of its logits [N, V] is given;
    its constraint takes it in, and listeners get its score."""
    if any(sampled.request.on_score for sampled in members):
        logits = logits.cpu()  # once, not for every row
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
    """Return logits [B, V] after classifier-free guidance (Ho & Salimans 2022): the conditional
    ones moved away from the unconditional ones."""
    return unconditional + guidance * (conditional - unconditional)


def two_step_logits(logits: Tensor, temperature: float) -> Tensor:
    """Return logits [B, V] that decide first between the last id and the sum of all others, then
    among the others.

    Else a low temperature, and greedy sampling, would prefer one likely id to many that share a
    greater probability.
    """
    others = logits[:, :-1]
    inner = (
        torch.log_softmax(others / temperature, -1) * temperature
        if temperature > 0
        else others - others.amax(-1, keepdim=True)
    )
    return torch.cat([inner + others.logsumexp(-1, keepdim=True), logits[:, -1:]], -1)


def masked(logits: Tensor, constraints: Sequence[DynamicConstraint | None]) -> Tensor:
    """Return logits [B, V] with -inf where a row's constraint allows no id; the last column, the
    end's, is also written to the constraint's `closing` id where it has one."""
    logits = logits.clone()
    allowed = torch.ones(logits.shape, dtype=torch.uint8)
    for row, constraint in enumerate(constraints):
        if constraint is None:
            continue
        mask, closing = constraint.allowed(), constraint.closing()
        if closing is not None:
            logits[row, closing] = logits[row, -1]
        allowed[row] = torch.frombuffer(bytearray(mask), dtype=torch.uint8)
    return logits.masked_fill_(allowed.to(logits.device) == 0, -torch.inf)


def likelihood(logits: Tensor, index: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the log probability of one index of logits [V], and the `count` most likely indices
    with theirs."""
    logprobs = logits.log_softmax(-1)
    if not count:
        return float(logprobs[index]), []
    values, places = logprobs.topk(min(count, int(logits.isfinite().sum())))
    return float(logprobs[index]), list(zip(places.tolist(), values.tolist(), strict=True))


def draw(
    logits: Tensor, temperature: float, top_p: float, generators: list[torch.Generator]
) -> Tensor:
    """Return one index per row of logits [B, V], sampled by temperature and top-p with the row's
    own random generator; the most likely at temperature 0."""
    if temperature <= 0:
        if logits.is_cuda:
            return logits.argmax(-1)
        return torch.from_numpy(logits.numpy().argmax(-1))  # ten times as fast as torch's
    shares = torch.softmax(logits / temperature, -1)
    ranked, order = shares.topk(min(FEW, shares.shape[-1]))
    if bool((ranked.sum(-1) < top_p).any()):  # seldom, and then it takes twenty times as long
        ranked, order = shares.sort(-1, descending=True)
    ranked = ranked * (ranked.cumsum(-1) - ranked < top_p)
    # drawn on the CPU, so that a seed means the same draws on every device
    uniform = torch.tensor([torch.rand((), generator=g) for g in generators])
    threshold = uniform.to(logits.device)[:, None] * ranked.sum(-1, keepdim=True)
    place = (ranked.cumsum(-1) < threshold).sum(-1).clamp(max=logits.shape[-1] - 1)
    return order.gather(1, place[:, None])[:, 0]
