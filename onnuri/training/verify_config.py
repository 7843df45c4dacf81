"""This module holds the settings of `onnuri verify`, apart from the code that needs torch."""

from __future__ import annotations

from typing import Literal

from onnuri.config import Config


class VerifyConfig(Config):
    """A VerifyConfig holds the run that is compared."""

    world_size: int = 4
    """ranks, each a process of one thread"""
    steps: int = 20
    """steps of the optimizer; the state is stored and resumed at half of them"""
    rows: int = 4
    """rows per step, over all ranks; a multiple of the data ranks of every layout"""
    tokens: int = 48
    """ids per row"""
    learning_rate: float = 1e-3
    """of every step"""
    clip: float = 0.2
    """small enough that every step is clipped, so that clipping is compared too"""
    optimizer: Literal["adamw", "muon"] = "adamw"
