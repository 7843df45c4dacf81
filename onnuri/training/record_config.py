"""This module holds what a training run records beside its figures: files for TensorBoard and a
profile of some steps. Neither changes what is trained.

It imports nothing slow, for the command line reads it.
"""

from __future__ import annotations

import importlib.util
import re

from onnuri.config import Config
from onnuri.errors import ConfigError, DependencyError


class RecordConfig(Config):
    """A RecordConfig says what a training run records beside its figures."""

    tensorboard: bool = False
    """also write every line of metrics.jsonl for TensorBoard, into the folder tensorboard of each
    stage (needs the extra: pip install 'onnuri[watch]')"""
    profile_steps: str | None = None
    """steps that torch.profiler records, such as 20-22, in the first rank: a trace for
    chrome://tracing or Perfetto and the ten longest operators, into the folder profile of each
    stage; the recorded steps are slower"""

    def check(self) -> None:
        """Raise ConfigError for steps that are no range, DependencyError without TensorBoard."""
        self.profiled()
        if self.tensorboard and importlib.util.find_spec("tensorboard") is None:
            raise DependencyError(
                "--tensorboard", "needs the package tensorboard", "pip install 'onnuri[watch]'"
            )

    def profiled(self) -> range:
        """Return the numbers of the profiled steps, counted from 1. Raises ConfigError if the
        setting is not two such numbers in order."""
        if self.profile_steps is None:
            return range(0)
        match = re.fullmatch(r"(\d+)-(\d+)", self.profile_steps)
        first, last = (int(number) for number in match.groups()) if match else (0, 0)
        if not 1 <= first <= last:
            raise ConfigError(
                f"--profile-steps {self.profile_steps}",
                "is not a first and a last step, counted from 1",
                "give such as 20-22",
            )
        return range(first, last + 1)


NO_RECORD = RecordConfig()
"""nothing is recorded beside a run's figures"""
