"""Keys and values: rows that are in use, and prefixes that are kept for whoever goes on from them. Knows no requests.

A row's memory is touched only as far as it is filled, so a cache costs what its rows are long, and at most `bytes`.
"""

from __future__ import annotations

import math
import mmap
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

SHORTEST = 16
"""ids that a prefix must share to be worth copying"""


class Cache:
    """`rows` of keys and values, the ones in use first: [2, rows, heads, positions, size] a layer."""

    def __init__(self, layers: int, rows: int, heads: int, positions: int, size: int) -> None:
        self.layers = [_untouched(2, rows, heads, positions, size) for _ in range(layers)]
        self.rows = rows
        self.bytes = sum(layer.nbytes for layer in self.layers)

    def move(self, row: int, to: int, length: int) -> None:
        for layer in self.layers:
            layer[:, to, :, :length] = layer[:, row, :, :length]

    def copy(self, row: int, length: int) -> Tensor:
        """[layers, 2, heads, length, size] of one row."""
        return torch.stack([layer[:, row, :, :length] for layer in self.layers])

    def paste(self, kept: Tensor, row: int, length: int) -> None:
        for layer, part in zip(self.layers, kept, strict=True):
            layer[:, row, :, :length] = part[:, :, :length]


def _untouched(*shape: int) -> Tensor:
    """float32 zeros that take no memory before they are written, page by page: huge pages would take all of it."""
    memory = mmap.mmap(-1, 4 * math.prod(shape))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)


class Prefixes:
    """What ended rows held, the least lately used forgotten first."""

    def __init__(self, room: int) -> None:
        self.room, self.bytes = room, 0
        self.kept: OrderedDict[int, tuple[np.ndarray, Tensor]] = OrderedDict()
        self.hits = self.reused = self._next = 0

    def keep(self, ids: list[int], cache: Cache, row: int) -> None:
        """The keys and values of a row that holds `ids`; what they go on from is no longer needed by itself."""
        new = np.asarray(ids, dtype=np.int64)
        if not self.room or len(new) < SHORTEST:
            return
        for key, (old, _) in list(self.kept.items()):
            shared = _shared(old, new)
            if shared == len(new):
                return
            if shared == len(old):
                self._forget(key)
        copied = cache.copy(row, len(new))
        self.kept[self._next] = (new, copied)
        self._next += 1
        self.bytes += copied.nbytes
        while self.bytes > self.room:
            self._forget(next(iter(self.kept)))

    def reuse(self, ids: list[int], cache: Cache, row: int) -> int:
        """Fill a row with the longest kept prefix of `ids`, all but the last at most; its length, 0 for none."""
        wanted, best, length = np.asarray(ids[:-1], dtype=np.int64), None, SHORTEST - 1
        for key, (old, _) in self.kept.items():
            if (shared := _shared(old, wanted)) > length:
                best, length = key, shared
        if best is None:
            return 0
        self.kept.move_to_end(best)
        cache.paste(self.kept[best][1], row, length)
        self.hits += 1
        self.reused += length
        return length

    def _forget(self, key: int) -> None:
        self.bytes -= self.kept.pop(key)[1].nbytes


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many ids two sequences begin with in common."""
    least = min(len(a), len(b))
    apart = np.flatnonzero(a[:least] != b[:least])
    return int(apart[0]) if len(apart) else least
