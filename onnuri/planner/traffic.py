"""List what a rank sends and receives in one optimizer step: every collective with its ranks, bytes
and calls.

Knows no link and no time: `step_work.py` makes seconds of it. Bytes of a call are of the larger
side of it: an all-gather's output, a reduce-scatter's and an all-reduce's input, all that a rank
puts into an all-to-all with its own share, a message's length. Engines differ by their
`EngineProfile`: which products tensor ranks cut, whether a token is sent once per expert or once
per rank, which weights are gathered together, when copies of the model sum gradients.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from onnuri.planner.architecture import Block, Experts
from onnuri.planner.fsdp_groups import embedding, layer, root
from onnuri.planner.job import Job
from onnuri.planner.pipeline_stages import chunks, ends, shards, stage_layers
from onnuri.planner.weights import Weights, layer_weights

Kind = Literal["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "p2p"]
Axis = Literal["tp", "cp", "ep", "domains", "dp", "expert_dp", "replica", "pp"]
"""the ranks that talk; domains: one rank in each domain of fast links that expert parallelism
spans"""


Part = Literal["all", "inside", "data"]
"""which collectives to list: `inside` one copy of the model, of the `data` ranks that share or
repeat it, or `all`"""


class Collective(NamedTuple):
    """A group of equal calls of one collective in one optimizer step."""

    name: str
    kind: Kind
    axis: Axis
    ranks: int
    """in the group"""
    bytes: float
    """of the larger side of one call"""
    calls: float
    """per step"""
    once: bool = False
    """whether the calls come at the end of a step, not in every micro-batch"""

    @property
    def total(self) -> float:
        """Return the bytes of all calls of this collective in a step."""
        return self.bytes * self.calls


class StageContents(NamedTuple):
    """What of a model one pipeline rank holds."""

    blocks: list[tuple[Block, float]]
    """the blocks of layers, and how many layers of each"""
    mtp: list[tuple[Block, float]]
    """the blocks of multi-token prediction, and how many layers of each"""
    first: bool
    """whether the rank holds the embedding"""
    last: bool
    """whether the rank holds the head"""
    ends: Weights
    """weights on this rank that belong to no layer"""
    sends: float
    """messages to other pipeline ranks per micro-batch"""


def stage_contents(job: Job, stage: int) -> StageContents:
    """Return what of the model the rank of pipeline stage `stage` holds."""
    a, layout = job.architecture, job.layout
    count, last = len(chunks(a, layout)), stage == layout.pp - 1
    return StageContents(
        [(a.blocks[index], n) for index, n in stage_layers(a, layout)[stage].items()],
        [(b, b.count) for b in a.mtp] if last else [],
        stage == 0,
        last,
        ends(a, layout, stage),
        sum((k < count - 1) + (k > 0) for k in range(stage, count, layout.pp)),
    )


def collectives(
    job: Job, stage: int | StageContents = 0, part: Part = "all"
) -> tuple[Collective, ...]:
    """Return the collectives of one optimizer step on a rank of pipeline stage `stage`, or on a
    rank that holds what a `StageContents` says; groups of one rank and empty calls are left out."""
    h = stage_contents(job, stage) if isinstance(stage, int) else stage
    calls: list[Collective] = []
    if part != "data":
        calls += [*_tensor(job, h), *_context(job, h), *_expert(job, h), *_pipeline(job, h)]
    if part != "inside":
        calls += _data(job, h)
    return tuple(c for c in calls if c.ranks > 1 and c.total > 0)


def _passes(job: Job) -> int:
    """Return how often a layer runs forward per micro-batch: twice with full recomputation."""
    return 2 if job.layout.recompute == "full" else 1


def _tensor(job: Job, h: StageContents) -> list[Collective]:
    """Return the collectives of tensor parallelism: sums of hidden states over the ranks, and what
    transformers' plans gather besides.

    With sequence parallelism a sum is a scatter and a gather, and in the backward pass inputs are
    gathered again for the weights' gradients (Megatron-LM, arXiv 2205.05198). By the plans of
    transformers 5.23 experts' outputs (in 32 bits, their gradients in 16) and logits are gathered.
    """
    a, layout, plans = job.architecture, job.layout, job.profile.transformers
    size = 2.0 * a.hidden * job.pass_tokens
    if plans and layout.sequence_parallel:
        calls = _own_sequence_parallel(job, h, size)
    else:
        cut = regathered = 0.0
        for b, count in h.blocks if plans else h.blocks + h.mtp:
            sums = _layer_sums(job, b)
            cut += count * sum(sums)
            regathered += count * len(sums)
        cut, regathered = cut + h.first + h.last, regathered + h.last  # embedding and head
        calls = [("tensor", "all_reduce", size, cut)]
        if layout.sequence_parallel:
            calls = [
                ("tensor, gather", "all_gather", size, cut + regathered),
                ("tensor, scatter", "reduce_scatter", size, cut),
            ]
    if plans:
        expert_gathers = 0.0
        for b, count in h.blocks:
            if b.experts and layout.ep > 1:
                expert_gathers += count * (2 * (1 + (layout.recompute != "none")) + 1)
        calls += [
            ("experts' tokens", "all_gather", size, expert_gathers),
            ("logits", "all_gather", 2.0 * a.vocabulary * job.pass_tokens, 1.0),
        ]
    return [
        Collective(name, kind, "tp", layout.tp, call_bytes, job.micro_batches * times)
        for name, kind, call_bytes, times in calls
    ]


def _own_sequence_parallel(
    job: Job, h: StageContents, size: float
) -> list[tuple[str, Kind, float, float]]:
    """Return what Onnuri's trainer sends with sequence parallelism, as (name, kind, bytes, calls
    per micro-batch); `size` is the bytes of hidden states (`parallel/sequence_parallel.py`).

    A block whose products are cut gathers its input and the gradient of its output, and scatters
    its output and the gradient of its input. Latent attention and mixtures gather both, and shared
    experts that are cut beside the former sum whole sequences. Recomputation gathers again, and
    scatters again but for what is added last. Each norm's gradient is summed on its own.
    """
    again = job.layout.recompute != "none"
    gathers, scatters, sums, norms = 0.0, 0.0, 0.0, 0.0
    for b, count in h.blocks:
        behind = again and b.norms > 2  # a norm behind the feed-forward needs its output
        latent = bool(b.attention and b.attention.kv_rank)
        gathers += count * (2 + again) * (bool(b.attention) + bool(b.mlp or b.experts))
        scatters += count * (2 + again) * bool(b.attention and not latent)
        scatters += count * (2 + behind) * bool(b.mlp)
        sums += count * (3 + behind) * bool(latent and b.experts and b.experts.shared)
        norms += count * b.outer_norms
    return [
        ("tensor, gather", "all_gather", size, gathers + h.first + h.last),
        ("tensor, scatter", "reduce_scatter", size, scatters),
        ("tensor", "all_reduce", size, sums + h.first + h.last),  # embedding and head
        ("norms' gradients", "all_reduce", 2.0 * job.architecture.hidden, norms + h.last),
    ]


def _layer_sums(job: Job, b: Block) -> list[int]:
    """Return how many sums over the tensor-parallel ranks one layer takes per micro-batch, for each
    of its parts that they cut: attention or mixer, and feed-forward.

    A part takes one forward, for its last product is cut along its rows, one more where it is
    recomputed, and backward one per product that is cut along its columns: Megatron-Core fuses
    them into one, transformers has three in attention and two in a feed-forward. Transformers cuts
    no latent attention, and shared experts only beside it; its recomputation stops at the last
    tensor that is needed.
    """
    shared = bool(b.experts and b.experts.shared)
    if not job.profile.transformers:
        parts = bool(b.attention or b.mixer_params) + bool(b.mlp or shared)
        return [_passes(job) + 1] * parts
    recomputed = job.layout.recompute != "none"
    attention_is_cut = bool(b.attention and not b.attention.kv_rank)
    sums = [1 + recomputed + 3] if attention_is_cut else []
    if b.mlp or (shared and not attention_is_cut):
        sums.append(1 + (recomputed and b.norms > 2) + 2)
    return sums


def _context(job: Job, h: StageContents) -> list[Collective]:
    """Return the messages of ring context parallelism: keys and values go round the ring, backward
    with their gradients (Liu et al. 2023, arXiv 2310.01889)."""
    layout, messages = job.layout, []
    for b, count in h.blocks + h.mtp:
        if at := b.attention:
            heads = at.heads / layout.tp if at.kv_rank else max(at.kv_heads / layout.tp, 1)
            size = 2.0 * heads * (at.head_dim + at.rope_dim + at.values) * job.pass_tokens
            messages.append(
                Collective(
                    name="context, keys and values",
                    kind="p2p",
                    axis="cp",
                    ranks=layout.cp,
                    bytes=size,
                    calls=job.micro_batches * count * (layout.cp - 1) * (_passes(job) + 2),
                )
            )
    return messages


def _expert(job: Job, h: StageContents) -> list[Collective]:
    """Return the all-to-alls of expert parallelism: tokens go to their experts and back, forward
    and backward, and each tensor-parallel rank sends its part of them."""
    layout, exchanges = job.layout, []
    split = layout.tp if job.profile.transformers or layout.sequence_parallel else 1
    for b, count in h.blocks + h.mtp:
        if (e := b.experts) and layout.ep > 1:
            size, calls = (
                2.0 * (e.latent or job.architecture.hidden) * job.pass_tokens / split,
                2 * (_passes(job) + 1),
            )
            exchanges += [
                Collective(
                    name="experts, dispatch and combine",
                    kind="all_to_all",
                    axis=axis,
                    ranks=ranks,
                    bytes=size * copies,
                    calls=job.micro_batches * count * calls,
                )
                for axis, ranks, copies in _copies(job, e)
            ]
    return exchanges


def _copies(job: Job, e: Experts) -> list[tuple[Axis, int, float]]:
    """Return over which ranks one token is sent to its experts: (axis, number of ranks, copies of
    the token).

    Onnuri's trainer sends one copy per chosen expert. Other engines send it once to each other
    domain that has one of its experts, and there once to each rank that has (DeepEP,
    github.com/deepseek-ai/DeepEP).
    """
    ep = job.layout.ep
    if not job.profile.deduplicates_tokens:
        return [("ep", ep, e.topk)]
    domains = -(-ep // job.cluster.kind.domain)
    ranks = max(1, ep // domains)
    return [
        ("ep", ranks, domains * ranks * (1 - (1 - 1 / ranks) ** (e.topk / domains))),
        ("domains", domains, domains * (1 - (1 - 1 / domains) ** e.topk)),
    ]


def _data(job: Job, h: StageContents) -> list[Collective]:
    """Return the data-parallel collectives, of gradients and weights, for each group of weights
    that is sent together: layer by layer, then what belongs to no layer."""
    groups = _weight_groups(job, h)
    if job.layout.sharded or job.profile.transformers:
        return [c for group in groups for c in _sharded(job, *group)]
    return [c for weights, count, _ in groups for c in _replicated(job, weights, count)]


def _weight_groups(job: Job, h: StageContents) -> list[tuple[Weights, float, int]]:
    """Return the groups of weights that are sent together, as (weights on a rank, number of such
    groups, gathers per micro-batch).

    Groups of Onnuri's trainer count `fully_shard`'s padding; it gathers the embedding for the
    forward pass only, and the root's group once for both passes.
    """
    a, layout = job.architecture, job.layout
    if not job.profile.transformers:
        layers = [(layer_weights(b, a.hidden, layout), count, 2) for b, count in h.blocks]
        return [*layers, (h.ends, 1, 2)]
    padded = [(layer(b, a.hidden, layout), count, 2) for b, count in h.blocks]
    padded += [(root(a, layout), 1, 1), (embedding(a, layout), 1, 1)]
    return [(Weights(g.dense, g.routed), count, gathers) for g, count, gathers in padded]


def _replicated(job: Job, weights: Weights, count: float) -> list[Collective]:
    """Return the data-parallel collectives of `count` layers whose `weights` are whole on every
    data rank.

    Gradients are reduced once per step, and with a distributed optimizer its new weights are
    gathered in 16 bits. Where the optimizer is spread over some of the ranks alone, all of them sum
    gradients first (InternLM/InternEvo, hybrid_zero_optim.py).
    """
    layout, calls = job.layout, []
    data = layout.dp * layout.cp
    experts = max(data * layout.tp // layout.ep, 1)
    axes: tuple[tuple[Axis, int, int, float], ...] = (
        ("dp", data, layout.shard or data, weights.dense),
        ("expert_dp", experts, experts, weights.routed),
    )
    for axis, ranks, within, own in axes:
        kind: Kind = (
            "all_reduce" if layout.sharding == "ddp" or within < ranks else "reduce_scatter"
        )
        calls.append(
            Collective(
                "gradients", kind, axis, ranks, job.profile.gradient_bytes * own, count, True
            )
        )
        if layout.sharding != "ddp":
            calls.append(Collective("weights", "all_gather", axis, within, 2 * own, count, True))
    return calls


def _sharded(job: Job, weights: Weights, count: float, gathers: int = 2) -> list[Collective]:
    """Return the collectives of `count` layers whose `weights` are fully sharded: weights are
    gathered in 16 bits `gathers` times per micro-batch, gradients are reduce-scattered, and copies
    of the model (HSDP) add their shards up."""
    layout, m = job.layout, job.micro_batches
    dense, routed = shards(layout)
    copies, staged, listing = layout.dp * layout.cp // dense, layout.pp > 1, []
    axes: tuple[tuple[Axis, int, float], ...] = (
        ("dp", dense, weights.dense),
        ("expert_dp", routed, weights.routed),
    )
    for axis, ranks, own in axes:
        size, calls, summed = (
            job.profile.gradient_bytes * own,
            count * (1 if staged else m),
            count * (m if job.profile.sums_copies_every_pass else 1),
        )
        listing += [
            Collective(
                "weights",
                "all_gather",
                axis,
                ranks,
                2 * own,
                (1 if staged else gathers) * calls,
                staged,
            ),
            Collective("gradients", "reduce_scatter", axis, ranks, size, calls, staged),
            Collective(
                "gradients of copies",
                "all_reduce",
                "replica",
                copies,
                size / ranks,
                summed,
                not job.profile.sums_copies_every_pass,
            ),
        ]
    return listing


def _pipeline(job: Job, h: StageContents) -> list[Collective]:
    """Return the messages that a rank sends to its pipeline neighbours: hidden states to the next
    chunk and their gradients back."""
    split = job.layout.tp if job.layout.sequence_parallel else 1
    return [
        Collective(
            name="pipeline",
            kind="p2p",
            axis="pp",
            ranks=job.layout.pp,
            bytes=2.0 * job.architecture.hidden * job.pass_tokens / split,
            calls=job.micro_batches * h.sends,
        )
    ]
