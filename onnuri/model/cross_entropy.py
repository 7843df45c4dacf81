"""Cross-entropy over a large vocabulary, a few tokens at a time: logits of all tokens never stand
in memory together.

The gradients follow from a chunk's logits while they are there, so the forward pass makes them and
the backward pass only scales them (as Liger does, arXiv 2410.10989, section 3.2): no product is
done twice. Knows no model. PyTorch 2.13's own `linear_cross_entropy` does the same, but sums a
16-bit loss in 16 bits (11.31 for 11.15) and hides its bytes from a trace.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 1024
"""tokens a chunk: with fewer, products wait for the head's weights (an H200 does 206 FLOPs a byte,
a B200 281, and the head's gradient is read and written once a chunk)"""


def cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    rows: int = ROWS,
    *,
    soft: Tensor | None = None,
    losses: Tensor | None = None,
) -> Tensor:
    """Return the sum over tokens of weight x loss: hidden [N, C], head [V, C], targets [N], weights
    [N] to [].

    In 32 bits, or in 64 where `hidden` has 64. A token that counts for nothing has weight 0, and a
    target all the same. Differentiable once, in `hidden` and `head`.

    `soft` [V, V]: row k is what target k is as a distribution over ids; a token's loss is then its
    divergence (Kullback–Leibler) from what the logits say. `losses` [N]: is filled with weight x
    loss of every token.
    """
    loss: Tensor = _Chunked.apply(hidden, head, targets, weights, rows, soft, losses)
    return loss


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        rows: int,
        soft: Tensor | None,
        losses: Tensor | None,
    ) -> Tensor:
        ctx.gradients = torch.empty_like(hidden), torch.zeros_like(head)
        weights = weights.to(torch.float64 if hidden.dtype == torch.float64 else torch.float32)
        chunks = list(
            zip(*(t.split(rows) for t in (hidden, targets, weights, ctx.gradients[0])), strict=True)
        )
        into = losses.split(rows) if losses is not None else [None] * len(chunks)
        sums = [
            _chunk(states, head, wanted, weight, gradient, ctx.gradients[1], soft, each)
            for (states, wanted, weight, gradient), each in zip(chunks, into, strict=True)
        ]
        return torch.stack(sums).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (by_hidden, by_head), ctx.gradients = (
            ctx.gradients,
            None,
        )  # let go, that autograd need not copy them
        return by_hidden.mul_(scale), by_head.mul_(scale), None, None, None, None, None


def _chunk(
    states: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    by_states: Tensor,
    by_head: Tensor,
    soft: Tensor | None,
    losses: Tensor | None,
) -> Tensor:
    """Loss of some tokens [] and, written in place, its gradients; what is as wide as the
    vocabulary is gone after it."""
    logits = (states @ head.T).to(weights.dtype)
    logits.sub_(logits.amax(1, keepdim=True))
    if soft is None:
        picked = logits.gather(1, targets[:, None])[:, 0]
    else:
        goal = soft[targets].to(weights.dtype)
        picked = (goal * logits - torch.xlogy(goal, goal)).sum(1)  # less the goal's own entropy
    sums = logits.exp_().sum(1)
    logits.mul_((weights / sums)[:, None])
    if soft is None:
        logits.scatter_add_(1, targets[:, None], -weights[:, None])
    else:
        logits.addcmul_(goal, weights[:, None], value=-1)
    gradient = logits.to(head.dtype)
    by_states.copy_(gradient @ head)
    by_head.addmm_(gradient.T, states)
    each = (sums.log() - picked) * weights
    if losses is not None:
        losses.copy_(each)
    return each.sum()
