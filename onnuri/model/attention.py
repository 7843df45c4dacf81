"""This module computes attention within each sequence of a packed row, as one function that
transformers calls by name.

On a CPU it runs once per sequence: a mask over the whole row would cost the square of its length,
most of it masked out. On a GPU one kernel does all sequences (`torch.nn.attention.varlen`), if a
trial call works; its signature differs between torch versions. The module knows no model: queries
may have more heads than keys, and values another head size than both (multi-head latent attention).

B = 1 row, H heads, T tokens, D and E sizes of a query's and a value's head, N sequences.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "onnuri_packed"


@functools.cache
def register() -> None:
    """Register the attention in transformers under NAME; models with other settings are not
    affected."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    scaling: float,
    lengths: list[int] | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Return causal attention [1, T, H, E] within each sequence of a row, and None for its weights.

    `query` and `key` are [1, H, T, D], `value` [1, H, T, E]; keys and values may have fewer heads.
    `lengths` are the tokens per sequence; without them the row is one sequence. With a
    `sliding_window` a query attends to that many tokens, itself included.
    """
    lengths = lengths or [query.shape[2]]
    sizes = (query.shape[1], key.shape[1], query.shape[3], value.shape[3])
    packed_on_gpu = query.is_cuda and len(query) == 1
    if packed_on_gpu and varlen_works(query.device, query.dtype, sizes, bool(sliding_window)):
        return varlen(query, key, value, scaling, lengths, sliding_window), None
    return by_sequence(query, key, value, scaling, lengths, sliding_window), None


def by_sequence(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    lengths: list[int],
    window: int | None,
) -> Tensor:
    """Return packed attention [1, T, H, E], computed one sequence at a time."""
    grouped = key.shape[1] != query.shape[1]
    parts = []
    for q, k, v in zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True):
        tokens = q.shape[2]
        mask = _window(tokens, window, q.device) if window and tokens > window else None
        parts.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(parts, 2).transpose(1, 2)


@functools.lru_cache(maxsize=256)
def _window(tokens: int, window: int, device: torch.device) -> Tensor:
    """Return the mask bool [T, T] of queries by keys: a query attends to itself and those before
    it, `window` in all."""
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril().triu(1 - window)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    lengths: list[int],
    window: int | None,
) -> Tensor:
    """Return packed attention [1, T, H, E], computed by one kernel for all sequences.

    The kernel takes one head size for queries, keys and values: smaller heads are padded with
    zeros, which change no product, and the output is cut to the values' size. Its parameters differ
    by version (torch 2.11 has `is_causal`; 2.13 a window, a scale and grouped heads).
    """
    kernel: Any = _kernel()
    parameters = inspect.signature(kernel).parameters
    size, heads, kv_heads = max(query.shape[-1], value.shape[-1]), query.shape[1], key.shape[1]
    settings: dict[str, Any] = {}
    if "window_size" in parameters:
        # tokens to the left and to the right of a query; -1: all
        settings["window_size"] = (window - 1 if window else -1, 0)
    else:
        settings["is_causal"] = True
    if "scale" in parameters:
        settings["scale"] = scaling
    else:  # the kernel divides by the root of the head size
        query = query * (scaling * math.sqrt(size))
    if heads != kv_heads:
        if "enable_gqa" in parameters:
            settings["enable_gqa"] = True
        else:
            key, value = (x.repeat_interleave(heads // kv_heads, 1) for x in (key, value))
    q, k, v = (
        F.pad(x, (0, size - x.shape[-1]))[0].transpose(0, 1).contiguous()
        for x in (query, key, value)
    )
    ends = torch.tensor([0, *lengths]).cumsum(0)
    ends = ends.to(device=query.device, dtype=torch.int32, non_blocking=True)
    output: Tensor = kernel(q, k, v, ends, ends, max(lengths), max(lengths), **settings)
    return output[None, :, :, : value.shape[-1]]


def _kernel() -> Any:
    """Return PyTorch's attention over sequences of different lengths."""
    from torch.nn.attention import varlen

    return varlen.varlen_attn


@functools.cache
def varlen_works(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int, int], windowed: bool
) -> bool:
    """Return whether the kernel runs on a device with some dtype and head sizes, by a trial call.

    `sizes` are the number of heads of queries and of keys, the head size of both, and that of
    values.
    """
    try:
        if windowed and "window_size" not in inspect.signature(_kernel()).parameters:
            return False
        heads, kv_heads, size, values = sizes
        query, key, value = (
            torch.zeros(1, count, 8, width, dtype=dtype, device=device)
            for count, width in ((heads, size), (kv_heads, size), (kv_heads, values))
        )
        varlen(query, key, value, 1.0, [3, 5], 2 if windowed else None)
    except Exception:  # whatever another torch or card raises, `by_sequence` works
        return False
    return True
