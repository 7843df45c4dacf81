"""This module describes the machine on which figures were measured."""

from __future__ import annotations

import platform
from pathlib import Path


def machine() -> str:
    """Return the machine of a measurement in words: CPU, number of threads and version of torch."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"
