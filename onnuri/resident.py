"""This module tells how much memory this process holds, as the system counts it. It knows no
GPU."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def resident_bytes(field: str) -> int:
    """Return the bytes of this process's resident memory: VmRSS now, VmHWM at most.

    On systems without /proc it is the most so far for both.
    """
    known = status_bytes(field)
    if known is not None:
        return known
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def status_bytes(field: str) -> int | None:
    """Return the bytes that /proc says of this process in a field, None where there is none."""
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.exists() else ():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
