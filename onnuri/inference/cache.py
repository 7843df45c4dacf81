"""The key/value cache: rows of sequences in use, and a prefix cache that fills the rows of later
prompts. Knows no requests.

On a CPU a row's memory is touched only as far as it is filled, so a cache costs what its rows are
long, and at most `bytes`. On a GPU all of it is taken at once.
"""

from __future__ import annotations

import hashlib
import logging
import math
import mmap
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnuri.errors import ConfigError

PAGE = 16
"""ids whose keys and values are cached and shared together"""
ALIGNMENT = 64
"""positions of a static cache are a multiple of this, so that every length of attention is one that
the kernels' tiles and masks divide"""
CPU = torch.device("cpu")
FREE_SHARE = 0.8
"""share of a GPU's free memory that a cache may take; the rest is for what passes compute"""
FEWEST = 256
"""positions with which a cache on a GPU is worth having"""
log = logging.getLogger("onnuri")


class Cache:
    """Keys and values of `rows` sequences, the ones in use first: one tensor [2, rows, heads,
    positions, head size] per layer, float32 on a CPU."""

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        positions: int,
        size: int,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Allocate the keys and values of all layers; `size` is the size of a head."""
        self.layers = [
            _zeros(2, rows, heads, positions, size, device=device, dtype=dtype)
            for _ in range(layers)
        ]
        self.rows, self.positions = rows, positions
        """sequences, and the most ids of each"""
        self.bytes = sum(layer.nbytes for layer in self.layers)

    @classmethod
    def of(cls, model: nn.Module, rows: int) -> Cache:
        """Return an empty cache in the shapes of a Hugging Face model. For latent attention (MLA)
        it holds the latents, which all heads share, and the keys' part that carries positions."""
        c: Any = model.config
        return cls(*_shape(model, rows, c.max_position_embeddings))

    @classmethod
    def static(
        cls,
        model: nn.Module,
        rows: int,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
        positions: int = 0,
    ) -> Cache:
        """Return an empty cache for `StaticForward`, of `positions` ids per row; if that is 0, as
        many as the model has, and on a GPU no more than fit.

        The last position in memory belongs to no sequence: what a padded step computes for nobody
        is written there. Raises ConfigError where a GPU has too little memory free.
        """
        limit = int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
        limit = min(positions or limit, limit)
        if device.type == "cuda":
            per_position = 2 * math.prod(_shape(model, rows, 1)) * dtype.itemsize
            limit = _fitting(limit, per_position, bool(positions), rows, device)
        shape = _shape(model, rows, -(-(limit + 1) // ALIGNMENT) * ALIGNMENT)
        cache = cls(*shape, device, dtype)
        cache.positions = limit
        return cache

    def move(self, row: int, to: int, length: int) -> None:
        """Copy the first `length` positions of one row into the row `to`, in every layer."""
        for layer in self.layers:
            layer[:, to, :, :length] = layer[:, row, :, :length]


def _shape(model: nn.Module, rows: int, positions: int) -> tuple[int, int, int, int, int]:
    """Return layers, rows, heads, positions and head size of a Hugging Face model's cache."""
    c: Any = model.config
    if rank := getattr(c, "kv_lora_rank", 0):
        heads, size = 1, max(rank, c.qk_rope_head_dim)
    else:
        heads, size = (
            c.num_key_value_heads,
            getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
        )
    return c.num_hidden_layers, rows, heads, positions, size


def _fitting(limit: int, per_position: int, strict: bool, rows: int, device: torch.device) -> int:
    """Return how many positions of all rows fit into a GPU's free memory, `limit` at most, where
    each takes `per_position` bytes. Raises ConfigError where fewer fit than are needed: `limit` if
    `strict`, else `FEWEST`."""
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    fitting = int(FREE_SHARE * free) // per_position - ALIGNMENT  # what is rounded up
    needed = limit if strict else min(limit, FEWEST)
    if fitting < needed:
        raise ConfigError(
            f"a cache of {rows} rows of {needed} positions",
            f"takes {needed * per_position / 2**30:.1f} GiB, and the GPU has "
            f"{free / 2**30:.1f} GiB free",
            "give fewer rows or positions",
        )
    if fitting < limit:
        log.info("the GPU has room for %d of the model's %d positions per row", fitting, limit)
    return min(limit, fitting)


def _zeros(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return zeros of a shape on a device; on a CPU their memory is taken as it is written."""
    if device.type == "cpu" and dtype is torch.float32:
        return _lazy_zeros(*shape)
    return torch.zeros(shape, device=device, dtype=dtype)


def _lazy_zeros(*shape: int) -> Tensor:
    """Return float32 zeros of a shape whose memory is taken page by page as it is written. Shared
    memory would be taken by reading too, and huge pages would take all of it at once."""
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    )
    memory = mmap.mmap(-1, 4 * math.prod(shape), **private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


class PrefixCache:
    """A prefix cache: pages of keys and values of ended sequences, the least recently used evicted
    first.

    A page's key is a hash of all ids up to its end, so that equal prefixes share it (vLLM's
    automatic prefix caching). All pages lie in one piece of memory: if they were allocated one by
    one, the allocator would lose half of it to gaps. A page is never evicted before those behind
    it.
    """

    def __init__(self, room: int, cache: Cache) -> None:
        """Allocate as many pages as fit into `room` bytes, in the shapes of `cache`."""
        _, _, heads, _, size = cache.layers[0].shape
        self.device, dtype = cache.layers[0].device, cache.layers[0].dtype
        bytes_per_page = len(cache.layers) * 2 * heads * PAGE * size * dtype.itemsize
        pages = room // bytes_per_page
        self.layers = (
            [
                _zeros(pages, 2, heads, PAGE, size, device=self.device, dtype=dtype)
                for _ in cache.layers
            ]
            if pages
            else []
        )
        """[pages, 2, heads, PAGE, size] a layer; all of it taken at once, since it will be: memory
        shows from the start"""
        for layer in self.layers:
            layer.zero_()
        self.free = list(range(pages))[::-1]
        self.page_index: OrderedDict[bytes, int] = OrderedDict()
        """the place of each cached page, by its key, the least recently used first"""
        self.page_bytes, self.reused = bytes_per_page, 0

    @property
    def held_bytes(self) -> int:
        """Return the bytes of all pages that are cached now."""
        return len(self.page_index) * self.page_bytes

    def insert(self, ids: list[int], cache: Cache, row: int) -> None:
        """Cache the full pages of a row of `cache` that holds the ids `ids`; pages are evicted
        where none is free."""
        keys = list(_page_keys(ids))[: len(self.free) + len(self.page_index)]
        old = self._count_cached(keys)  # pages that are cached already
        self._touch(keys[:old])
        while len(self.free) < len(keys) - old:
            self.free.append(self.page_index.popitem(last=False)[1])
        if places := [self.free.pop() for _ in keys[old:]]:
            index = torch.tensor(places, device=self.device)
            for pages, layer in zip(self.layers, cache.layers, strict=True):
                fresh = layer[:, row, :, PAGE * old : PAGE * len(keys)]
                pages[index] = fresh.unflatten(2, (-1, PAGE)).permute(2, 0, 1, 3, 4)
        self.page_index.update(zip(keys[old:], places, strict=True))
        self._touch(keys)

    def lookup(self, ids: list[int], cache: Cache, row: int) -> int:
        """Copy the longest cached prefix of `ids` into a row of `cache` and return its length in
        ids, 0 for none. The last id is never among them, since prefill must compute its hidden
        state."""
        keys = list(_page_keys(ids[:-1]))
        keys = keys[: self._count_cached(keys)]
        if places := [self.page_index[key] for key in keys]:
            index = torch.tensor(places, device=self.device)
            for pages, layer in zip(self.layers, cache.layers, strict=True):
                layer[:, row, :, : PAGE * len(keys)] = (
                    pages[index].permute(1, 2, 0, 3, 4).flatten(2, 3)
                )
        self._touch(keys)
        self.reused += PAGE * len(keys)
        return PAGE * len(keys)

    def _count_cached(self, keys: list[bytes]) -> int:
        """Return how many of a sequence's first pages are cached, by the keys of its pages."""
        return next((k for k, key in enumerate(keys) if key not in self.page_index), len(keys))

    def _touch(self, keys: list[bytes]) -> None:
        """Mark pages as the most recently used, the first page last, so that it outlives those
        behind it."""
        for key in reversed(keys):  # the first page last
            self.page_index.move_to_end(key)


def _page_keys(ids: list[int]) -> Iterator[bytes]:
    """Yield one key per full page of a sequence: the hash of all ids up to the page's end."""
    page = hashlib.blake2b(digest_size=16)
    whole = np.asarray(ids[: len(ids) // PAGE * PAGE], dtype=np.int64).reshape(-1, PAGE)
    for part in whole:
        page.update(part.tobytes())
        yield page.digest()
