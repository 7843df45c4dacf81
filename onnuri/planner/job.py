"""One training job: a model, a layout, a cluster and a batch. What every estimate of this folder
takes."""

from __future__ import annotations

import functools

from onnuri.config import Config
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.parallel import EngineProfile, ParallelConfig


class Job(Config):
    """Estimates are functions of a job: `step_time.step_time(job)`, `memory.memory(job)`,
    `traffic.collectives(job)`."""

    architecture: Architecture
    layout: ParallelConfig
    cluster: Cluster
    tokens: int
    """a sequence"""
    batch_tokens: int
    """all ranks and micro-batches of an optimizer step"""
    software_year: float | None = None
    """year of the training software, such as 2025.9; None for unknown"""

    engine: EngineProfile | None = None
    """what runs the step; None for the first engine that runs the layout"""
    imbalance: float = 1.0
    """tokens that the fullest rank's experts get over the mean of all ranks; for memory"""

    @functools.cached_property
    def profile(self) -> EngineProfile:
        """Return the engine that runs the step."""
        return self.engine or self.layout.engine

    @property
    def micro_batches(self) -> int:
        """Passes of a data rank in a step."""
        return max(1, self.batch_tokens // (self.tokens * self.layout.dp * self.layout.micro_batch))

    @property
    def pass_tokens(self) -> float:
        """Of a rank and micro-batch."""
        return self.tokens * self.layout.micro_batch / self.layout.cp

    def check(self) -> None:
        """Raises ConfigError for a layout that does not divide, or a cluster it does not fill."""
        self.layout.check(self.architecture, self.cluster.gpus, self.tokens, self.batch_tokens)
