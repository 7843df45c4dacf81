"""Predict the bytes that a GPU needs in training, by part: parameters, gradients, optimizer,
activations and what a step holds for a moment.

The fullest pipeline stage counts, not the mean. Knows no speed. What a layer keeps is in
`activations.py`, which layers a rank holds in `pipeline_stages.py`.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from onnuri.config import Config
from onnuri.planner import constants
from onnuri.planner.activations import (
    SAVED,
    LayerBytes,
    matrices,
    megatron_layer,
    torch_compiled_layer,
    torch_eager_layer,
)
from onnuri.planner.architecture import Block
from onnuri.planner.fsdp_groups import embedding, layer, root
from onnuri.planner.interval import Z80, Interval
from onnuri.planner.job import Job
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.pipeline_stages import ends, in_flight, shards, stage_layers
from onnuri.planner.weights import Weights, layer_weights

GIB = 2**30
UNSURE = 0.15
"""standard deviation that a wholly assumed architecture adds to the logarithm of measured over
predicted bytes: assumed"""
CHUNK = 1024
"""tokens whose logits Onnuri's trainer has in memory at once: `model/cross_entropy.py`, ROWS"""


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
    """Return the bytes of the fullest pipeline stage as the job's engine runs it: with operators of
    transformers (Onnuri's trainer), or with fused kernels (Megatron-Core, torchtitan)."""
    if job.profile.transformers:
        fullest = _OwnStep(job).fullest()
    else:
        step = _FusedStep(job)
        fullest = max((step.stage(k) for k in step.unlike()), key=lambda m: m.allocated)
    unsure = job.architecture.unsure
    return fullest.replace(spread=fullest.spread + UNSURE * unsure) if unsure else fullest


class Moment(NamedTuple):
    """Bytes that live at one point of a step, beside parameters and optimizer."""

    gradients: float = 0.0
    """sharded gradients that exist already"""
    activations: float = 0.0
    logits: float = 0.0
    backward_bytes: float = 0.0
    """what one layer's backward pass needs, its gradients not yet sharded"""
    gathered: float = 0.0
    """whole weights, and the buffers that collectives write"""


def _memory_at_fullest(
    stage: int,
    parameters: float,
    optimizer: float,
    moments: list[Moment],
    buffers: float = 0.0,
    spread: str = "memory_spread",
) -> Memory:
    """Return the memory of a pipeline stage at the fullest of its `moments`, with what the
    allocator and the libraries take besides. `spread` names the fitted constant of the prediction's
    error."""
    full = max(moments, key=sum)
    runtime = (constants.values()["memory_reserved"] - 1) * (
        parameters + optimizer + sum(full) + buffers
    )
    return Memory(
        parameters=parameters,
        gradients=full.gradients,
        optimizer=optimizer,
        activations=full.activations,
        logits=full.logits,
        transient=full.backward_bytes + full.gathered,
        buffers=buffers,
        stage=stage,
        runtime=runtime + constants.values()["memory_context"] * GIB,
        spread=constants.values()[spread],
        peak_activations=max(m.activations + m.logits + m.backward_bytes for m in moments),
    )


class _FusedStep:
    """A training step of engines with fused kernels (Megatron-Core, torchtitan): it gives the
    memory of each pipeline stage, and counts once what the stages share."""

    def __init__(self, job: Job) -> None:
        self.job, self.layout, self.a = job, job.layout, job.architecture
        self.sharded = self.layout.sharded
        alike = self.a.alike  # blocks of one kind are counted once
        weights = {
            k: layer_weights(self.a.blocks[k], self.a.hidden, self.layout) for k in set(alike)
        }
        layer_bytes = {k: self._layer_bytes(self.a.blocks[k]) for k in set(alike)}
        self.weights, self.layer_bytes = (
            [weights[k] for k in alike],
            [layer_bytes[k] for k in alike],
        )
        self.layers = stage_layers(self.a, self.layout)
        self.tokens = job.pass_tokens

    def _layer_bytes(self, block: Block) -> LayerBytes:
        """Return the bytes per token that one layer keeps with fused kernels.

        PyTorch's engines that recompute selectively keep attention's output and every second
        product (torchtitan, `distributed/activation_checkpoint.py`: `not (func == mm and mm_count %
        2 == 0)`).
        """
        fused = megatron_layer(
            block, self.a, self.layout, self.job.tokens, self.job.software_year, self.job.imbalance
        )
        if not self.sharded:
            return fused
        split = self.layout.tp if self.layout.sequence_parallel else 1
        unfused = torch_eager_layer if self.job.profile.kernels == "eager" else torch_compiled_layer
        unfused_layer = unfused(block, self.a.hidden, self.layout.replace(tp=1), self.job.imbalance)
        attention, everything = (
            block.attention,
            max(fused.saved_bytes, unfused_layer.saved_bytes / split),
        )
        if self.layout.recompute != "selective":
            return fused._replace(
                saved_bytes=everything,
                transient_bytes=max(fused.transient_bytes, unfused_layer.transient_bytes / split),
            )
        attention_output = (2.0 * attention.values + 4) * attention.heads if attention else 0.0
        inside = (
            unfused_layer.input_bytes
            + attention_output
            + (unfused_layer.product_bytes - unfused_layer.input_bytes - attention_output) / 2
        ) / split
        return fused._replace(
            saved_bytes=inside,
            transient_bytes=max(fused.transient_bytes, unfused_layer.transient_bytes / split)
            + everything
            - inside,
        )

    def unlike(self) -> list[int]:
        """Return the indices of the pipeline stages of which one is the fullest: of inner stages
        that hold the same layers, a later one has no more micro-batches in flight, so only the
        first is listed."""
        layers, last = self.layers, self.layout.pp - 1
        return [k for k in range(last + 1) if not 1 < k < last or layers[k] != layers[k - 1]]

    def stage(self, k: int) -> Memory:
        """Return the memory of pipeline stage `k` at its fullest moment."""
        weights = ends(self.a, self.layout, k)
        for index, count in self.layers[k].items():
            weights = weights.plus(self.weights[index], count)
        parameters, gradients, optimizer = states(
            weights, self.layout, self.job.profile.gradient_bytes
        )
        moments = [self._fullest(k, gradients)]
        if self.sharded:
            return _memory_at_fullest(
                k, parameters, optimizer, moments, spread="memory_spread_fsdp"
            )
        return _memory_at_fullest(k, parameters, optimizer, moments, self._buffers(k, weights))

    def _fullest(self, k: int, gradients: float) -> Moment:
        """Return the fullest moment of stage `k`: activations of all micro-batches in flight are
        kept, and the last one is at its head or at its fullest layer. `gradients` are the stage's
        gradient bytes."""
        full, last = self.layout.recompute == "full", k == self.layout.pp - 1
        layers = [(self.layer_bytes[index], count) for index, count in self.layers[k].items()]
        bytes_per_token = sum(
            count * (each.input_bytes if full else each.saved_bytes) for each, count in layers
        )
        flying = (
            in_flight(self.layout, k, max(self.job.micro_batches, 1)) / self.layout.virtual_stages
        )
        logits = head = 0.0
        if last:
            bytes_per_token += (
                sum(b.count * self._layer_bytes(b).saved_bytes for b in self.a.mtp) / flying
            )
            logits, head = self._head()
        # a layer that is recomputed is whole again for a moment; by then the last stage has freed
        # its logits
        inner = (
            max(
                (
                    each.transient_bytes + (each.saved_bytes - each.input_bytes) * full
                    for each, _ in layers
                ),
                default=0.0,
            )
            - logits
        )
        return Moment(
            gradients,
            self.tokens * flying * bytes_per_token,
            self.tokens * logits,
            self.tokens * max(head, inner, 0.0),
            self._gathered(k),
        )

    def _head(self) -> tuple[float, float]:
        """Return two counts of bytes per token at the head: what it keeps, and what its backward
        pass needs on top.

        Kept are the logits in 16 bits, which a fused cross-entropy turns into their gradient in
        place, and the last norm's input and output; on top come the gathered input and its
        gradient.
        """
        split = self.layout.tp if self.layout.sequence_parallel else 1
        depth = 1 + sum(b.count for b in self.a.mtp)
        # PyTorch's own cross-entropy: logits, their logarithms and gradients in 32 bits; over a
        # vocabulary that is cut, one more of them (torch/distributed/tensor/parallel/loss.py,
        # `_nll_loss_and_log_softmax_backward`)
        each = (16.0 if self.layout.tp > 1 else 12.0) if self.sharded else 2.0
        logits = depth * each * self.a.vocabulary / self.layout.tp + 4.0 * self.a.hidden / split
        return logits, (4.0 if self.layout.tp > 1 else 2.0) * self.a.hidden

    def _gathered(self, k: int) -> float:
        """Return the bytes of whole weights and gradients that fully sharded training holds on
        stage `k`; 0 without sharding.

        Without a pipeline: two layers' weights in 16 bits, this one's and the next one's, and a
        gradient in 16 and 32; the head's, which is whole from its forward to its backward pass,
        with its gradient on the way in 32. In a pipeline all of the stage's weights are whole from
        the first micro-batch to the last, with gradients in 32 bits, because it gathers once.
        """
        if not self.sharded:
            return 0.0
        if self.layout.pp > 1:
            return 6.0 * (
                sum(ends(self.a, self.layout, k))
                + sum(n * sum(self.weights[index]) for index, n in self.layers[k].items())
            )
        head = self.a.vocabulary * self.a.hidden / self.layout.tp
        return 10.0 * max(sum(weights) for weights in self.weights) + 6.0 * head

    def _buffers(self, k: int, weights: Weights) -> float:
        """Return the bytes of buffers that live as long as the run on stage `k`, whose weights are
        `held`.

        Transformer Engine keeps one 16-bit stand-in per shape of weight and hands it to autograd in
        place of gradients that are summed in 32 bits elsewhere (`get_dummy_wgrad`, from 2.3 on,
        experts' from 2.10 on); below 16 bits, weights stand also as rows and as columns.
        """
        kinds = {self.a.alike[index] for index in self.layers[k]}
        shapes = {
            s for index in kinds for s in matrices(self.a.blocks[index], self.a.hidden, self.layout)
        }
        if k == self.layout.pp - 1:
            shapes.add((self.a.vocabulary / self.layout.tp, self.a.hidden))
        copies = 0.0 if self.layout.precision == "bf16" else 2 * SAVED[self.layout.precision]
        return 2 * sum(rows * columns for rows, columns in shapes) + copies * (
            weights.dense + weights.routed
        )


def states(
    weights: Weights, layout: ParallelConfig, gradient: float = 4.0
) -> tuple[float, float, float]:
    """Return the bytes of parameters, gradients and optimizer on one rank that holds these weights.

    Megatron-Core: 2 + 4 + 12 bytes per weight (a copy and two moments in 32 bits), the last divided
    by data ranks with its distributed optimizer. Fully sharded: 4 + 4 + 8, all divided. `gradient`
    is the bytes of one number of a gradient.
    """
    dense, routed = shards(layout)
    shard, numbers = (
        weights.dense / dense + weights.routed / routed,
        weights.dense + weights.routed,
    )
    if layout.sharded:
        return 4 * shard, gradient * shard, 8 * shard
    return (
        2 * numbers,
        gradient * numbers,
        12 * (shard if layout.sharding == "zero1" else numbers),
    )


class _OwnStep:
    """A training step of Onnuri's trainer, of which the fullest moment is sought layer by layer.

    The root's FSDP group, head and last norm, stays whole from its first use to the end, and so
    does its gradient; in the backward pass the next layer is gathered ahead, and the sums of the
    last layer's gradients are on their way.
    """

    def __init__(self, job: Job) -> None:
        a, self.job, self.layout = job.architecture, job, job.layout
        self.tokens = job.pass_tokens
        costs = torch_compiled_layer if job.cluster.compiled else torch_eager_layer
        divided = self.layout.ep if self.layout.ep > 1 else self.layout.tp
        kinds = {
            k: (
                layer(b, a.hidden, self.layout),
                costs(b, a.hidden, self.layout, job.imbalance),
                b.routed(a.hidden) / divided,
            )
            for k in set(a.alike)
            for b in (a.blocks[k],)
        }
        each = [kinds[k] for k, b in zip(a.alike, a.blocks, strict=True) for _ in range(b.count)]
        self.groups, self.costs = [group for group, _, _ in each], [cost for _, cost, _ in each]
        self.experts = [routed for _, _, routed in each]
        """numbers of the experts' weights on this rank"""
        self.root, self.embedding = root(a, self.layout), embedding(a, self.layout)
        field = {"none": "saved_bytes", "selective": "product_bytes", "full": "input_bytes"}[
            self.layout.recompute
        ]
        self.kept_per_token = [0.0, *itertools.accumulate(getattr(c, field) for c in self.costs)]
        """bytes per token that the first k layers keep, by k"""
        self.shards = [0.0, *itertools.accumulate(g.shard for g in self.groups)]
        last = len(self.groups) - 1
        changes = {
            j
            for k in range(1, last + 1)
            if self.groups[k] is not self.groups[k - 1] and self.groups[k] != self.groups[k - 1]
            for j in (k - 1, k)
        }
        self.layers = changes | {last, max(last - 1, 0)}
        """indices of the layers in which the fullest moment can be: where kinds change, and the
        last but one, beside which gradients are still being summed"""
        if job.micro_batches == 1 and self.tokens * self.kept_per_token[-1] < 4 * self.shards[-1]:
            # gradients grow faster than what is kept shrinks, so the first layers can be fullest
            self.layers |= {0, min(1, last)}

    def fullest(self) -> Memory:
        """Return the memory of a rank of Onnuri's trainer at the fullest of all moments of a
        step."""
        parameters = 4 * (self.shards[-1] + self.root.shard + self.embedding.shard)
        inner = (self._recomputed, self._experts, self._summed)
        moments = [self._head(), self._end(), *(moment(k) for k in self.layers for moment in inner)]
        return _memory_at_fullest(0, parameters, 2 * parameters, moments)

    def _kept_bytes(self, layers: int) -> float:
        """Return the bytes that the first `layers` layers keep for their backward pass."""
        return self.tokens * self.kept_per_token[layers]

    def _gradients(self, layer: int) -> float:
        """Return the bytes of sharded gradients while `layer` runs its backward pass: those of the
        layers behind it, or of the whole model from the second micro-batch on."""
        if self.job.micro_batches > 1:
            return 4 * (self.shards[-1] + self.root.shard + self.embedding.shard)
        return 4 * (self.shards[-1] - self.shards[layer + 1])

    def _head(self) -> Moment:
        """Return the moment at which the loss of the last chunk of tokens is computed
        (`model/cross_entropy.py`).

        Alive are its logits in 16 and 32 bits, the gradients of all hidden states and of the head,
        and the last norm. Tensor parallelism gathers all logits: log-probabilities that are kept,
        their gradient and the logits' in 32 bits (`ForCausalLMLoss`).
        """
        a, last, gathers_logits = self.job.architecture, len(self.groups), self.layout.tp > 1
        logits = (
            a.vocabulary * (12.0 * self.tokens if gathers_logits else 6.0 * min(self.tokens, CHUNK))
            + a.hidden * self.tokens * 10.0
        )
        backward_bytes = (
            0.0 if gathers_logits else 2 * self.root.whole + 2.0 * a.hidden * self.tokens
        )
        last_group, experts_unsharded = self.groups[-1], shards(self.layout)[1] == 1
        unfreed_gather = (
            last_group.routed * (not experts_unsharded) if last_group.routed else last_group.dense
        )  # whose gather's buffer none has taken over yet
        return Moment(
            self._gradients(last - 1),
            self._kept_bytes(last),
            logits,
            backward_bytes,
            2 * self.root.whole + 2 * unfreed_gather,
        )

    def _recomputed(self, k: int) -> Moment:
        """Return the moment at which layer `k` is recomputed and its backward pass begins."""
        cost = self.costs[k]
        recomputed_bytes = {
            "none": 0.0,
            "selective": cost.recompute_bytes,
            "full": cost.saved_bytes,
        }[self.layout.recompute]
        backward_bytes = (
            self.tokens * (recomputed_bytes + cost.transient_bytes + cost.input_bytes)
            + 2 * self.root.whole
        )
        return Moment(
            self._gradients(k),
            self._kept_bytes(k + 1),
            0.0,
            backward_bytes,
            self._whole_weights(k) + self._current(k),
        )

    def _experts(self, k: int) -> Moment:
        """Return the moment in the backward pass of layer `k` at which its experts' gradients
        exist, whole and in 16 bits, while the rest of the layer's backward pass is ahead."""
        backward_bytes = (
            self.tokens * self.costs[k].expert_grad_peak_bytes
            + 2 * self.experts[k]
            + 2 * self.root.whole
        )
        kept_bytes = self._kept_bytes(k) + self.tokens * self.costs[k].input_bytes
        return Moment(
            self._gradients(k),
            kept_bytes,
            0.0,
            backward_bytes,
            self._whole_weights(k) + self._current(k),
        )

    def _summed(self, k: int) -> Moment:
        """Return the moment at which the backward pass of layer `k` is over: its gradient exists in
        16 bits, copied in 32, and its sum over the data ranks in 32."""
        group = self.groups[k]
        backward_bytes = (
            self.tokens * self.costs[k].input_bytes + 2 * self.root.whole + 6 * group.whole
        )
        return Moment(
            self._gradients(k),
            self._kept_bytes(k),
            0.0,
            backward_bytes,
            self._whole_weights(k) + 4 * group.shard,
        )

    def _whole_weights(self, k: int) -> float:
        """Return the bytes of gathered 16-bit weights beside layer `k`: the root group's, and those
        of the next layer of the backward pass with the shard that they are gathered from."""
        return 2 * self.root.whole + (
            2 * (self.groups[k - 1].whole + self.groups[k - 1].shard) if k else 0.0
        )

    def _current(self, k: int) -> float:
        """Return the bytes of the gathered weights of layer `k`, and of the 32-bit gradients of the
        layer behind it, which are being reduced."""
        return 2 * self.groups[k].whole + 4 * (
            self.groups[k + 1].whole if k + 1 < len(self.groups) else 0.0
        )

    def _end(self) -> Moment:
        """Return the moment at which the backward pass ends, when the root group's gradient is
        summed last."""
        backward_bytes = 6 * self.root.whole + 2 * self.embedding.whole
        return Moment(
            self._gradients(-1),
            0.0,
            0.0,
            backward_bytes,
            4 * (self.root.shard + self.embedding.shard),
        )
