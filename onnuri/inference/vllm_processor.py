"""Our constraints, guidance and sampler (`sampler.py`) within vLLM: a LogitsProcessor of its v1
engine.

It leaves every row one id, which vLLM's greedy sampler then takes; so a seed samples here what it
samples in our own engine, as far as logits agree. All that it knows of a row comes with the row's
parameters and its ids so far, since vLLM moves rows and may run this in another process (tensor
parallelism). Runs in vLLM's environment.

Guidance: a request with and without its input are two rows of vLLM's. Where both are in a step
their logits are combined and both get the same id. Where one is alone (it was admitted a step
later, or was preempted for want of memory) it gets `idle_token`, an id that no answer has; the
worker then begins both anew from where they were, which costs little beside a prefix cache.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from onnuri.inference.request import DynamicConstraint, RequestHandle, TokenScore
from onnuri.inference.sampler import SampledRequest, ScoreFunction, sample
from onnuri.inference.vllm_wire import Message, request_of


@dataclasses.dataclass
class Link:
    """The constraint and the scores of a request, shared with the worker where it is this
    process."""

    constraint: DynamicConstraint | None = None
    scores: list[TokenScore] = dataclasses.field(default_factory=list)


LINKS: dict[str, Link] = {}
"""by key"""


def idle_token(prompt: list[int]) -> int:
    """Return the id that a row gets which may sample nothing in this step: the one that begins
    every prompt and that no answer has."""
    return prompt[0]


class VllmRow(SampledRequest):
    """One row of vLLM's batch, with the state of its answer."""

    def __init__(
        self, values: Message, unconditional: bool, prior_ids: list[int], new_ids: list[int]
    ) -> None:
        """Take a request's values from the wire, the ids that vLLM counts to the prompt, and its
        list of new ids."""
        self.values, self.key, self.unconditional = values, str(values["key"]), unconditional
        self.prior_ids, self.new_ids = prior_ids, new_ids
        """ids of the answer that vLLM takes for the prompt's, and those behind it, which vLLM adds
        to"""
        self.places: list[int] = []
        """in the batch: its own, and that of the row without the input"""
        self.begin()

    def begin(self) -> None:
        """Replay the ids so far, random numbers included, so that the state is as if they had been
        sampled here."""
        link = LINKS.get(self.key, Link())
        super().__init__(
            RequestHandle(request_of(self.values, link.constraint, link.scores.append))
        )
        for token in [*self.prior_ids, *self.new_ids]:
            if not self.state.forced and self.request.sampling.temperature > 0:
                torch.rand((), generator=self.generator)
            self.state.take(token)

    @property
    def is_stale(self) -> bool:
        """Return whether the row's ids are more or fewer than were sampled here, so that it must be
        replayed."""
        return len(self.prior_ids) + len(self.new_ids) != self.state.step


def row_of(params: Any, prompt: list[int] | None, new_ids: list[int]) -> VllmRow | None:
    """Return the row of a request that our worker sent; None for others, such as vLLM's warm-up."""
    ours = (params.extra_args or {}).get("onnuri")
    return (
        VllmRow(ours["values"], ours["unconditional"], ours["prior_ids"], new_ids) if ours else None
    )


class Processor(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """vLLM's logits processor:
    `EngineArgs(logits_processors=["onnuri.inference.vllm_processor:Processor"])`."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, VllmRow] = {}
        """by place in the batch"""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Accept all parameters, since only our worker sends them."""

    def is_argmax_invariant(self) -> bool:
        """Return False: the id that is left need not be the most likely one."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the rows that vLLM has added, removed and moved."""
        process_dict_updates(self.rows, batch_update, row_of)

    def apply(self, logits: Tensor) -> Tensor:
        """Return logits [rows, vocabulary] in which each of our rows has one sampled id at 0 and
        all others at -inf."""
        complete = self._complete_rows()
        sampled = sample(complete, _score_function(logits))
        tokens = {place: idle_token(row.request.prompt) for place, row in self.rows.items()}
        for row in complete:
            token = row.state.take(sampled.get(row))
            tokens |= dict.fromkeys(row.places, token)
        places = list(tokens)
        logits[places] = -torch.inf
        logits[places, list(tokens.values())] = 0.0
        return logits

    def _complete_rows(self) -> list[VllmRow]:
        """Return the rows that can sample in this step: unfinished, and with their unconditional
        partner, where guidance needs one, at the same length."""
        partners = {
            (row.key, len(row.new_ids)): place
            for place, row in self.rows.items()
            if row.unconditional
        }
        complete = []
        for place, row in self.rows.items():
            if row.unconditional:
                continue
            if row.is_stale:
                row.begin()
            row.places = [place]
            partner = partners.get((row.key, len(row.new_ids)))
            if row.request.guided and partner is not None:
                row.places.append(partner)
            if len(row.places) == len(row.request.prompts) and not row.state.finish:
                complete.append(row)
        return complete


def _score_function(logits: Tensor) -> ScoreFunction[VllmRow]:
    """Return the function by which `sample` gets logits from vLLM's, copied to the CPU, where our
    random generators are."""

    def score(
        members: list[VllmRow], unconditional: bool, lo: int, hi: int, extra: int | None
    ) -> Tensor:
        """Return logits [N, hi - lo] of one row per member, with one more column for `extra`."""
        rows = logits[[row.places[unconditional] for row in members]]
        allowed = rows[:, lo:hi]
        if extra is not None:
            allowed = torch.cat([allowed, rows[:, extra : extra + 1]], 1)
        return allowed.float().cpu()

    return score
