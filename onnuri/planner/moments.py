"""Find the bytes that live at the moments of a training step in which a GPU can be fullest: what
its layers keep, gradients, gathered weights and the head's logits.

Knows no optimizer and no allocator; `memory.py` adds those. Kernels decide what a layer keeps
(`activations.py`). Engines that gather whole FSDP groups are walked layer by layer; for the others
one moment is the fullest.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import NamedTuple

from onnuri.planner.activations import (
    LayerBytes,
    megatron_layer,
    torch_compiled_layer,
    torch_eager_layer,
    torch_fused_layer,
)
from onnuri.planner.architecture import Block
from onnuri.planner.fsdp_groups import Group, embedding, layer, root
from onnuri.planner.job import Job
from onnuri.planner.parallel import Recompute
from onnuri.planner.pipeline_stages import ends, in_flight, shards, stage_layers
from onnuri.planner.weights import Weights, layer_shapes, layer_weights

CHUNK = 1024
"""tokens whose logits Onnuri's trainer has in memory at once: `model/cross_entropy.py`, ROWS"""


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


class StageLayer(NamedTuple):
    """What one layer of a pipeline stage holds and keeps on a rank."""

    block: Block
    group: Group
    """numbers of its weights"""
    bytes: LayerBytes
    """per token"""


class PipelineStage(NamedTuple):
    """What a rank of one pipeline stage holds of a job."""

    job: Job
    rank: int
    """of the pipeline, from 0"""
    layers: list[tuple[StageLayer, int]]
    """the stage's layers, those that are alike together with their number; in the model's order
    for Onnuri's trainer, whose backward pass is walked layer by layer"""
    root: Group
    """weights that belong to no layer, without those in `embedding`"""
    embedding: Group
    """the embedding, where it is gathered apart; else no numbers"""
    total: Group
    """all weights of the stage"""


def unlike_stages(job: Job) -> list[PipelineStage]:
    """Return the pipeline stages of which one is the fullest: of inner stages that hold the same
    layers, a later one has no more micro-batches in flight, so only the first is listed."""
    a, layout = job.architecture, job.layout
    # blocks of one kind are counted once
    kinds = {k: _stage_layer(job, a.blocks[k]) for k in set(a.alike)}
    held, last = stage_layers(a, layout), layout.pp - 1
    stages = []
    for k, counts in enumerate(held):
        if 1 < k < last and counts == held[k - 1]:
            continue
        if job.profile.transformers:
            layers = [(kinds[a.alike[index]], count) for index, count in counts.items()]
            outside = root(a, layout), embedding(a, layout)
        else:
            # nothing depends on the layers' order, so those of one kind are put together
            of_kind: Counter[int] = Counter()
            for index, count in counts.items():
                of_kind[a.alike[index]] += count
            layers = [(kinds[kind], count) for kind, count in of_kind.items()]
            outside = _group(job, ends(a, layout, k)), Group(0.0, 0.0, 0.0)
        total = outside[0].plus(outside[1])
        for each, count in layers:
            total = total.plus(each.group, count)
        stages.append(PipelineStage(job, k, layers, *outside, total))
    return stages


def _stage_layer(job: Job, block: Block) -> StageLayer:
    """Return what one layer of a block holds and keeps on a rank."""
    hidden, layout = job.architecture.hidden, job.layout
    if job.profile.transformers:
        group = layer(block, hidden, layout)
    else:
        group = _group(job, layer_weights(block, hidden, layout))
    return StageLayer(block, group, layer_bytes(job, block))


def _group(job: Job, weights: Weights) -> Group:
    """Return weights that data ranks share evenly, without `fully_shard`'s padding."""
    dense, routed = shards(job.layout)
    return Group(weights.dense / dense + weights.routed / routed, *weights)


def layer_bytes(job: Job, block: Block) -> LayerBytes:
    """Return the bytes per token that one layer keeps with the engine's kernels.

    PyTorch's engines that recompute selectively keep attention's output and every second product
    (torchtitan, `distributed/activation_checkpoint.py`: `not (func == mm and mm_count % 2 == 0)`).
    """
    hidden, layout = job.architecture.hidden, job.layout
    if job.profile.transformers:
        own = torch_compiled_layer if job.cluster.compiled else torch_eager_layer
        return own(block, hidden, layout, job.imbalance)
    fused = megatron_layer(
        block, job.architecture, layout, job.tokens, job.software_year, job.imbalance
    )
    if not layout.sharded:
        return fused
    split = layout.tp if layout.sequence_parallel else 1
    kernels = torch_eager_layer if job.profile.kernels == "eager" else torch_fused_layer
    unfused = kernels(block, hidden, layout.replace(tp=1), job.imbalance)
    at = block.attention
    attention_output = (2.0 * at.values + 4) * at.heads if at else 0.0
    always = unfused.input_bytes + attention_output
    product_bytes = (always + (unfused.product_bytes - always) / 2) / split
    saved_bytes = max(fused.saved_bytes, unfused.saved_bytes / split)
    return fused._replace(
        saved_bytes=saved_bytes,
        transient_bytes=max(fused.transient_bytes, unfused.transient_bytes / split),
        product_bytes=product_bytes,
        recompute_bytes=saved_bytes - product_bytes,
    )


def moments(stage: PipelineStage) -> list[Moment]:
    """Return the moments of a step of which one is the fullest on a rank of the stage."""
    if stage.job.profile.whole_weights:
        return _WholeWeightsWalk(stage).moments()
    if stage.job.profile.transformers:
        return _BackwardWalk(stage).moments()
    return [_fullest_moment(stage)]


def _fullest_moment(stage: PipelineStage) -> Moment:
    """Return the fullest moment of an engine with fused kernels (Megatron-Core, torchtitan):
    activations of all micro-batches in flight are kept, and the last one is at its head or at its
    fullest layer."""
    job, layers = stage.job, stage.layers
    layout, a = job.layout, job.architecture
    kept_per_token = sum(count * each.bytes.kept(layout.recompute) for each, count in layers)
    chunks = in_flight(layout, stage.rank, max(job.micro_batches, 1))
    flying = chunks / layout.virtual_stages
    logits = head = 0.0
    if stage.rank == layout.pp - 1:
        # full recomputation leaves layers of multi-token prediction as they are
        mtp_recompute: Recompute = "selective" if layout.recompute == "selective" else "none"
        mtp = sum(b.count * layer_bytes(job, b).kept(mtp_recompute) for b in a.mtp)
        kept_per_token += mtp / flying
        logits, head = _head(job)
    # a layer that is recomputed is whole again for a moment, but for its input, which was kept
    input_is_kept = layout.recompute == "full"
    inner = [
        each.bytes.transient_bytes
        + each.bytes.recomputed(layout.recompute)
        - each.bytes.input_bytes * input_is_kept
        for each, _ in layers
    ]
    # by the fullest layer's backward pass the last stage has freed its logits
    backward_per_token = max(head, max(inner, default=0.0) - logits, 0.0)
    numbers = stage.total.shard if layout.sharded else stage.total.whole
    return Moment(
        job.profile.gradient_bytes * numbers,
        job.pass_tokens * flying * kept_per_token,
        job.pass_tokens * logits,
        job.pass_tokens * backward_per_token,
        _gathered(stage),
    )


def _head(job: Job) -> tuple[float, float]:
    """Return two counts of bytes per token at the head of an engine with fused kernels: what it
    keeps, and what its backward pass needs on top.

    Kept are the logits in 16 bits, which a fused cross-entropy turns into their gradient in place,
    and the last norm's input and output; on top come the gathered input and its gradient.
    """
    a, layout = job.architecture, job.layout
    split = layout.tp if layout.sequence_parallel else 1
    depth = 1 + sum(b.count for b in a.mtp)
    each = 2.0
    if layout.sharded:
        # PyTorch's own cross-entropy: logits, their logarithms and gradients in 32 bits; over a
        # vocabulary that is cut, one more of them (torch/distributed/tensor/parallel/loss.py,
        # `_nll_loss_and_log_softmax_backward`)
        each = 16.0 if layout.tp > 1 else 12.0
    logits = depth * each * a.vocabulary / layout.tp + 4.0 * a.hidden / split
    return logits, (4.0 if layout.tp > 1 else 2.0) * a.hidden


def _gathered(stage: PipelineStage) -> float:
    """Return the bytes of whole weights and gradients that fully sharded training of an engine with
    fused kernels holds on a stage; 0 without sharding.

    Without a pipeline: two layers' weights in 16 bits, this one's and the next one's, and a
    gradient in 16 and 32; the head's, which is whole from its forward to its backward pass, with
    its gradient on the way in 32. In a pipeline all of the stage's weights are whole from the first
    micro-batch to the last, with gradients in 32 bits, because it gathers once.
    """
    a, layout = stage.job.architecture, stage.job.layout
    if not layout.sharded:
        return 0.0
    if layout.pp > 1:
        return 6.0 * stage.total.whole
    head = a.vocabulary * a.hidden / layout.tp
    return 10.0 * max(each.group.whole for each, _ in stage.layers) + 6.0 * head


class _BackwardWalk:
    """The backward pass of Onnuri's trainer, of which the fullest moment is sought layer by layer.

    The root's FSDP group, head and last norm, stays whole from its first use to the end, and so
    does its gradient; in the backward pass the next layer is gathered ahead, and the sums of the
    last layer's gradients are on their way.
    """

    def __init__(self, stage: PipelineStage) -> None:
        self.stage, self.job, self.layout = stage, stage.job, stage.job.layout
        self.root, self.tokens = stage.root, stage.job.pass_tokens
        self.each = [each for each, count in stage.layers for _ in range(count)]
        self.groups = [each.group for each in self.each]
        kept_per_token = (each.bytes.kept(self.layout.recompute) for each in self.each)
        self.kept = [0.0, *(self.tokens * n for n in itertools.accumulate(kept_per_token))]
        """bytes that the first k layers keep for their backward pass, by k"""
        self.shards = [0.0, *itertools.accumulate(group.shard for group in self.groups)]
        self.all_gradients = self.job.profile.gradient_bytes * stage.total.shard

    def moments(self) -> list[Moment]:
        """Return all moments of the step of which one can be the fullest."""
        inner = [moment for k in self._layers() for moment in self._in_layer(k)]
        return [self._loss(), self._end(), *inner]

    def _layers(self) -> set[int]:
        """Return the indices of the layers in which the fullest moment can be: where kinds change,
        and the last but one, beside which gradients are still being summed."""
        groups, last = self.groups, len(self.groups) - 1
        layers = {last, max(last - 1, 0)}
        for k in range(1, last + 1):
            if groups[k] is not groups[k - 1] and groups[k] != groups[k - 1]:
                layers |= {k - 1, k}
        if self.job.micro_batches == 1 and self.kept[-1] < 4 * self.shards[-1]:
            # gradients grow faster than what is kept shrinks, so the first layers can be fullest
            layers |= {0, min(1, last)}
        return layers

    def _gradients(self, k: int) -> float:
        """Return the bytes of sharded gradients while layer `k` runs its backward pass: those of
        the layers behind it, or of the whole model from the second micro-batch on."""
        if self.job.micro_batches > 1:
            return self.all_gradients
        return self.job.profile.gradient_bytes * (self.shards[-1] - self.shards[k + 1])

    def _loss(self) -> Moment:
        """Return the moment at which the loss of the last chunk of tokens is computed
        (`model/cross_entropy.py`).

        Alive are its logits in 16 and 32 bits, the gradients of all hidden states and of the head,
        and the last norm. Tensor parallelism gathers all logits: log-probabilities that are kept,
        their gradient and the logits' in 32 bits (`ForCausalLMLoss`).
        """
        a, group = self.job.architecture, self.groups[-1]
        # the last norm's input, in 32 and 16 bits, is a part of the sequence
        split = self.layout.tp if self.layout.sequence_parallel else 1
        state_bytes = a.hidden * self.tokens * (4.0 + 6.0 / split)
        if self.layout.tp > 1:
            logits, backward_bytes = a.vocabulary * 12.0 * self.tokens, 0.0
        else:
            logits = a.vocabulary * 6.0 * min(self.tokens, CHUNK)
            backward_bytes = 2 * self.root.whole + 2.0 * a.hidden * self.tokens
        # the last layer's gather, whose buffer none has taken over yet
        unfreed = group.dense
        if group.routed:
            unfreed = 0.0 if shards(self.layout)[1] == 1 else group.routed
        return Moment(
            self._gradients(len(self.groups) - 1),
            self.kept[-1],
            logits + state_bytes,
            backward_bytes,
            2 * self.root.whole + 2 * unfreed,
        )

    def _in_layer(self, k: int) -> tuple[Moment, Moment, Moment]:
        """Return three moments of the backward pass of layer `k`: when it begins, with the layer
        recomputed; when its experts' gradients exist, whole and in 16 bits; and when it is over,
        the layer's gradient in 16 bits, copied in 32, and its sum over the data ranks in 32."""
        group, costs = self.groups[k], self.each[k].bytes
        gradients, head_gradient = self._gradients(k), 2 * self.root.whole
        input_bytes = self.tokens * costs.input_bytes
        # gathered are the root's group and the next layer of the backward pass, beside the shard
        # that it is gathered from
        gathered = 2 * self.root.whole
        if k:
            gathered += 2 * (self.groups[k - 1].whole + self.groups[k - 1].shard)
        # the layer's own weights, and the 32-bit gradients of the layer behind it on their way
        inside = gathered + 2 * group.whole
        if k + 1 < len(self.groups):
            inside += 4 * self.groups[k + 1].whole
        recomputed = costs.recomputed(self.layout.recompute) + costs.transient_bytes
        experts = self.each[k].block.routed(self.job.architecture.hidden)
        local_experts = experts / (self.layout.ep if self.layout.ep > 1 else self.layout.tp)
        expert_bytes = self.tokens * costs.expert_grad_peak_bytes + 2 * local_experts
        begun = self.tokens * recomputed + input_bytes + head_gradient
        over = input_bytes + head_gradient + 6 * group.whole
        return (
            Moment(gradients, self.kept[k + 1], 0.0, begun, inside),
            Moment(
                gradients, self.kept[k] + input_bytes, 0.0, expert_bytes + head_gradient, inside
            ),
            Moment(gradients, self.kept[k], 0.0, over, gathered + 4 * group.shard),
        )

    def _end(self) -> Moment:
        """Return the moment at which the backward pass ends, when the root group's gradient is
        summed last."""
        table = self.stage.embedding
        return Moment(
            gradients=self._gradients(-1),
            backward_bytes=6 * self.root.whole + 2 * table.whole,
            gathered=4 * (self.root.shard + table.shard),
        )


class _WholeWeightsWalk(_BackwardWalk):
    """The backward pass of Onnuri's trainer on one GPU, where nothing is gathered: a gradient comes
    in 16 bits, as soon as its operator or its compiled layer has run, and is added to the one in 32
    bits before the next one is (`parallel/working_weights.py`)."""

    def moments(self) -> list[Moment]:
        """Return all moments of the step of which one can be the fullest."""
        return [self._head(), *super().moments()]

    @property
    def _tied_head_gradient(self) -> float:
        """Return the bytes of the head's gradient in 16 bits while layers run their backward pass:
        where embedding and head share weights, it waits for the embedding's."""
        return 2 * self.root.whole if self.job.architecture.tied else 0.0

    def _gradients(self, k: int) -> float:
        """Return the bytes of 32-bit gradients while layer `k` runs its backward pass: the head's
        and those of the layers behind it, or of the whole model from the second micro-batch on."""
        if self.job.micro_batches > 1:
            return self.all_gradients
        head = 0.0 if self.job.architecture.tied else self.root.whole
        return self.job.profile.gradient_bytes * (head + self.shards[-1] - self.shards[k + 1])

    def _loss(self) -> Moment:
        """Return the moment at which the loss of the last chunk of tokens is computed: its logits
        and their gradient in 16 bits, the gradients of all hidden states and of the head, and the
        last norm."""
        hidden_bytes = self.job.architecture.hidden * self.tokens
        return Moment(
            self.all_gradients if self.job.micro_batches > 1 else 0.0,
            self.kept[-1],
            4.0 * self.job.architecture.vocabulary * min(self.tokens, CHUNK) + 10.0 * hidden_bytes,
            2 * self.root.whole + 2.0 * hidden_bytes,
        )

    def _head(self) -> Moment:
        """Return the moment at which the head's gradient stands in 16 and in 32 bits."""
        hidden_bytes = self.job.architecture.hidden * self.tokens
        return Moment(
            self._gradients(len(self.groups) - 1),
            self.kept[-1],
            10.0 * hidden_bytes,
            2 * self.root.whole + 2.0 * hidden_bytes,
        )

    def _in_layer(self, k: int) -> tuple[Moment, Moment, Moment]:
        """Return three moments of the backward pass of layer `k`: when it begins, with the layer
        recomputed; when its experts' gradients exist; and when it is over, with all its gradients
        in 32 bits and the last of them still in 16."""
        each, compiled = self.each[k], self.job.cluster.compiled
        costs, hidden = each.bytes, self.job.architecture.hidden
        input_bytes = self.tokens * costs.input_bytes
        waiting, before = self._tied_head_gradient, self._gradients(k)
        after = self._gradients(k - 1)
        largest = max(math.prod(shape.dims) for shape in layer_shapes(each.block, hidden))
        recomputed = costs.recomputed(self.layout.recompute) + costs.transient_bytes
        # a compiled layer gives all its gradients at its end
        experts = each.block.routed(hidden)
        new = 4.0 * experts * (self.job.micro_batches == 1) + 2.0 * largest
        expert_bytes = self.tokens * costs.expert_grad_peak_bytes
        expert_bytes += 2.0 * experts if compiled else new
        arriving = 2.0 * (each.group.whole if compiled else largest)
        if self.job.micro_batches == 1:  # each is freed as the next one is widened
            arriving = 2.0 * largest
        begun = self.tokens * recomputed + input_bytes + waiting
        return (
            Moment(before, self.kept[k + 1], 0.0, begun),
            Moment(before, self.kept[k] + input_bytes, 0.0, expert_bytes + waiting),
            Moment(after, self.kept[k], 0.0, input_bytes + arriving + waiting),
        )

    def _end(self) -> Moment:
        """Return the moment at which the backward pass ends, with the embedding's gradient in 16
        bits; where the head shares its weights, with both of their gradients."""
        table = self.stage.embedding
        return Moment(self.all_gradients, 0.0, 0.0, 2 * table.whole + 2 * self._tied_head_gradient)
