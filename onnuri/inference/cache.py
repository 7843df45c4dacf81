"""Keys and values: rows that are in use, and prefixes that are kept for whoever goes on from them.
Knows no requests.

A row's memory is touched only as far as it is filled, so a cache costs what its rows are long, and
at most `bytes`.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PAGE = 16
"""ids whose keys and values are kept and shared together"""


class Cache:
    """`rows` of keys and values, the ones in use first: [2, rows, heads, positions, size] a
    layer."""

    def __init__(self, layers: int, rows: int, heads: int, positions: int, size: int) -> None:
        self.layers = [_untouched(2, rows, heads, positions, size) for _ in range(layers)]
        self.rows = rows
        self.bytes = sum(layer.nbytes for layer in self.layers)

    @classmethod
    def of(cls, model: nn.Module, rows: int) -> Cache:
        """Return the cache of a stock model. Of latent attention (MLA) it holds latents, shared by
        all heads, and the part with positions."""
        c: Any = model.config
        if rank := getattr(c, "kv_lora_rank", 0):
            heads, size = 1, max(rank, c.qk_rope_head_dim)
        else:
            heads, size = (
                c.num_key_value_heads,
                getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
            )
        return cls(c.num_hidden_layers, rows, heads, c.max_position_embeddings, size)

    def move(self, row: int, to: int, length: int) -> None:
        """Copy the first `length` ids of a row into another."""
        for layer in self.layers:
            layer[:, to, :, :length] = layer[:, row, :, :length]


def _untouched(*shape: int) -> Tensor:
    """float32 zeros that take no memory before they are written: not when they are read, as shared
    memory would, and page by page, for huge pages would take all of it."""
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    )
    memory = mmap.mmap(-1, 4 * math.prod(shape), **private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


class PrefixCache:
    """Pages of what ended rows held, the least lately used forgotten first.

    A page's key is a hash of all ids up to its end, so that whoever begins alike shares it (vLLM's
    automatic prefix caching). Pages have their places in one piece of memory: of as many bytes,
    allocated one by one, the allocator would lose a half to gaps. A page is never forgotten before
    those behind it.
    """

    def __init__(self, room: int, cache: Cache) -> None:
        _, _, heads, _, size = cache.layers[0].shape
        each = len(cache.layers) * 2 * heads * PAGE * size * 4
        self.layers = (
            [_untouched(room // each, 2, heads, PAGE, size) for _ in cache.layers]
            if room >= each
            else []
        )
        """[pages, 2, heads, PAGE, size] a layer; all of it taken at once, since it will be: memory
        shows from the start"""
        for layer in self.layers:
            layer.zero_()
        self.free = list(range(room // each))[::-1]
        self.kept: OrderedDict[bytes, int] = OrderedDict()
        """places of pages, the least lately used first"""
        self.page_bytes, self.reused = each, 0

    @property
    def held_bytes(self) -> int:
        """Return the bytes of all pages that are kept."""
        return len(self.kept) * self.page_bytes

    def insert(self, ids: list[int], cache: Cache, row: int) -> None:
        """Keep the whole pages of a row that holds `ids`."""
        keys = list(_keys(ids))[: len(self.free) + len(self.kept)]
        old = self._known(keys)
        self._touch(keys[:old])
        while len(self.free) < len(keys) - old:
            self.free.append(self.kept.popitem(last=False)[1])
        if places := [self.free.pop() for _ in keys[old:]]:
            for pages, layer in zip(self.layers, cache.layers, strict=True):
                fresh = layer[:, row, :, PAGE * old : PAGE * len(keys)]
                pages[places] = fresh.unflatten(2, (-1, PAGE)).permute(2, 0, 1, 3, 4)
        self.kept.update(zip(keys[old:], places, strict=True))
        self._touch(keys)

    def lookup(self, ids: list[int], cache: Cache, row: int) -> int:
        """Fill a row with the longest kept prefix of `ids`, all but the last at most; return its
        length, 0 for none."""
        keys = list(_keys(ids[:-1]))
        keys = keys[: self._known(keys)]
        if places := [self.kept[key] for key in keys]:
            for pages, layer in zip(self.layers, cache.layers, strict=True):
                layer[:, row, :, : PAGE * len(keys)] = (
                    pages[places].permute(1, 2, 0, 3, 4).flatten(2, 3)
                )
        self._touch(keys)
        self.reused += PAGE * len(keys)
        return PAGE * len(keys)

    def _known(self, keys: list[bytes]) -> int:
        """How many of a sequence's pages are kept."""
        return next((k for k, key in enumerate(keys) if key not in self.kept), len(keys))

    def _touch(self, keys: list[bytes]) -> None:
        for key in reversed(keys):  # the first page last
            self.kept.move_to_end(key)


def _keys(ids: list[int]) -> Iterator[bytes]:
    """A key for every whole page of a sequence."""
    page = hashlib.blake2b(digest_size=16)
    whole = np.asarray(ids[: len(ids) // PAGE * PAGE], dtype=np.int64).reshape(-1, PAGE)
    for part in whole:
        page.update(part.tobytes())
        yield page.digest()
