"""The forward pass of any Hugging Face class in fixed shapes, for decoding on a GPU. Knows no
requests.

As in `HFForward`, the class runs unchanged over our `Cache`, but for its norms: eight small kernels
each, for which PyTorch has one. A decoding step has one of a few
shapes: its rows are padded to a size of `batch_sizes`, and attention covers the first positions up
to one of `length_limits`. What differs from step to step lies in tensors on the device, so that a
step waits for nothing on the host and can be captured in a CUDA graph: one graph per shape, when it
is first needed. A captured step costs one launch instead of some forty per layer, which is most of
a small model's time on a GPU. On a CPU the same code runs uncaptured.

Rows that pad a step are written to the cache's last position, which no sequence uses
(`Cache.static`), since the rows of the cache behind those in decode may be in prefill.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri.inference import device
from onnuri.inference.cache import ALIGNMENT, Cache
from onnuri.inference.cpu_llama import logits_of
from onnuri.inference.hf_forward import head, rows_attention

log = logging.getLogger("onnuri")
NAME = "onnuri_static"
"""under which `static_attention` is known to transformers (`model/backbone.py` sees to that)"""
SHORTEST = 4 * ALIGNMENT
"""positions of the smallest length limit"""
WARM_UPS = 2
"""steps before a capture, in which libraries choose their kernels and allocate workspaces"""


class PromptChunk(NamedTuple):
    """Ids of a prompt that follow the `at` ids which a row of the cache holds."""

    ids: list[int]
    row: int
    at: int


class StaticView:
    """Some rows of a `Cache` during one pass, with the interface of a key/value cache that
    transformers' layers call."""

    def __init__(
        self, cache: Cache, positions: Tensor, slots: Tensor, limit: int, rows: Tensor | None
    ) -> None:
        """View the first N rows of a cache, or the rows `rows` [N]. New ids have positions
        `positions` [N, T] and are written to `slots` [N, T]; attention covers the first `limit`
        positions, or the new ids alone where that is 0, since the rows are empty."""
        self.cache, self.positions, self.slots, self.limit = cache, positions, slots, limit
        self.own_rows = rows
        self.write_rows = (torch.arange(len(slots), device=slots.device) if rows is None else rows)[
            :, None
        ]
        self.masks: dict[int, Tensor] = {}
        """mask of each sliding window, 0 for none: all layers with the same window share it"""

    def update(
        self, keys: Tensor, values: Tensor, layer: int, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        """Append a layer's keys and values [N, heads, T, size] to the rows; return all that
        attention covers, each [N, heads, positions, size]."""
        stored = []
        for half, new in zip(self.cache.layers[layer], (keys, values), strict=True):
            heads, size = new.shape[1], new.shape[3]
            half[self.write_rows, :heads, self.slots, :size] = new.transpose(1, 2).to(half.dtype)
            if not self.limit:
                stored.append(new)
            elif self.own_rows is None:  # a view: nothing is copied
                stored.append(half[: len(new), :heads, : self.limit, :size])
            else:
                stored.append(half[self.own_rows, :heads, : self.limit, :size])
        return stored[0], stored[1]

    def get_seq_length(self, layer: int = 0) -> int:
        """Return how many positions attention covers; classes ask, and use it for nothing since
        they are given positions."""
        return self.limit

    def mask(self, window: int | None, dtype: torch.dtype, limit: int) -> Tensor:
        """Return what is added to attention scores, [N, 1, T, limit]: -inf at positions behind the
        new id or before its sliding window."""
        key = window or 0
        if key not in self.masks:
            own = self.positions[:, None, :, None]
            there = torch.arange(limit, device=own.device)
            seen = there <= own
            if window:
                seen = seen & (there > own - window)
            hidden = torch.zeros(seen.shape, dtype=dtype, device=own.device)
            self.masks[key] = hidden.masked_fill_(~seen, -torch.inf)
        return self.masks[key]


def static_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    cache_view: StaticView | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Return attention [N, T, heads, size] of queries [N, heads, T, size] to the ids of their own
    row, up to themselves and within the sliding window. Without a cache view the queries are the
    last of the keys."""
    if cache_view is None:  # the class by itself, as transformers' `generate` runs it
        return rows_attention(
            module, query, key, value, mask, scaling, sliding_window=sliding_window
        )
    count, heads, tokens, size = query.shape
    groups, limit = key.shape[1], key.shape[2]
    empty = not cache_view.limit
    if empty and not (sliding_window and tokens > sliding_window):
        attended = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=groups != heads
        )
        return attended.transpose(1, 2), None
    added = cache_view.mask(sliding_window, query.dtype, limit)
    if tokens == 1:
        # the query heads of a key's group stand as so many queries of one head: keys and values
        # are read once and never repeated, which a masked kernel would need for groups
        query = query.reshape(count, groups, heads // groups, size)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=scaling)
        return attended.reshape(count, 1, heads, value.shape[-1]), None
    if groups != heads:
        key, value = (x.repeat_interleave(heads // groups, 1) for x in (key, value))
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=scaling)
    return attended.transpose(1, 2), None


def batch_sizes(rows: int) -> list[int]:
    """Return the numbers of rows that steps are padded to: powers of two up to 8, then also halfway
    between them, at most `rows`."""
    sizes = [1, 2, 4, 8]
    while sizes[-1] < rows:
        low = sizes[-1]
        sizes += [low * 3 // 2, low * 2]
    return sorted({min(size, rows) for size in sizes})


def length_limits(positions: int) -> list[int]:
    """Return the numbers of positions that attention covers: 256 times a power of two and halfway
    between them, at most `positions`. At most a third is read in vain."""
    limits = [SHORTEST]
    while limits[-1] < positions:
        low = limits[-1]
        limits += [low * 3 // 2, low * 2]
    return sorted({min(limit, positions) for limit in limits})


class StaticForward:
    """A forward pass with `HFForward`'s interface in fixed shapes, bound to one static cache."""

    def __init__(self, model: Any, cache: Cache) -> None:
        """Take a transformers causal language model and a cache of `Cache.static` on the model's
        device."""
        self.model, self.cache = model, cache
        self.width, self.positions = int(model.config.hidden_size), cache.positions
        self.head = head(model).detach()
        self.device, self.dtype = self.head.device, self.head.dtype
        self.spare = cache.layers[0].shape[3] - 1
        """the position that belongs to no sequence"""
        self.batches = batch_sizes(cache.rows)
        self.limits = length_limits(self.spare + 1)
        self.captures = self.device.type == "cuda"
        """whether decoding steps are captured in CUDA graphs"""
        self.graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
        """captured steps by rows and length limit"""
        self.inputs = {
            size: torch.zeros(3, size, dtype=torch.int64, device=self.device)
            for size in self.batches
        }
        """ids, positions and slots of a step, by its rows"""
        self.states = torch.zeros(cache.rows, self.width, dtype=self.dtype, device=self.device)
        """the last hidden states of a step"""
        self.norms = _fused_norms(model)
        if self.captures:
            _use_experts_without_host(model, self.dtype)

    @torch.inference_mode()
    def decode(self, ids: list[int], lengths: list[int], cache: Cache) -> Tensor:
        """Return the last hidden states [N, C], normed, of one new id per row. The rows are the
        cache's first N and hold `lengths` ids; the new keys and values are appended."""
        assert cache is self.cache and max(lengths) < self.positions
        size = next(size for size in self.batches if size >= len(ids))
        limit = next(limit for limit in self.limits if limit > max(lengths))
        padding = [0] * (size - len(ids))
        slots = lengths + [self.spare] * len(padding)
        # from pageable memory, which is read before the call returns: nothing waits for the device
        self.inputs[size].copy_(
            torch.tensor([ids + padding, lengths + padding, slots]), non_blocking=True
        )
        graph = self._graph(size, limit) if self.captures else None
        if graph:
            graph.replay()
        else:
            self._step(size, limit)
        return self.states[: len(ids)].clone()

    def _step(self, size: int, limit: int) -> None:
        """Run one decoding step of `size` rows over `limit` positions, from `inputs` to `states`,
        without a look at any value."""
        ids, positions, slots = self.inputs[size][:, :, None]
        view = StaticView(self.cache, positions, slots, limit, None)
        self.states[:size] = self._run(ids, view)[:, 0]

    def _graph(self, size: int, limit: int) -> torch.cuda.CUDAGraph | None:
        """Return the graph of a step's shape, captured now if it is the first of it; None where the
        class cannot be captured, which is logged once."""
        if (size, limit) not in self.graphs:
            try:
                self.graphs[size, limit] = self._capture(size, limit)
            except RuntimeError as error:
                self.captures = False
                reason = str(error).strip().splitlines()[0]
                log.warning("no CUDA graphs for this model (%s): it decodes uncaptured", reason)
                return None
        return self.graphs[size, limit]

    def _capture(self, size: int, limit: int) -> torch.cuda.CUDAGraph:
        """Return the CUDA graph of a decoding step. Warm-ups write the same keys and values that
        the step itself will write."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._step(size, limit)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        # other threads may use the GPU meanwhile, for codecs
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._step(size, limit)
        return graph

    def prefill(self, ids: Tensor, row: int, at: int, cache: Cache) -> Tensor:
        """Return the last hidden states [T, C], normed, of prompt ids [T] that follow the `at` ids
        which one row of the cache holds; their keys and values are appended."""
        return self._prefill([PromptChunk(ids.tolist(), row, at)], cache)[0]

    def prefill_last(self, chunks: Sequence[PromptChunk], cache: Cache) -> list[Tensor]:
        """Return the last hidden state [C], normed, of the last id of every chunk, each of another
        row; chunks of similar lengths are run together."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for k, chunk in enumerate(chunks):
            # rows with and without ids differ in attention; padding at most doubles a chunk
            groups.setdefault((len(chunk.ids).bit_length(), chunk.at > 0), []).append(k)
        last: dict[int, Tensor] = {}
        for members in groups.values():
            states = self._prefill([chunks[k] for k in members], cache)
            ends = torch.tensor([len(chunks[k].ids) - 1 for k in members], device=self.device)
            picked = states[torch.arange(len(members), device=self.device), ends]
            last |= zip(members, picked, strict=True)
        return [last[k] for k in range(len(chunks))]

    @torch.inference_mode()
    def _prefill(self, chunks: Sequence[PromptChunk], cache: Cache) -> Tensor:
        """Return the last hidden states [N, T, C] of chunks, padded to the longest, T."""
        assert cache is self.cache
        longest = max(len(chunk.ids) for chunk in chunks)
        ids, positions, slots = [], [], []
        for chunk in chunks:
            padding = longest - len(chunk.ids)
            own = list(range(chunk.at, chunk.at + len(chunk.ids)))
            ids.append(chunk.ids + [0] * padding)
            positions.append(own + [0] * padding)
            slots.append(own + [self.spare] * padding)
        end = max(chunk.at + len(chunk.ids) for chunk in chunks)
        empty = not any(chunk.at for chunk in chunks)
        limit = 0 if empty else next(limit for limit in self.limits if limit >= end)
        packed = torch.tensor([ids, positions, slots]).to(self.device)
        rows = torch.tensor([chunk.row for chunk in chunks], device=self.device)
        return self._run(packed[0], StaticView(cache, packed[1], packed[2], limit, rows))

    def _run(self, ids: Tensor, view: StaticView) -> Tensor:
        """Return the last hidden states [N, T, C] of ids [N, T], which are appended to a view's
        rows."""
        core = self.model.model
        if core.config._attn_implementation != NAME:
            core.set_attn_implementation(NAME)
        with _replaced_forwards(self.norms):
            states: Tensor = core(
                input_ids=ids,
                position_ids=view.positions,
                past_key_values=view,
                use_cache=True,
                cache_view=view,
            ).last_hidden_state
        return states

    @torch.inference_mode()
    def logits(self, hidden: Tensor, lo: int, hi: int, extra: int | None = None) -> Tensor:
        """Return logits float32 [N, hi - lo], with one more column for `extra`, as
        `LlamaForward.logits` does."""
        return logits_of(hidden, self.head.T, lo, hi, extra).float()


def _fused_norms(model: nn.Module) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
    """Return PyTorch's fused norm for each of a model's modules that computes the same: the root
    mean square norm of Llama's kind, found by what it computes, not by its name."""
    fused: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for module in model.modules():
        epsilon, weight = getattr(module, "variance_epsilon", None), getattr(module, "weight", None)
        if epsilon is None or weight is None or weight.is_meta:
            continue
        shape = tuple(weight.shape)
        sample = torch.linspace(-1, 1, shape[0], device=weight.device)[None]
        with torch.no_grad():
            own, other = module(sample), F.rms_norm(sample, shape, weight.float(), epsilon)
        if torch.allclose(own.float(), other, rtol=1e-5, atol=1e-6):
            fused[module] = functools.partial(
                F.rms_norm, normalized_shape=shape, weight=weight, eps=epsilon
            )
    return fused


@contextmanager
def _replaced_forwards(forwards: dict[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Let modules compute by other functions meanwhile; a captured graph keeps what they did."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def _use_experts_without_host(model: Any, dtype: torch.dtype) -> None:
    """Choose the experts' implementation that waits for nothing on the host: one grouped kernel in
    bfloat16, gathered weights in other types, for which the grouped one has no kernel."""
    if model._can_set_experts_implementation():
        model.set_experts_implementation("grouped_mm" if dtype is torch.bfloat16 else "batched_mm")


def build(
    model: nn.Module, rows: int, where: torch.device, positions: int = 0
) -> tuple[Cache, StaticForward]:
    """Return a static cache on a device and the forward pass over it; the model is moved there.
    Raises ConfigError where the cache does not fit into the GPU's memory."""
    device.place(model, where)
    cache = Cache.static(model, rows, where, head(model).dtype, positions)
    return cache, StaticForward(model, cache)
