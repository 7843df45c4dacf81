"""Predict the bytes that a GPU needs in training, by part: parameters, gradients, optimizer,
activations and what a step holds for a moment.

The fullest pipeline stage counts, not the mean. Knows no speed. The moments of a step in which a
GPU can be fullest are in `moments.py`.
"""

from __future__ import annotations

import math

from onnuri.config import Config
from onnuri.planner import constants
from onnuri.planner.activations import SAVED, matrices
from onnuri.planner.interval import Z80, Interval
from onnuri.planner.job import Job
from onnuri.planner.moments import PipelineStage, moments, unlike_stages

GIB = 2**30
UNSURE = 0.15
"""standard deviation that a wholly assumed architecture adds to the logarithm of measured over
predicted bytes: assumed"""


class Memory(Config):
    """The bytes of the fullest GPU at the step's fullest moment, by part."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    """kept for the backward pass by all micro-batches in flight"""
    logits: float
    """the head's outputs and what the loss keeps of them"""
    transient: float
    """gathered weights, and what one layer's backward pass needs besides"""
    buffers: float
    """buffers that live as long as the run: stand-ins for fused weight gradients, 8-bit copies of
    weights"""
    runtime: float
    """what PyTorch does not count as allocated: fragments, CUDA's context, NCCL's buffers"""
    stage: int
    """the pipeline rank that is the fullest"""
    peak_activations: float
    """activations, logits and gradients not yet sharded, at the moment when their sum is largest;
    that may be another moment than the others', so it is no part of `total`"""

    spread: float
    """standard deviation of the logarithm of measured over predicted `total`"""

    @property
    def allocated(self) -> float:
        """Return the bytes that `torch.cuda.max_memory_allocated` would report."""
        return self.total - self.runtime

    @property
    def total(self) -> float:
        """Return the bytes that must fit on the GPU: the sum of all parts."""
        return (
            self.parameters
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.transient
            + self.buffers
            + self.runtime
        )

    @property
    def range(self) -> Interval:
        """Return `total` with its 80 % interval, in bytes."""
        wide = math.exp(Z80 * self.spread)
        return Interval(low=self.total / wide, mid=self.total, high=self.total * wide)

    @property
    def low(self) -> float:
        """Return the lower end of the 80 % interval of `total`, in bytes."""
        return self.range.low

    @property
    def high(self) -> float:
        """Return the upper end of the 80 % interval of `total`, in bytes."""
        return self.range.high


def memory(job: Job) -> Memory:
    """Return the bytes of the fullest pipeline stage at its fullest moment, as the job's engine
    runs the step."""
    fullest = max(map(_stage_memory, unlike_stages(job)), key=lambda m: m.allocated)
    unsure = job.architecture.unsure
    return fullest.replace(spread=fullest.spread + UNSURE * unsure) if unsure else fullest


def _stage_memory(stage: PipelineStage) -> Memory:
    """Return the memory of one pipeline stage at its fullest moment, with what the allocator and
    the libraries take besides."""
    fitted, sharded = constants.values(), stage.job.layout.sharded
    parameters, optimizer = _states(stage)
    listed = moments(stage)
    full = max(listed, key=sum)
    buffers, spread = 0.0, "memory_spread"
    if not stage.job.profile.transformers:
        buffers = 0.0 if sharded else _buffers(stage)
        spread = "memory_spread_fsdp" if sharded else "memory_spread"
    fragments = (fitted["memory_reserved"] - 1) * (parameters + optimizer + sum(full) + buffers)
    return Memory(
        parameters=parameters,
        gradients=full.gradients,
        optimizer=optimizer,
        activations=full.activations,
        logits=full.logits,
        transient=full.backward_bytes + full.gathered,
        buffers=buffers,
        stage=stage.rank,
        runtime=fragments + fitted["memory_context"] * GIB,
        spread=fitted[spread],
        peak_activations=max(m.activations + m.logits + m.backward_bytes for m in listed),
    )


def _states(stage: PipelineStage) -> tuple[float, float]:
    """Return the bytes of parameters and optimizer on one rank of a stage.

    `fully_shard` keeps 32-bit parameters and two moments, 4 + 8 bytes per number, all divided by
    data ranks; on one GPU a copy in 16 bits stands beside them. Megatron-Core keeps 2 + 12 (a
    32-bit copy and two moments), the 12 divided with its distributed optimizer.
    """
    layout = stage.job.layout
    if stage.job.profile.whole_weights:
        return (4 + 2) * stage.total.whole, 8 * stage.total.whole
    if layout.sharded or stage.job.profile.transformers:
        return 4 * stage.total.shard, 8 * stage.total.shard
    return 2 * stage.total.whole, 12 * (
        stage.total.shard if layout.sharding == "zero1" else stage.total.whole
    )


def _buffers(stage: PipelineStage) -> float:
    """Return the bytes of Transformer Engine's buffers on a stage, which live as long as the run.

    It keeps one 16-bit stand-in per shape of weight and hands it to autograd in place of gradients
    that are summed in 32 bits elsewhere (`get_dummy_wgrad`, from 2.3 on, experts' from 2.10 on);
    below 16 bits, weights stand also as rows and as columns.
    """
    a, layout = stage.job.architecture, stage.job.layout
    shapes = {s for each, _ in stage.layers for s in matrices(each.block, a.hidden, layout)}
    if stage.rank == layout.pp - 1:
        shapes.add((a.vocabulary / layout.tp, a.hidden))
    copies = 0.0 if layout.precision == "bf16" else 2 * SAVED[layout.precision]
    return 2 * sum(rows * columns for rows, columns in shapes) + copies * stage.total.whole
