"""Batched decoding of a Llama-class model with a static cache: ids in, ids out. Knows no media.

Rows of different prompt lengths are padded on the left. Guidance runs every row twice, with its prompt and with another
that lacks the input. At every position only the allowed ids are scored: a slice of the tied embedding. The forward pass
is our own, with fused projections, and a test holds it against transformers'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri.decoding.sample import SamplingConfig, draw, guided, whether_first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What may be generated: a range of ids for every position, or one range until `end`."""

    ranges: tuple[tuple[int, int], ...] | None = None
    """for every position the ids [lo, hi)"""
    leads: tuple[int | None, ...] = ()
    """for every position the one that it agrees with: both take the last id of their range, or neither. One that leads
    itself is decided in two steps, whether it is the last, then which of the others"""
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


class _Row:
    """One row's answer as it grows, and what its script has yet to put in."""

    def __init__(self, plan: Plan, script: list[list[int]]) -> None:
        self.plan, self.script = plan, [list(run) for run in script]
        self.put_in = sum(len(run) + 1 for run in script)
        self.waiting = self.script.pop(0) if self.script else []
        self.ids: list[int] = []
        self.over, self.since = False, 0

    def take(self, drawn: int) -> int:
        """The id that stands next: of the script, or what was drawn."""
        if self.waiting:
            return self.waiting.pop(0)
        self.since += 1
        if self.plan.stretch and self.since > self.plan.stretch:
            drawn = self.plan.end
        if self.plan.ranges is None and drawn == self.plan.end:
            self.over, self.since = self.over or not self.script, 0
            self.waiting = self.script.pop(0) if self.script else []
        elif not self.over:
            self.ids.append(drawn)
        return drawn


class Engine:
    """The weights of a model, laid out for decoding."""

    def __init__(self, model: nn.Module) -> None:
        core: Any = model.model  # type: ignore[assignment]
        settings: Any = model.config
        self.heads, self.layers = settings.num_attention_heads, settings.num_hidden_layers
        self.width, self.epsilon = settings.hidden_size, settings.rms_norm_eps
        self.size = self.width // self.heads
        self.embedding, self.final = core.embed_tokens.weight.detach(), core.norm.weight.detach()
        self.weights = [{"norm1": x.input_layernorm.weight.detach(), "norm2": x.post_attention_layernorm.weight.detach(),
                         "qkv": torch.cat([x.self_attn.q_proj.weight, x.self_attn.k_proj.weight,
                                           x.self_attn.v_proj.weight]).detach(),
                         "out": x.self_attn.o_proj.weight.detach(),
                         "gate": torch.cat([x.mlp.gate_proj.weight, x.mlp.up_proj.weight]).detach(),
                         "down": x.mlp.down_proj.weight.detach()} for x in core.layers]
        theta = settings.rope_parameters["rope_theta"]
        turns = 1.0 / theta ** (torch.arange(0, self.size, 2).float() / self.size)
        angles = torch.outer(torch.arange(settings.max_position_embeddings).float(), turns)
        self.cos, self.sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def hidden(self, ids: Tensor, positions: Tensor, cache: Tensor, at: int, mask: Tensor) -> Tensor:
        """Last hidden states [B, T, C] of ids [B, T] that stand at `at` in the cache [layers, 2, B, heads, S, size].

        `mask` bool [B, 1, T, at + T] says what each sees.
        """
        batch, count = ids.shape
        x = self.embedding[ids]
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        for k, w in enumerate(self.weights):
            y = F.rms_norm(x, (self.width,), w["norm1"], self.epsilon)
            q, key, value = F.linear(y, w["qkv"]).view(batch, count, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
            cache[k, 0, :, :, at : at + count] = _rotate(key, cos, sin)
            cache[k, 1, :, :, at : at + count] = value
            seen = F.scaled_dot_product_attention(_rotate(q, cos, sin), cache[k, 0, :, :, : at + count],
                                                  cache[k, 1, :, :, : at + count], attn_mask=mask)
            x = x + F.linear(seen.transpose(1, 2).reshape(batch, count, self.width), w["out"])
            gate, up = F.linear(F.rms_norm(x, (self.width,), w["norm2"], self.epsilon), w["gate"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        return F.rms_norm(x, (self.width,), self.final, self.epsilon)

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], plan: Plan, sampling: SamplingConfig, seeds: list[int],
                 without: list[list[int]] | None = None, scripts: list[list[list[int]]] | None = None,
                 on_step: Callable[[int, list[int]], None] | None = None) -> list[list[int]]:
        """Ids that follow each prompt. `without`: the prompts of guidance, which lack the input.

        `scripts`: for every row, runs of ids that are put in, the first at once, the next whenever the row draws its end;
        it is over when it does so after the last. They are not part of the answer.
        `on_step(step, ids)` gets one id a row as it is drawn; a row that has ended repeats whatever it draws.
        """
        rows, pair = len(prompts), without is not None and sampling.guidance != 1.0
        every = prompts + (without or []) if pair else prompts
        ids, positions, present = _pad_left(every)
        course = [_Row(plan, script) for script in scripts or [[] for _ in prompts]]
        steps = len(plan.ranges) if plan.ranges else plan.longest + max(row.put_in for row in course)
        total = ids.shape[1] + steps
        cache = torch.zeros(self.layers, 2, len(every), self.heads, total, self.size)
        seen = torch.cat([present, torch.ones(len(every), steps, dtype=torch.bool)], 1)
        start = ids.shape[1]
        causal = torch.ones(start, start, dtype=torch.bool).tril() & present[:, None, None, :]
        causal = causal | torch.eye(start, dtype=torch.bool)
        last = self.hidden(ids, positions, cache, 0, causal)[:, -1]
        position, generators = positions[:, -1:] + 1, [torch.Generator().manual_seed(s) for s in seeds]
        for step in range(steps):
            lo, hi, may_end = plan.at(step)
            logits = self._score(last, lo, hi, plan.end if may_end else None)
            if pair:
                logits = guided(logits[:rows], logits[rows:], sampling.guidance)
            if plan.leads and (lead := plan.leads[step]) is not None:
                logits = whether_first(logits, sampling.temperature) if lead == step else \
                    _agreeing(logits, [row.ids[lead] == plan.at(lead)[1] - 1 for row in course])
            chosen = draw(logits, sampling.temperature, sampling.top_p, generators)
            drawn = torch.where(chosen < hi - lo, chosen + lo, plan.end).tolist()
            picked = torch.tensor([row.take(token) for row, token in zip(course, drawn, strict=True)])
            if on_step:
                on_step(step, picked.tolist())
            if all(row.over for row in course) or step == steps - 1:
                break
            following = torch.cat([picked, picked]) if pair else picked
            at = start + step
            last = self.hidden(following[:, None], position, cache, at, seen[:, None, None, : at + 1])[:, -1]
            position = position + 1
        return [row.ids for row in course]

    def _score(self, hidden: Tensor, lo: int, hi: int, end: int | None) -> Tensor:
        """Logits [B, hi - lo], and one more for the end where there may be one."""
        logits = hidden @ self.embedding[lo:hi].T
        if end is not None:
            logits = torch.cat([logits, hidden @ self.embedding[end][:, None]], 1)
        return logits


def _agreeing(logits: Tensor, last: list[bool]) -> Tensor:
    """Logits [B, V] of which a row may take the last alone, or all but the last."""
    only = torch.tensor(last)[:, None] == (torch.arange(logits.shape[1]) == logits.shape[1] - 1)
    return logits.masked_fill(~only, -torch.inf)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al. 2021), halves as in Llama's transformers code."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _pad_left(prompts: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """(ids [B, T], positions [B, T] from 0 at the first real id, present bool [B, T])."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    positions, present = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for k, prompt in enumerate(prompts):
        ids[k, longest - len(prompt) :] = torch.tensor(prompt)
        positions[k, longest - len(prompt) :] = torch.arange(len(prompt))
        present[k, longest - len(prompt) :] = True
    return ids, positions, present
