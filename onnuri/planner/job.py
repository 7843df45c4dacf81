"""Define one training job, which every estimate of this folder takes: a model, a layout, a cluster
and a batch."""

from __future__ import annotations

import functools

from onnuri.config import Config
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.parallel import EngineProfile, ParallelConfig


class Job(Config):
    """One training job. Estimates are functions of it: `step_time.step_time(job)`,
    `memory.memory(job)`, `traffic.collectives(job)`."""

    architecture: Architecture
    layout: ParallelConfig
    cluster: Cluster
    tokens: int
    """per sequence"""
    batch_tokens: int
    """of all ranks and micro-batches of an optimizer step"""
    software_year: float | None = None
    """year of the training software, such as 2025.9; None for unknown"""

    engine: EngineProfile | None = None
    """what runs the step; None for the first engine that runs the layout"""
    imbalance: float = 1.0
    """tokens that the experts of the fullest rank get, over the mean of all ranks; for memory"""

    @functools.cached_property
    def profile(self) -> EngineProfile:
        """Return the profile of the engine that runs the step: the job's own, or the first that
        runs the layout."""
        return self.engine or self.layout.engine

    @property
    def micro_batches(self) -> int:
        """Return how many micro-batches each data rank runs per optimizer step, at least 1."""
        return max(1, self.batch_tokens // (self.tokens * self.layout.dp * self.layout.micro_batch))

    @property
    def pass_tokens(self) -> float:
        """Return the tokens of one micro-batch on one rank."""
        return self.tokens * self.layout.micro_batch / self.layout.cp

    def check(self) -> None:
        """Raise ConfigError for a layout that does not divide, or a cluster that it does not
        fill."""
        self.layout.check(self.architecture, self.cluster.gpus, self.tokens, self.batch_tokens)
