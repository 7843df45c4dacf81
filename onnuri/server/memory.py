"""How much freed memory the process keeps: with glibc, as little as costs no time. Knows no
request.

Measured under load (docs/log.md): otherwise the heap's gaps grow for minutes. With another C
library both functions do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""of mallopt(3)"""
ARENAS, LARGE_BYTES = 1, 256 * 1024


def settle() -> None:
    """Tell glibc to keep little of what is freed; called before threads begin. All threads share
    one arena, and large blocks come from the system and go back to it, instead of leaving gaps."""
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_ARENA_MAX, ARENAS)
        libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def trim() -> None:
    """Give freed memory back to the system; called every few seconds."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
