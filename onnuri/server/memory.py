"""What the process keeps of memory that it has freed: with glibc, as little as costs no time. Knows
no request.

Measured under load (docs/log.md): otherwise the heap's gaps grow for minutes. With another C
library both do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""of mallopt(3)"""
ARENAS, LARGE_BYTES = 1, 256 * 1024


def settle() -> None:
    """Keep little of what is freed; called before threads begin: one arena instead of one for each
    of them, and what is large comes from the system and goes back to it, instead of leaving
    gaps."""
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def trim() -> None:
    """Give back to the system what is free; called now and then."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
