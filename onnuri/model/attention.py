"""This module computes attention within each sequence of a packed row, as one function that
transformers calls by name.

Sequences of equal length are a batch. Others run one after another on a CPU: a mask over the whole
row would cost the square of its length, most of it masked out. On a GPU one kernel does all
sequences (`torch.nn.attention.varlen`), if a trial call works; its signature differs between torch
versions. The module knows no model: queries
may have more heads than keys, and values another head size than both (multi-head latent attention).

B = 1 row, H heads, T tokens, D and E sizes of a query's and a value's head, N sequences.
"""

from __future__ import annotations

import functools
import inspect
import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from onnuri.errors import ConfigError
from onnuri.model import attention_dropout

NAME = attention_dropout.PACKED
UNKNOWN = ("softcap", "s_aux")
"""settings of a class's attention that the kernels here leave out: a cap of the scores, and
sinks"""
ENDS = 64
"""multiple to which a row's number of sequence ends is padded: compiled layers see few sizes"""
PREFERRED = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""kernels of attention on a GPU, the first that takes a call's sizes and dtype runs"""


@functools.cache
def register() -> None:
    """Register the attention in transformers under NAME; models with other settings are not
    affected."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)


class RowSequences:
    """RowSequences holds the lengths of a packed row's sequences, on the host and, for a GPU's
    kernel, on the device.

    A row's object is made once and read by all layers. Compiled layers read only `equal` and what
    is on the device, so that rows of other lengths are not compiled again.
    """

    def __init__(self, lengths: list[int], device: torch.device | None = None) -> None:
        """Take the tokens per sequence; `device` is where the row is, None for a CPU."""
        self.lengths = lengths
        self.equal = len(lengths) if len(set(lengths)) == 1 else 0
        """number of sequences if all are of one length, else 0"""
        self.ends: Tensor | None = None
        """`padded_ends` on the device"""
        self.longest = 1 << (max(lengths) - 1).bit_length()
        """tokens of the longest sequence, rounded up to a power of two"""
        if device is not None and device.type != "cpu":
            self.ends = padded_ends(lengths).to(device, non_blocking=True)


def padded_ends(lengths: list[int]) -> Tensor:
    """Return where each of a row's sequences begins and the row's end, repeated up to a multiple of
    ENDS, int32, on the host."""
    starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return F.pad(starts, (0, -len(starts) % ENDS), value=int(starts[-1]))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    scaling: float,
    sequences: RowSequences | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Return causal attention [1, T, H, E] within each sequence of a row, and None for its weights.

    `query` and `key` are [1, H, T, D], `value` [1, H, T, E]; keys and values may have fewer heads.
    Without `sequences` each row is one sequence, and there may be B rows. With a `sliding_window` a
    query attends to that many tokens, itself included. `dropout` is the share of attention weights
    that are left out, which no fused kernel does alike on every layout (`attention_dropout.py`).
    Raises ConfigError for a setting that would be left out.
    """
    for name in UNKNOWN:
        if rest.get(name) is not None:
            raise ConfigError(
                f"{type(module).__name__} with {name}",
                "is not computed in packed rows",
                "train a model without it",
            )
    tokens = query.shape[2]
    if dropout:
        return _dropped(
            module, query, key, value, scaling, sequences, sliding_window, dropout
        ), None
    count = sequences.equal if sequences else 1
    if count and not (sliding_window and tokens // count > sliding_window):
        return as_batch(query, key, value, scaling, count), None
    sizes = (query.shape[1], key.shape[1], query.shape[3], value.shape[3])
    if (
        sequences
        and sequences.ends is not None
        and varlen_works(query.device, query.dtype, sizes, bool(sliding_window))
    ):
        return varlen(query, key, value, scaling, sequences, sliding_window), None
    return _apart(query, key, value, scaling, sequences, sliding_window), None


def as_batch(query: Tensor, key: Tensor, value: Tensor, scaling: float, count: int) -> Tensor:
    """Return packed attention [B, T, H, E] of `count` sequences of equal length as one batch.

    On a GPU, cuDNN's kernel is preferred: it knows instructions of Hopper and later that PyTorch's
    FlashAttention-2 does not (35 % of an H100's peak against 75 %, arXiv 2407.08608).
    """
    rows, _, tokens, _ = query.shape
    if count > 1:
        query, key, value = (
            x[0].unflatten(1, (count, tokens // count)).transpose(0, 1) for x in (query, key, value)
        )
    grouped = key.shape[1] != query.shape[1]
    with sdpa_kernel(PREFERRED, set_priority=True) if query.is_cuda else nullcontext():
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=grouped
        )
    return attended.transpose(1, 2).reshape(rows, tokens, query.shape[1], value.shape[-1])


@torch.compiler.disable
def _dropped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    sequences: RowSequences | None,
    window: int | None,
    dropout: float,
) -> Tensor:
    """Return packed attention [1, T, H, E] of which a share of weights is left out."""
    lengths = sequences.lengths if sequences else [query.shape[2]]
    return attention_dropout.with_dropout(
        module, query, key, value, scaling, lengths, window, dropout
    )


@torch.compiler.disable  # or it would be compiled again for every row's lengths
def _apart(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    sequences: RowSequences | None,
    window: int | None,
) -> Tensor:
    """Return packed attention [1, T, H, E] by `by_sequence`."""
    lengths = sequences.lengths if sequences else [query.shape[2]]
    return by_sequence(query, key, value, scaling, lengths, window)


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
    sequences: RowSequences,
    window: int | None,
) -> Tensor:
    """Return packed attention [1, T, H, E], computed by one kernel for all sequences.

    The kernel takes one head size for queries, keys and values: smaller heads are padded with
    zeros, which change no product, and the output is cut to the values' size. Its parameters differ
    by version (torch 2.11 has `is_causal`; 2.13 a window, a scale and grouped heads).
    """
    kernel, parameters = _kernel(), _kernel_parameters()
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
    ends, longest = sequences.ends, sequences.longest
    output: Tensor = kernel(q, k, v, ends, ends, longest, longest, **settings)
    return output[None, :, :, : value.shape[-1]]


def _kernel() -> Any:
    """Return PyTorch's attention over sequences of different lengths."""
    from torch.nn.attention import varlen

    return varlen.varlen_attn


@torch.compiler.assume_constant_result
def _kernel_parameters() -> tuple[str, ...]:
    """Return the names of the kernel's parameters."""
    return tuple(inspect.signature(_kernel()).parameters)


@torch.compiler.assume_constant_result
def varlen_works(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int, int], windowed: bool
) -> bool:
    """Return whether the kernel runs on a device with some dtype and head sizes, by a trial call.

    `sizes` are the number of heads of queries and of keys, the head size of both, and that of
    values.
    """
    return trial(device, dtype, sizes, windowed)


@functools.cache
def trial(
    device: torch.device, dtype: torch.dtype, sizes: tuple[int, int, int, int], windowed: bool
) -> bool:
    """Return what `varlen_works` does, by a call that is made once."""
    try:
        if windowed and "window_size" not in _kernel_parameters():
            return False
        heads, kv_heads, size, values = sizes
        query, key, value = (
            torch.zeros(1, count, 8, width, dtype=dtype, device=device)
            for count, width in ((heads, size), (kv_heads, size), (kv_heads, values))
        )
        sequences = RowSequences([3, 5], device)
        varlen(query, key, value, 1.0, sequences, 2 if windowed else None)
    except Exception:  # whatever another torch or card raises, `by_sequence` works
        return False
    return True
