"""Our plans, our guidance and our draw (`inference/sampler.py`) within vLLM: a LogitsProcessor of its
v1 engine.

It leaves every row one id, which vLLM's greedy sampler then takes; so a seed draws here what it
draws in our own engine, as far as logits agree. All that it knows of a row comes with the row's
parameters and the ids that stand in it, since vLLM moves rows and may run this in another process
(tensor parallelism). Runs in vLLM's environment.

Guidance: a request with and without its input are two rows of vLLM's. Where both are in a step
their logits are combined and both get the same id. Where one is alone (it was admitted a step
later, or was put aside for want of memory) it gets `nothing`, an id that stands in no answer; the
worker then begins both anew from where they were, which costs little beside a prefix cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor  # type: ignore[import-not-found, unused-ignore]
from vllm.v1.sample.logits_processor.builtin import process_dict_updates  # type: ignore[import-not-found, unused-ignore]

from onnuri.inference.request import Constraint, Score, Ticket
from onnuri.inference.sampler import Drawing, choose
from onnuri.inference.vllm_wire import request_of


@dataclasses.dataclass
class Link:
    """What a request has beyond its parameters, where the worker is this process."""

    constraint: Constraint | None = None
    scores: list[Score] = dataclasses.field(default_factory=list)


LINKS: dict[str, Link] = {}
"""by key"""


def nothing(prompt: list[int]) -> int:
    """The id that a row gets which may draw nothing: what begins every prompt, and stands in no
    answer."""
    return prompt[0]


class Row(Drawing):
    """One row of vLLM's batch."""

    def __init__(
        self, said: dict[str, Any], bare: bool, stood: list[int], behind: list[int]
    ) -> None:
        self.said, self.key, self.bare = said, str(said["key"]), bare
        self.stood, self.behind = stood, behind
        """ids of the answer that vLLM takes for the prompt's, and those behind it, which vLLM adds
        to"""
        self.places: list[int] = []
        """in the batch: its own, and that of the row without the input"""
        self.begin()

    def begin(self) -> None:
        """Be where the ids that stand lead to, random numbers included."""
        link = LINKS.get(self.key, Link())
        super().__init__(Ticket(request_of(self.said, link.constraint, link.scores.append)))
        for token in [*self.stood, *self.behind]:
            if not self.course.forced and self.request.sampling.temperature > 0:
                torch.rand((), generator=self.generator)
            self.course.take(token)

    @property
    def behindhand(self) -> bool:
        """Whether other ids stand than were drawn here."""
        return len(self.stood) + len(self.behind) != self.course.step


def row_of(params: Any, prompt: list[int] | None, behind: list[int]) -> Row | None:
    """A row of a request of ours; vLLM's warm-up has others."""
    ours = (params.extra_args or {}).get("onnuri")
    return Row(ours["said"], ours["bare"], ours["stood"], behind) if ours else None


class Processor(LogitsProcessor):  # type: ignore[misc, unused-ignore]
    """`EngineArgs(logits_processors=["onnuri.inference.vllm_processor:Processor"])`."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, Row] = {}
        """by place in the batch"""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Ours come from the worker alone."""

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self.rows, batch_update, row_of)

    def apply(self, logits: Tensor) -> Tensor:
        """Logits [rows, vocabulary], all but one id of each of our rows out of reach."""
        whole = self._whole()
        chosen = choose(whole, _scoring(logits))
        tokens = {place: nothing(row.request.prompt) for place, row in self.rows.items()}
        for row in whole:
            token = row.course.take(chosen.get(row))
            tokens |= dict.fromkeys(row.places, token)
        places = list(tokens)
        logits[places] = -torch.inf
        logits[places, list(tokens.values())] = 0.0
        return logits

    def _whole(self) -> list[Row]:
        """Those that can draw: all they need is in this step, and they are not over."""
        bare = {row.key: (place, row) for place, row in self.rows.items() if row.bare}
        found = []
        for place, row in self.rows.items():
            if row.bare:
                continue
            if row.behindhand:
                row.begin()
            row.places = [place]
            if (
                row.request.paired
                and row.key in bare
                and len(bare[row.key][1].behind) == len(row.behind)
            ):
                row.places.append(bare[row.key][0])
            if len(row.places) == len(row.request.prompts) and not row.course.finish:
                found.append(row)
        return found


def _scoring(logits: Tensor) -> Callable[[list[Row], bool, int, int, int | None], Tensor]:
    """What `choose` asks for, from vLLM's logits, on the CPU, where our random numbers are."""

    def score(members: list[Row], bare: bool, lo: int, hi: int, extra: int | None) -> Tensor:
        places = [row.places[bare] for row in members]
        found = logits[places, lo:hi]
        return (
            (found if extra is None else torch.cat([found, logits[places, extra : extra + 1]], 1))
            .float()
            .cpu()
        )

    return score
