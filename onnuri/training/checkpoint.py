"""This module writes and reads checkpoints: weights, optimizer state, step and elapsed seconds of a
run, in one file that is written atomically.

It knows no objective. The file holds tensors only, so reading it runs no pickled code.
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
    """An optimizer, or several as one, whose state can be stored."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""


ELAPSED = "spent"
"""key of the elapsed seconds in the file, as the first checkpoints have it"""


def store(
    path: Path, module: nn.Module, optimizer: Stateful, step: int, elapsed_seconds: float
) -> None:
    """Write a checkpoint under a temporary name, flush it to disk, then rename it."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(
            {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                ELAPSED: elapsed_seconds,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())  # before the rename: a power cut must not leave an empty file
    os.replace(part, path)


def restore(path: Path, module: nn.Module, optimizer: Stateful) -> tuple[int, float]:
    """Load a checkpoint into module and optimizer and return its step and elapsed seconds.

    Return (0, 0.0) if there is no file. Raises WeightsError for a damaged one or another run's.
    """
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
    return int(state["step"]), float(state[ELAPSED])
