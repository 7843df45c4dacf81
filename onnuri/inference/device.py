"""The device on which a model decodes, checked before anything is loaded. Knows no models."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from onnuri.errors import ConfigError

DeviceName = Literal["cpu", "cuda"]


def find(name: str) -> torch.device:
    """Return a device by name. Raises ConfigError for an unknown name, and for "cuda" where torch
    sees no GPU."""
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}", "is not known", "use one of cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda", "needs a CUDA GPU, and torch sees none", "use --device cpu"
        )
    return torch.device(name)


def place(model: Any, device: torch.device) -> nn.Module:
    """Move a model to a device in place, all dtypes unchanged, and return it."""
    if any(p.device.type != device.type for p in model.parameters()):
        model.to(device)
    return model  # type: ignore[no-any-return]
