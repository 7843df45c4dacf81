"""This module computes the cross-entropy over a large vocabulary in chunks of tokens, so that the
logits of all tokens are never in memory together.

The forward pass computes a chunk's gradients from its logits, and the backward pass only scales
them (as Liger does, arXiv 2410.10989, section 3.2): no matrix product is done twice. The module
knows no model. PyTorch 2.13's own `linear_cross_entropy` does the same, but sums a 16-bit loss in
16 bits (11.31 for 11.15) and hides its bytes from a trace.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

ROWS = 1024
"""tokens per chunk: with fewer, products wait for the head's weights (an H200 does 206 FLOPs per
byte, a B200 281, and the head's gradient is read and written once per chunk)"""
CPU_ROWS = 256
"""tokens per chunk on a CPU, whose caches then hold a chunk's logits: 8 to 14 % less time than with
1,024 for 8,192 and 16,384 ids"""


def cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    rows: int | None = None,
    *,
    soft: Tensor | None = None,
    losses: Tensor | None = None,
) -> Tensor:
    """Return the sum [] over tokens of weight x cross-entropy: hidden [N, C], head [V, C], targets
    [N], weights [N].

    It is computed in 32 bits, or in 64 if `hidden` has 64, and can be differentiated once, in
    `hidden` and `head`. A token that does not count has weight 0 and any valid target. `rows` is
    the number of tokens per chunk (None: as many as suit the device).

    `soft` [V, V]: row k is the target distribution over ids that replaces target k; a token's loss
    is then the Kullback–Leibler divergence of the softmax from it. `losses` [N] is filled with
    weight x loss of every token.
    """
    # a trace on a CPU counts what a GPU would do
    on_cpu = hidden.device.type == "cpu" and not isinstance(hidden, FakeTensor)
    rows = rows or (CPU_ROWS if on_cpu else ROWS)
    loss: Tensor = _Chunked.apply(hidden, head, targets, weights, rows, soft, losses)
    return loss


class _Chunked(torch.autograd.Function):
    """This function computes loss and gradients chunk by chunk in its forward pass."""

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
        """Return the loss [] and keep the gradients of `hidden` and `head` for the backward
        pass."""
        ctx.gradients = torch.empty_like(hidden), torch.zeros_like(head)
        weights = weights.to(torch.float64 if hidden.dtype == torch.float64 else torch.float32)
        by_hidden, by_head = ctx.gradients
        sums = []
        for first in range(0, max(len(hidden), 1), rows):  # no tokens are one empty chunk
            chunk = slice(first, first + rows)
            out = None if losses is None else losses[chunk]
            states, gradient = hidden[chunk], by_hidden[chunk]
            sums.append(
                _chunk(states, head, targets[chunk], weights[chunk], gradient, by_head, soft, out)
            )
        return torch.stack(sums).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Return the kept gradients of `hidden` and `head` times the loss's gradient `scale` []."""
        by_hidden, by_head = ctx.gradients
        ctx.gradients = None  # no other reference: autograd then takes them without a copy
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
    """Return the loss [] of a chunk's N tokens and write its gradients in place: `by_states` [N, C]
    is set, `by_head` [V, C] is added to. Tensors [N, V] are freed at its end."""
    on_gpu = states.is_cuda and not isinstance(states, FakeTensor)  # a trace counts operators
    gradient_of = _compiled_gradient() if on_gpu else _gradient
    gradient, token_losses = gradient_of(states, head, targets, weights, soft)
    by_states.copy_(gradient @ head)
    by_head.addmm_(gradient.T, states)
    if losses is not None:
        losses.copy_(token_losses)
    return token_losses.sum()


def _gradient(
    states: Tensor, head: Tensor, targets: Tensor, weights: Tensor, soft: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the loss by a chunk's logits [N, V], in the head's dtype, and each
    token's loss [N] in that of the weights."""
    logits = (states @ head.T).to(weights.dtype)
    logits.sub_(logits.amax(1, keepdim=True))
    if soft is None:
        target_logits = logits.gather(1, targets[:, None])[:, 0]
    else:
        goal = soft[targets].to(weights.dtype)
        # plus the goal's own entropy, which makes the cross-entropy a divergence
        target_logits = (goal * logits - torch.xlogy(goal, goal)).sum(1)
    sums = logits.exp_().sum(1)
    logits.mul_((weights / sums)[:, None])
    if soft is not None:
        logits.addcmul_(goal, weights[:, None], value=-1)
    elif torch.compiler.is_compiling():  # a comparison joins the kernel around it, a scatter not
        ids = torch.arange(logits.shape[1], device=logits.device)
        logits = logits - weights[:, None] * (ids == targets[:, None])
    else:
        logits.scatter_add_(1, targets[:, None], -weights[:, None])
    return logits.to(head.dtype), (sums.log() - target_logits) * weights


@functools.cache
def _compiled_gradient() -> Any:
    """Return `_gradient` as one kernel: on a GPU its operators would read and write a chunk's
    logits fifteen times."""
    return torch.compile(_gradient)
