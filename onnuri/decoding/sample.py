"""How one id is drawn from logits, and how likely it was: allowed range, guidance, temperature,
top-p. Knows no media."""

from __future__ import annotations

import torch
from torch import Tensor

from onnuri import config

FEW = 48
"""ids that nearly always hold all of top_p"""


class SamplingConfig(config.Config):
    """How ids are drawn."""

    temperature: float = 0.7
    """0 always takes the likeliest"""
    top_p: float = 0.95
    guidance: float = 1.0
    """classifier-free guidance (Ho & Salimans 2022): 1 is none"""


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
