"""Attention within each of the sequences that are packed into a row, as one function that
transformers calls by name.

On a CPU one product per sequence: a mask over the whole row would cost its square, most of it for
nothing. On a GPU one kernel for all (`torch.nn.attention.varlen`), where a trial call works; its
signature differs between torch versions. Knows no model: queries may have more heads than keys, and
values another size than both (multi-head latent attention).

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
    """Make the attention known to transformers under NAME; models with other settings are not
    touched."""
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
    """Return causal attention within each sequence: query and key [1, H, T, D], value [1, H, T, E]
    to [1, T, H, E].

    Without `lengths` the row is one sequence. Keys and values may have fewer heads, and a query may
    see only `sliding_window` tokens, itself included.
    """
    lengths = lengths or [query.shape[2]]
    sizes = (query.shape[1], key.shape[1], query.shape[3], value.shape[3])
    if (
        query.is_cuda
        and len(query) == 1
        and varlen_works(query.device, query.dtype, sizes, bool(sliding_window))
    ):
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
    """Return packed attention [1, T, H, E] as one product per sequence."""
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
    """Return whether a query [T] sees a key [T]: itself and those before it, `window` in all."""
    return torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril().triu(1 - window)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    lengths: list[int],
    window: int | None,
) -> Tensor:
    """Return packed attention [1, T, H, E] by one kernel for all sequences.

    The kernel wants one size for all heads: smaller ones are filled with zeros, which change no
    product, and what a value was filled with is cut off again. Versions differ (2.11 says
    `is_causal`, 2.13 a window, a scale and grouped heads).
    """
    attend: Any = _kernel()
    known = inspect.signature(attend).parameters
    size, heads, kv_heads = max(query.shape[-1], value.shape[-1]), query.shape[1], key.shape[1]
    settings: dict[str, Any] = {}
    if "window_size" in known:
        settings["window_size"] = (
            window - 1 if window else -1,
            0,
        )  # how far to the left and to the right
    else:
        settings["is_causal"] = True
    if "scale" in known:
        settings["scale"] = scaling
    else:  # the kernel divides by the root of the size
        query = query * (scaling * math.sqrt(size))
    if heads != kv_heads:
        if "enable_gqa" in known:
            settings["enable_gqa"] = True
        else:
            key, value = (x.repeat_interleave(heads // kv_heads, 1) for x in (key, value))
    q, k, v = (
        F.pad(x, (0, size - x.shape[-1]))[0].transpose(0, 1).contiguous()
        for x in (query, key, value)
    )
    ends = (
        torch.tensor([0, *lengths])
        .cumsum(0)
        .to(device=query.device, dtype=torch.int32, non_blocking=True)
    )
    made: Tensor = attend(q, k, v, ends, ends, max(lengths), max(lengths), **settings)
    return made[None, :, :, : value.shape[-1]]


def _kernel() -> Any:
    from torch.nn.attention import varlen

    return varlen.varlen_attn


@functools.cache
def varlen_works(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int, int], windowed: bool
) -> bool:
    """Whether the kernel runs on a device, by a trial call of one type and of one shape of heads.

    `sizes`: heads of queries and of keys, the size of both and that of values.
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
    except Exception:  # another torch, another card: whatever it raises, the other way works
        return False
    return True
