"""This module computes attention with dropout whose masks do not depend on how a model is shared.

A mask is drawn for all heads of a layer from a generator of its own, whose seed follows from that
of the row (`torch.initial_seed`, which training sets for each row) and the layer's number. A rank
that has a part of the heads takes that part of the mask. Any layout, and a layer that is computed
again in the backward pass, therefore leave out what one process leaves out. It costs memory for all
attention weights, as dropout does in every implementation without a fused kernel.

It knows no mesh: `tell_part` says which heads a rank has. B rows, H heads, T tokens, D and E sizes
of a query's and a value's head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from onnuri.errors import ConfigError

PART = "onnuri_head_part"
"""attribute of attention modules: which part of the heads this rank has, counted from 0"""
PACKED = "onnuri_packed"
"""name of the attention that calls `with_dropout` (`attention.py`)"""


def tell_part(network: nn.Module, part: int) -> None:
    """Tell every attention module of a network which part of its heads this rank has.

    A module with dropout then refuses, at its first call, any other attention than ours, which
    would draw a mask for its own heads.
    """
    for module in network.modules():
        if hasattr(module, "attention_dropout"):
            setattr(module, PART, part)
            if module.attention_dropout:
                module.register_forward_pre_hook(_refuse_other)


def _refuse_other(module: Any, _: Any) -> None:
    """Raise ConfigError if a module computes its attention by another function than ours."""
    if module.training and module.config._attn_implementation != PACKED:
        raise ConfigError(
            f"attention dropout {module.attention_dropout:g}",
            f"would differ between tensor-parallel ranks by {module.config._attn_implementation!r}",
            f"use {PACKED!r}, or no tensor parallelism",
        )


@torch.compiler.disable  # seeds and lengths are the host's, and would be compiled as constants
def with_dropout(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    lengths: list[int],
    window: int | None,
    dropout: float,
) -> Tensor:
    """Return packed attention [B, T, H, E] with a share `dropout` of its weights left out.

    `query` and `key` are [B, H, T, D], `value` [B, H, T, E]; keys and values may have fewer heads.
    `lengths` are the tokens of a row's sequences.
    """
    heads = query.shape[1]
    all_heads = max(heads, module.config.num_attention_heads)
    first = heads * getattr(module, PART) if heads < all_heads else 0
    generator = _generator(module.layer_idx, query.device)
    key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
    parts = []
    for q, k, v in zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True):
        rows, tokens = len(q), q.shape[2]
        # in 32 bits whatever the weights' dtype, so that each dtype draws the same mask
        numbers = torch.rand(
            (rows, all_heads, tokens, tokens),
            generator=generator,
            device=q.device,
            dtype=torch.float32,
        )
        kept = numbers[:, first : first + heads] >= dropout
        scores = (q @ k.transpose(2, 3) * scaling).masked_fill(
            ~_visible(tokens, window, q.device), -torch.inf
        )
        wide = torch.promote_types(q.dtype, torch.float32)
        weights = scores.softmax(-1, dtype=wide) * kept / (1 - dropout)
        parts.append(weights.to(v.dtype) @ v)
    return torch.cat(parts, 2).transpose(1, 2)


def _generator(layer: int, device: torch.device) -> torch.Generator:
    """Return the generator of a layer's masks for the row whose seed was set last."""
    # a prime beyond the number of layers keeps the layers of one row's seed from the next one's
    seed = (torch.initial_seed() * 10_007 + layer) % (1 << 63)
    return torch.Generator(device).manual_seed(seed)


def _visible(tokens: int, window: int | None, device: torch.device) -> Tensor:
    """Return the mask bool [T, T] of the keys that each query attends to."""
    visible = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    return visible.triu(1 - window) if window else visible
