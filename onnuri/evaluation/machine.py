"""The machine on which figures were measured."""

from __future__ import annotations

import platform
from pathlib import Path


def machine() -> str:
    """Return the CPU, the threads and the version of torch that figures are measured with."""
    import torch

    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
