"""What a rank sends and receives in one optimizer step: every collective with its ranks, bytes and calls.

Knows no link and no time. Bytes of a call are of the larger side of it: an all-gather's output, a reduce-scatter's and an
all-reduce's input, all that a rank puts into an all-to-all with its own share, a message's length.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from onnuri.config import Config
from onnuri.planner.architecture import Block
from onnuri.planner.job import Job
from onnuri.planner.sharded import Group, embedding, layer, root
from onnuri.planner.stages import Weights, chunks, ends, layer_weights, shards, stage_layers

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "p2p"]
Axis = Literal["tp", "cp", "ep", "dp", "expert_dp", "replica", "pp"]


class Collective(Config):
    """Calls that are alike."""

    name: str
    kind: Kind
    axis: Axis
    ranks: int
    """of the group"""
    bytes: float
    """of the larger side of one call"""
    calls: float
    """a step"""

    @property
    def total(self) -> float:
        return self.bytes * self.calls


def collectives(job: Job, stage: int = 0) -> tuple[Collective, ...]:
    """Of a rank of the given pipeline stage."""
    if job.layout.engine is None:
        found = [*_own_tensor(job), *_expert(job, stage), *_groups(job)]
    else:
        found = [*_tensor(job, stage), *_context(job, stage), *_expert(job, stage), *_data(job, stage), *_pipeline(job, stage)]
    return tuple(c for c in found if c.ranks > 1 and c.total > 0)


def _blocks(job: Job, stage: int) -> list[tuple[Block, int]]:
    a, layout = job.architecture, job.layout
    held = [(a.blocks[index], count) for index, count in stage_layers(a, layout)[stage].items()]
    return held + [(b, b.count) for b in a.mtp if stage == layout.pp - 1]


def _passes(job: Job) -> int:
    """Forward passes of a layer in a step and micro-batch."""
    return 2 if job.layout.recompute == "full" else 1


def _tensor(job: Job, stage: int) -> list[Collective]:
    """Before and after attention and feed-forward; backward, inputs are gathered again for the weights' gradients."""
    layout, a = job.layout, job.architecture
    products = sum(count * (bool(b.attention) + bool(b.mlp or (b.experts and b.experts.shared)))
                   for b, count in _blocks(job, stage))
    heads = bool(stage == layout.pp - 1) + 0.0
    tables = bool(stage == 0) + 0.0
    size, m = 2.0 * a.hidden * job.pass_tokens, job.micro_batches
    if not layout.sequence_parallel:
        return [Collective(name="tensor", kind="all_reduce", axis="tp", ranks=layout.tp, bytes=size,
                           calls=m * (products * (_passes(job) + 1) + heads + tables))]
    gathers = products * (_passes(job) + 2) + 2 * heads + tables
    scatters = products * (_passes(job) + 1) + heads + tables
    return [Collective(name="tensor, gather", kind="all_gather", axis="tp", ranks=layout.tp, bytes=size, calls=m * gathers),
            Collective(name="tensor, scatter", kind="reduce_scatter", axis="tp", ranks=layout.tp, bytes=size,
                       calls=m * scatters)]


def _own_tensor(job: Job) -> list[Collective]:
    """Onnuri's trainer, by the plans of transformers 5.23: whole hidden states on every rank, a sum after each product
    that is cut along its rows and, backward, before each that is cut along its columns; logits are gathered. Latent
    attention is not cut, and shared experts only beside it. Recomputation stops at the last tensor that is needed."""
    a, layout, size = job.architecture, job.layout, 2.0 * job.architecture.hidden * job.pass_tokens
    again, sums, gathers = layout.recompute != "none", 2.0, 0.0  # two: embedding and head
    for b in a.blocks:
        split = bool(b.attention and not b.attention.kv_rank)
        sums += b.count * split * (4 + again)
        sums += b.count * bool(b.mlp or (b.experts and b.experts.shared and not split)) * (3 + (again and b.norms > 2))
        gathers += b.count * bool(b.experts and layout.ep > 1) * (2 * (1 + again) + 1)  # outputs in 32 bits, gradients in 16
    return [Collective(name="tensor", kind="all_reduce", axis="tp", ranks=layout.tp, bytes=size, calls=job.micro_batches * sums),
            Collective(name="experts' tokens", kind="all_gather", axis="tp", ranks=layout.tp, bytes=size,
                       calls=job.micro_batches * gathers),
            Collective(name="logits", kind="all_gather", axis="tp", ranks=layout.tp, bytes=2.0 * a.vocabulary * job.pass_tokens,
                       calls=job.micro_batches)]


def _context(job: Job, stage: int) -> list[Collective]:
    """Keys and values go round the ring, backward with their gradients (Liu et al. 2023, arXiv 2310.01889)."""
    layout, found = job.layout, []
    for b, count in _blocks(job, stage):
        if at := b.attention:
            heads = at.heads / layout.tp if at.kv_rank else max(at.kv_heads / layout.tp, 1)
            size = 2.0 * heads * (at.head_dim + at.rope_dim + at.values) * job.pass_tokens
            found.append(Collective(name="context, keys and values", kind="p2p", axis="cp", ranks=layout.cp, bytes=size,
                                    calls=job.micro_batches * count * (layout.cp - 1) * (_passes(job) + 2)))
    return found


def _expert(job: Job, stage: int) -> list[Collective]:
    """Tokens to their experts and back, forward and backward."""
    layout, found = job.layout, []
    split = layout.tp if layout.sequence_parallel else 1
    for b, count in _blocks(job, stage):
        if e := b.experts:
            size = 2.0 * job.architecture.hidden * e.topk * job.pass_tokens / split
            found.append(Collective(name="experts, dispatch and combine", kind="all_to_all", axis="ep", ranks=layout.ep,
                                    bytes=size, calls=job.micro_batches * count * 2 * (_passes(job) + 1)))
    return found


def _groups(job: Job) -> list[Collective]:
    """Onnuri's trainer: a layer's weights before its forward and its backward pass, the embedding's before the forward
    pass only, the root's once and for both; gradients after, every micro-batch."""
    a, layout = job.architecture, job.layout
    alike: Counter[Group] = Counter()
    for b in a.blocks:
        alike[layer(b, a.hidden, layout)] += b.count
    groups = [(root(a, layout), 1, 1), (embedding(a, layout), 1, 1), *((held, count, 2) for held, count in alike.items())]
    return [c for held, count, gathers in groups for c in _sharded(job, Weights(held.dense, held.routed), count, gathers)]


def _data(job: Job, stage: int) -> list[Collective]:
    """Gradients and weights over data ranks. Fully sharded in a pipeline: a layer at a time, once a step."""
    a, layout = job.architecture, job.layout
    groups = [(layer_weights(a.blocks[index], a.hidden, layout), count)
              for index, count in stage_layers(a, layout)[stage].items()]
    groups.append((ends(a, layout, stage), 1))
    if layout.sharding in ("fsdp", "hsdp"):
        once = job.layout.pp > 1
        return [c for held, count in groups
                for c in _sharded(job, held, count / job.micro_batches if once else count, 1 if once else 2)]
    held = Weights()
    for each, count in groups:
        held = held.plus(each, count)
    ranks = layout.dp * layout.cp
    experts = max(ranks * layout.tp // layout.ep, 1)
    return _once(job, "dp", ranks, held.dense) + _once(job, "expert_dp", experts, held.routed)


def _once(job: Job, axis: Axis, ranks: int, own: float) -> list[Collective]:
    """Gradients of a step, and with a distributed optimizer its new weights in 16 bits."""
    size = job.gradient_bytes * own
    if job.layout.sharding == "ddp":
        return [Collective(name="gradients", kind="all_reduce", axis=axis, ranks=ranks, bytes=size, calls=1)]
    return [Collective(name="gradients", kind="reduce_scatter", axis=axis, ranks=ranks, bytes=size, calls=1),
            Collective(name="weights", kind="all_gather", axis=axis, ranks=ranks, bytes=2 * own, calls=1)]


def _sharded(job: Job, held: Weights, count: float, gathers: int) -> list[Collective]:
    """Weights in 16 bits, gradients in 32; copies add their shards up."""
    layout, calls = job.layout, job.micro_batches * count
    dense, routed = shards(layout)
    copies, found = layout.dp * layout.cp // dense, []
    axes: tuple[tuple[Axis, int, float], ...] = (("dp", dense, held.dense), ("expert_dp", routed, held.routed))
    for axis, ranks, own in axes:
        size = job.gradient_bytes * own
        found += [
            Collective(name="weights", kind="all_gather", axis=axis, ranks=ranks, bytes=2 * own, calls=gathers * calls),
            Collective(name="gradients", kind="reduce_scatter", axis=axis, ranks=ranks, bytes=size, calls=calls),
            Collective(name="gradients of copies", kind="all_reduce", axis="replica", ranks=copies, bytes=size / ranks,
                       calls=calls)]
    return found


def _pipeline(job: Job, stage: int) -> list[Collective]:
    """Hidden states to the next chunk and their gradients back: what a rank sends."""
    layout, count = job.layout, len(chunks(job.architecture, job.layout))
    split = layout.tp if layout.sequence_parallel else 1
    sends = sum((k < count - 1) + (k > 0) for k in range(stage, count, layout.pp))
    return [Collective(name="pipeline", kind="p2p", axis="pp", ranks=layout.pp,
                       bytes=2.0 * job.architecture.hidden * job.pass_tokens / split, calls=job.micro_batches * sends)]
