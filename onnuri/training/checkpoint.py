"""What a run needs to go on: weights, optimizer, step and time spent, in one file that is whole or
not there.

Knows nothing of tasks. Tensors only: a checkpoint is read without running pickled code.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from onnuri.errors import WeightsError


class Stateful(Protocol):
    """An optimizer, or several."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def store(path: Path, module: nn.Module, optimizer: Stateful, step: int, spent: float) -> None:
    """Write under a temporary name, then rename."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(
            {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spent": spent,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def restore(path: Path, module: nn.Module, optimizer: Stateful) -> tuple[int, float]:
    """(step, seconds spent) of the file, put into module and optimizer; (0, 0.0) where there is
    none."""
    if not path.exists():
        return 0, 0.0
    try:
        state = torch.load(path, weights_only=True)
        module.load_state_dict(state["module"])
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            str(path),
            f"is not a checkpoint of this run ({type(error).__name__})",
            "delete the run's folder or give another with --out",
        ) from None
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["spent"])
