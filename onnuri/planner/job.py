"""One training job: a model, a layout, a cluster and a batch. What every estimate of this folder
takes."""

from __future__ import annotations

from typing import Literal

from onnuri.config import Config
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.parallel import ParallelConfig

Kernels = Literal["vendor", "torch", "compiled", "eager"]
"""vendor: those of Transformer Engine, cuDNN, FlashAttention's newest; torch: PyTorch's own,
fused by hand; compiled: fused by its compiler; eager: one an operation"""


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

    kernels: Kernels = "vendor"
    """of another group's engine; Onnuri's trainer runs eager ones"""
    async_tp: bool = False
    """PyTorch's tensor parallelism sends pieces beside its products (asynchronous tensor
    parallelism) instead of waiting"""
    graphs: bool | None = None
    """kernels replayed from captured graphs instead of launched one by one; None for unknown"""
    gradient_bytes: float = 4.0
    """of one number that data ranks sum; 2 where all training is in 16 bit"""

    elsewhere: bool = False
    """trained by another group's engine though Onnuri's could: what a published run is"""
    imbalance: float = 1.0
    """tokens that the fullest rank's experts get over the mean of all ranks; for memory"""

    @property
    def ours(self) -> bool:
        """Whether the step is that of Onnuri's trainer."""
        return self.layout.engine is None and not self.elsewhere

    @property
    def kernels_of_pytorch(self) -> bool:
        """Whether PyTorch's own kernels run, compiled or not."""
        return self.ours or self.runs_kernels != "vendor"

    @property
    def runs_kernels(self) -> Kernels:
        """Whose kernels run: a plan that needs torchtitan runs PyTorch's, a published run what it
        says."""
        planned = (
            self.layout.engine == "torchtitan" and not self.elsewhere and self.kernels == "vendor"
        )
        return "torch" if planned else self.kernels

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
