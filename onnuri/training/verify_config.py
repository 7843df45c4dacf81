"""This module holds the settings of `onnuri verify`, apart from the code that needs torch."""

from __future__ import annotations

import math
from typing import Literal

from onnuri.config import Config
from onnuri.errors import ConfigError

FEWEST_TOKENS = 24
"""ids of a row that three sequences and padding fit in"""


class VerifyConfig(Config):
    """A VerifyConfig holds the run that is compared."""

    world_size: int = 4
    """ranks, each a process of one thread"""
    steps: int = 20
    """steps of the optimizer; the state is stored before the last quarter of them, and resumed"""
    rows: int = 4
    """rows per step, over all ranks; a multiple of the data ranks of every layout"""
    tokens: int = 48
    """ids per row"""
    learning_rate: float = 1e-3
    """of every step"""
    clip: float = 0.2
    """small enough that every step is clipped, so that clipping is compared too"""
    optimizer: Literal["adamw", "muon"] = "adamw"

    @property
    def stored_step(self) -> int:
        """Return the number of steps after which the state is stored, at least one; two or more
        follow where there are three, since an optimizer's state shows in the second's loss."""
        return max(1, self.steps - max(2, self.steps // 4))

    def check(self) -> None:
        """Raise ConfigError for numbers with which nothing is compared."""
        least = (
            ("world-size", self.world_size, 2),
            ("steps", self.steps, 2),
            ("rows", self.rows, 1),
            ("tokens", self.tokens, FEWEST_TOKENS),
        )
        for name, value, fewest in least:
            if value < fewest:
                raise ConfigError(f"--{name} {value}", f"is less than {fewest}", "give more")
        for name, number in (("learning-rate", self.learning_rate), ("clip", self.clip)):
            if not 0 < number < math.inf:  # also false for what is no number
                raise ConfigError(f"--{name} {number}", "is not above 0", "leave it out")
        if self.rows % self.world_size:
            raise ConfigError(
                f"--rows {self.rows}",
                f"is no multiple of {self.world_size} ranks",
                f"give such as {-(-self.rows // self.world_size) * self.world_size}",
            )
