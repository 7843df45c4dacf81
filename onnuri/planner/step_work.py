"""Count what one GPU computes and moves for a micro-batch and for a step, and how long its
collectives hold the wires.

Knows no constant that was fitted. What is sent is counted in `traffic.py`; here it becomes seconds
at the wires' full rate. One `Work` per job; `step_time` makes seconds of all of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from onnuri.planner.architecture import Architecture, Attention, Block
from onnuri.planner.job import Job
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.pipeline_stages import ends, mean_weights
from onnuri.planner.traffic import Axis, Collective, Part, StageContents, collectives
from onnuri.planner.weights import Weights, attention_products

TILE = 256
"""columns that a kernel's block of threads computes; a product whose columns are no multiple
computes the rest of the last tile for nothing"""
ADAM_BYTES = 2 * (4 + 4 + 4)
"""bytes per weight that an optimizer step reads and writes: the weight and two moments in 32 bits
(Kingma and Ba 2014, arXiv 1412.6980)"""
COPY_BYTES = 2 * (2 + 2) + (2 + 4)
"""bytes per weight and micro-batch that are copied: out of two gathers in 16 bits, the gradient
into a 32-bit sum (`fully_shard`'s copies in and out,
torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py)"""
COPY_BYTES_ALONE = 50
"""the same where one rank shares with none: `fully_shard` casts, copies to itself and divides
(times of kernels, `benchmarks/results/gpu_fsdp.json` beside `gpu.json`)"""
ROUND_BYTES = 4 + 2
"""bytes per weight and micro-batch for the 16-bit copy of whole weights
(`parallel/working_weights.py`)"""
SUM_BYTES, FIRST_SUM_BYTES = 2 + 4 + 4, 2 + 4
"""bytes per weight and micro-batch where a gradient in 16 bits is added to one in 32; the first
gradient of a step is only written"""
OPERATORS_NORM, OPERATORS_RESIDUAL, OPERATORS_ROTATED, OPERATORS_LATENT, OPERATORS_GATED = (
    135.0,
    24.0,
    50.0,
    150.0,
    31.0,
)
"""bytes that operators of transformers 5.23 read and write, forward and backward, per number of a
norm's input, of a layer's state, of rotated queries and keys, of latent queries, of a gated
feed-forward's width: what a dispatch mode counts in `onnuri/profile/trace.py`'s way, products and
attention left out"""
OPERATORS_ROUTED = 90.0
"""bytes of the same kind per number that goes to an expert and back, the router's work with it"""
FORWARD = 0.3
"""share of those bytes that the forward pass moves"""
FUSED_YEAR = 2026.42
"""Megatron Core 26.06 (github NVIDIA/Megatron-LM issue 4997): experts' biases, clamps and
activations in one kernel"""


class Work(NamedTuple):
    """What one GPU computes, moves and sends: forward and backward of one micro-batch through its
    stage, unless a field says "per step".

    A field is a number; the fit stacks many jobs' works, and a field is then an array.
    """

    proj_flops: float = 0.0
    """products around attention and in state-space mixers"""
    proj_bytes: float = 0.0
    """operands and results of those products, once in 16 bits"""
    mlp_flops: float = 0.0
    """dense feed-forwards and shared experts"""
    mlp_bytes: float = 0.0
    expert_flops: float = 0.0
    expert_bytes: float = 0.0
    head_flops: float = 0.0
    head_bytes: float = 0.0
    quant_bytes: float = 0.0
    """activations and weights that go into products, once in 16 bits: what conversion to a narrow
    format reads"""
    expert_quant_bytes: float = 0.0
    attention_flops: float = 0.0
    """scores and sums, the softmax recomputed in backward (FlashAttention, arXiv 2205.14135)"""
    exponentials: float = 0.0
    elementwise_bytes: float = 0.0
    """norms, residuals, rotations, activation functions, loss"""
    permute_bytes: float = 0.0
    """tokens put in the experts' order and back"""
    scan_bytes: float = 0.0
    """state-space mixers' states and gates"""
    layers: float = 0.0
    """passes through a layer whose kernels the host launches"""
    expert_layers: float = 0.0
    """passes through a layer with experts"""
    expert_groups: float = 0.0
    """experts of a rank in those layers, each with kernels of its own"""
    tp_wire: float = 0.0
    """s for which tensor parallelism holds its links at their full rate; all `_wire` fields are
    such seconds"""
    cp_wire: float = 0.0
    ep_wire: float = 0.0
    pp_wire: float = 0.0
    gather_wire: float = 0.0
    """for parameters and gradients of data ranks in every micro-batch"""
    step_wire: float = 0.0
    """for parameters and gradients of data ranks, once per step"""
    gather_hops: float = 0.0
    """messages in a row times ranks, per micro-batch"""
    step_hops: float = 0.0
    """messages in a row times ranks, per step"""
    tp_copy_bytes: float = 0.0
    """what PyTorch's tensor parallelism copies into another layout around its collectives: they cut
    the first dimension, and tokens are the second (torch/distributed/_functional_collectives.py:
    `torch.cat(torch.chunk(...))`)"""
    copy_bytes: float = 0.0
    """whole weights and gradients that fully sharded PyTorch copies to and from its collectives'
    buffers, or Onnuri's trainer on one GPU to and from 16 bits"""
    optimizer_bytes: float = 0.0
    """per step"""
    micro_batches: float = 1.0
    cover: float = 1.0
    """passes at a step's end and start beside which data ranks can talk: with interleaved chunks of
    layers, those of the chunks after the first"""
    bubble: float = 0.0
    """micro-batches' worth of waiting in a pipeline per step"""
    model_flops: float = 0.0
    """per step and GPU, with causal attention and nothing recomputed"""


def work(job: Job) -> Work:
    """Return all that one GPU computes and moves in a step of the job, counted from the shapes."""
    return Work(
        **copy_work(job),
        **data_parallel_work(job),
        **schedule(job),
        model_flops=job.architecture.flops_per_token(job.tokens)
        * job.batch_tokens
        / job.layout.gpus,
    )


def copy_work(job: Job) -> dict[str, float]:
    """Return the fields of `Work` that one copy of the model needs for a micro-batch: products, and
    what tensor, context, expert and pipeline ranks send.

    How data ranks share weights, and how many there are, changes none of them.
    """
    a, layout = job.architecture, job.layout
    tokens = job.pass_tokens
    passes = forward_passes(job)
    fields = dict.fromkeys(
        (
            "proj_flops",
            "proj_bytes",
            "mlp_flops",
            "mlp_bytes",
            "expert_flops",
            "expert_bytes",
            "quant_bytes",
            "expert_quant_bytes",
            "attention_flops",
            "exponentials",
            "elementwise_bytes",
            "permute_bytes",
            "scan_bytes",
            "layers",
            "expert_layers",
            "expert_groups",
        ),
        0.0,
    )
    share, last = _slowest_stage_shares(a, layout)
    kinds = [
        _layer_work(a, a.blocks[k], job, tokens, passes) if k == n else {}
        for n, k in enumerate(a.alike)
    ]
    of_mtp = [_layer_work(a, block, job, tokens, passes) for block in a.mtp]
    for block, layer_fields in zip(
        (*a.blocks, *a.mtp), (*(kinds[k] for k in a.alike), *of_mtp), strict=True
    ):
        for name, value in layer_fields.items():
            fields[name] += value * block.count * share
    fields["proj_flops"] += passes * tokens * max(0.0, a.extra_flops) * share / layout.tp
    gpu = job.cluster.kind
    if layout.precision == "nvfp4" and any(b.mixer_params for b in a.blocks):
        # Nemotron 3 keeps attention's and mixers' products wider (arXiv 2512.20856, "NVFP4
        # training")
        fields["proj_flops"] *= gpu.peak_tflops("nvfp4") / gpu.peak_tflops("mxfp8")
    heads = (1 + len(a.mtp)) * last
    head = _product(tokens, a.hidden, a.vocabulary / layout.tp)
    fields["head_flops"], fields["head_bytes"] = (3 * heads * x for x in head)
    fields["elementwise_bytes"] += (
        heads * tokens * a.vocabulary * job.profile.loss_bytes / layout.tp
    )
    fields["tp_copy_bytes"] = _layout_bytes(job)
    return fields | wires(job, "inside")


def data_parallel_work(job: Job) -> dict[str, float]:
    """Return the fields of `Work` that depend on how data ranks share weights; the micro-batch, its
    count and what is recomputed change none of them."""
    return wires(job, "data") | {
        "optimizer_bytes": _optimizer_bytes(job),
        "copy_bytes": _copy_bytes(job),
    }


def _slowest_stage_shares(a: Architecture, layout: ParallelConfig) -> tuple[float, float]:
    """Return the slowest pipeline rank's share of the layers, and of the head beside them (1 or 0).

    Engineers either give every stage as many layers, or let embedding and head take a layer's
    place; the better of both counts.
    """
    if layout.pp == 1:
        return 1.0, 1.0
    slots = layout.pp * min(layout.virtual_stages, max(1, (a.layers + 2) // layout.pp))
    even, placed = (-(-n // slots) * slots / a.layers for n in (a.layers, a.layers + 2))
    layer = a.num_active_params() / a.layers
    alone, within = even + layout.pp * a.embedding() / layer / a.layers, placed + 1e-9
    return (even / layout.pp, 1.0) if alone <= within else (placed / layout.pp, 0.0)


def _product(m: float, k: float, n: float) -> tuple[float, float]:
    """Return FLOPs and bytes of one matrix product (m, k) x (k, n) in 16 bits, with n rounded up to
    whole tiles."""
    padded_columns = -(-n // TILE) * TILE
    return 2 * m * k * padded_columns, 2 * (m * k + k * n + m * n)


def _layer_work(
    a: Architecture, block: Block, job: Job, tokens: float, passes: float
) -> dict[str, float]:
    """Return the fields of `Work` that one layer of `block` adds for a micro-batch of `tokens` on
    one rank; `passes` is the number of forward passes that forward, backward and recomputation
    cost."""
    tp, h = job.layout.tp, a.hidden
    fields = {"layers": passes / 3}
    state_numbers = h * tokens / (tp if job.layout.sequence_parallel else 1)
    moved_numbers = (
        5.0 * block.norms + 4.0 * block.gated_norms
    ) * state_numbers  # norm in and out, residual's three; gate's and product's
    projections: list[tuple[float, float]] = [(h, max(0, block.other_params) / h)] * bool(
        block.other_params
    )
    if at := block.attention:
        projections += attention_products(at, h, tp)
        fields |= _score_work(at, job, tokens, passes)
        rotated = 2.0 + 6 * at.sinks  # rotations; sinks come as kernels of their own
        moved_numbers += 4.0 * at.gated * tokens * at.heads * at.values / tp
        moved_numbers += (
            rotated * tokens * (at.heads + at.kv_heads) * (at.head_dim + at.rope_dim) / tp
        )
    if block.mixer_params:
        inner = block.mixer_width
        n = (block.mixer_params - inner * h) / h
        projections += [(h, n / tp), (inner / tp, h)]
        fields["scan_bytes"] = 2 * passes * tokens * inner * 8 / tp
    if projections:
        fields |= _product_work("proj", tokens, projections, passes)
    width = block.mlp + (
        block.experts.shared * (block.experts.shared_width or block.experts.width)
        if block.experts
        else 0
    )
    up_shapes: list[tuple[float, float]] = [(h, (1 + block.gated) * width / tp)] if width else []
    down_shapes: list[tuple[float, float]] = [(width / tp, h)] if width else []
    moved_numbers += (2.0 + block.gated) * tokens * width / tp
    up_shapes += [(h, block.gate_rank), (block.gate_rank, h)] * block.gated_norms
    if e := block.experts:
        if e.latent:
            up_shapes += [(h, e.latent), (e.latent, h)]
        fields |= _expert_work(e.latent or h, block, job, tokens, passes)
        separate_kernels = e.bias and not (job.software_year or 0.0) >= FUSED_YEAR
        passed = (
            2.0 + block.gated + 12 * separate_kernels
        )  # biases and clamps came as kernels of their own
        moved_numbers += passed * tokens * e.topk * e.width / tp + tokens * e.routed / tp * 4
    # PyTorch stops a layer's recomputation at the last tensor that is needed: a dense
    # feed-forward's last product is not
    stopped = block.mlp and block.norms <= 2 and not block.experts and job.profile.pytorch
    parts = [
        _product_work("mlp", tokens, up_shapes, passes),
        _product_work("mlp", tokens, down_shapes, 3.0 if stopped else passes),
    ]
    if up_shapes:
        fields |= {name: sum(part[name] for part in parts) for name in parts[0]}
    elementwise_passes = 4.0 if recomputes_elementwise(job) else passes
    fields["elementwise_bytes"] = 2 * elementwise_passes * moved_numbers
    if recomputes_elementwise(job):
        fields["layers"] = elementwise_passes / 3
    if job.profile.transformers and (e := block.experts):
        # transformers' `grouped_mm` waits for no count of tokens and launches about as many kernels
        # as two layers more
        fields |= {
            "layers": 3 * fields["layers"],
            "expert_layers": 0.0,
            "expert_groups": 0.0,
            "permute_bytes": fields["permute_bytes"] * elementwise_passes / passes,
        }
    if job.profile.transformers and not job.cluster.compiled:
        grown = 1 + FORWARD * (elementwise_passes - 3)
        fields["elementwise_bytes"] = grown * tokens * operator_bytes(block, h, job.layout)
        if e := block.experts:
            fields["permute_bytes"] = grown * OPERATORS_ROUTED * tokens / tp * e.topk * h
    fields["quant_bytes"] = fields.get("proj_bytes", 0.0) + fields.get("mlp_bytes", 0.0)
    fields["expert_quant_bytes"] = fields.get("expert_bytes", 0.0)
    return fields


def operator_bytes(block: Block, h: int, layout: ParallelConfig) -> float:
    """Return the bytes per token that transformers' operators between a layer's products read and
    write, forward and backward, one operator after another.

    They follow from the layer's sizes, as counted in a trace of Llama, Solar Open and A.X K1.
    """
    tp, at, e = layout.tp, block.attention, block.experts
    split = tp if layout.sequence_parallel else 1
    norms = (block.outer_norms + block.centred * 0.2) / split + block.norms - block.outer_norms
    total_bytes = OPERATORS_NORM * norms * h + OPERATORS_RESIDUAL * h / split
    total_bytes += 30.0 * block.gated_norms * h
    if at and at.kv_rank:
        total_bytes += OPERATORS_LATENT * at.heads * (at.head_dim + at.rope_dim)
    elif at:
        bytes_per_number = OPERATORS_ROTATED + OPERATORS_NORM * at.qk_norm
        total_bytes += (
            bytes_per_number * (at.heads + at.kv_heads) * at.head_dim
            + 10.0 * at.gated * at.heads * at.values
        ) / tp
    width = block.mlp + (e.shared * (e.shared_width or e.width) + e.topk * e.width if e else 0)
    return total_bytes + OPERATORS_GATED * width / tp * (0.5 + 0.5 * block.gated)


def forward_passes(job: Job) -> float:
    """Return how many forward passes' worth of products a layer computes per micro-batch: one
    forward, two for the backward pass, and what is computed again.

    PyTorch's engines that recompute selectively do every second product, or every second layer,
    once more (torchtitan, `distributed/activation_checkpoint.py`).
    """
    half = (
        job.layout.recompute == "selective" and not job.profile.transformers and job.profile.pytorch
    )
    return 4.0 if job.layout.recompute == "full" else 3.5 if half else 3.0


def recomputes_elementwise(job: Job) -> bool:
    """Return whether all that stands between products is computed again in the backward pass:
    PyTorch's selective checkpointing keeps products and attention alone (`parallel/recompute.py`,
    SAVED_OPERATORS)."""
    return job.layout.recompute == "selective" and job.profile.transformers


def _product_work(
    name: str, tokens: float, shapes: list[tuple[float, float]], passes: float
) -> dict[str, float]:
    """Return FLOPs and bytes of several products on `tokens` rows, as the fields `{name}_flops` and
    `{name}_bytes`; `shapes` are (inputs, outputs) of the weights."""
    costs = [_product(tokens, k, n) for k, n in shapes]
    return {
        f"{name}_flops": passes * sum(d[0] for d in costs),
        f"{name}_bytes": passes * sum(d[1] for d in costs),
    }


def _score_work(at: Attention, job: Job, tokens: float, passes: float) -> dict[str, float]:
    """Return the fields of `Work` for attention's scores and weighted sums on one rank.

    The backward pass is five products to forward's two, so that all takes 3.5 forward passes
    without recomputation (FlashAttention-2, arXiv 2307.08691).
    """
    seen, times = at.seen(job.tokens), passes + 0.5
    return {
        "attention_flops": times * tokens * at.score_flops(seen) / job.layout.tp,
        "exponentials": (passes - 1) * tokens * seen * at.heads / job.layout.tp,
    }


def _expert_work(
    width: int, block: Block, job: Job, tokens: float, passes: float
) -> dict[str, float]:
    """Return the fields of `Work` for the routed experts of one layer on one rank. Routing is
    balanced: every local expert sees the same number of tokens. `width` is that of the experts'
    input."""
    e, layout = block.experts, job.layout
    assert e
    local = e.routed / layout.ep
    rows = tokens / layout.tp * e.topk / local
    shapes = [(width, (1 + block.gated) * e.width), (e.width, width)]
    costs = [
        _product(rows + TILE / 2, k, n) for k, n in shapes
    ]  # groups end in the middle of a tile
    return {
        "expert_flops": passes * local * sum(d[0] for d in costs),
        "expert_bytes": passes * local * sum(d[1] for d in costs),
        "permute_bytes": 2 * passes * tokens / layout.tp * e.topk * width * 4,
        "expert_layers": passes / 3,
        "expert_groups": local * passes / 3,
    }


def slowest_stage(job: Job) -> StageContents:
    """Return what the rank of the slowest pipeline stage holds, which all others wait for; layers
    may be fractions."""
    a, layout = job.architecture, job.layout
    share, last = _slowest_stage_shares(a, layout)
    alone, slots = layout.pp == 1, layout.pp * layout.virtual_stages
    at_end = ends(a, layout, layout.pp - 1) if last else Weights()
    return StageContents(
        [(b, b.count * share) for b in a.blocks],
        [(b, b.count * share) for b in a.mtp],
        alone,
        bool(last),
        at_end,
        2 * (slots - 1) / layout.pp,
    )


def wires(job: Job, part: Part = "all") -> dict[str, float]:
    """Return seconds and hops of the collectives, by the field of `Work`."""
    fields: dict[str, float] = {}
    for c in collectives(job, slowest_stage(job), part):
        times = c.calls if c.once else c.calls / job.micro_batches
        name = _WIRE_FIELDS.get(c.axis) or ("step" if c.once else "gather")
        fields[f"{name}_wire"] = fields.get(f"{name}_wire", 0.0) + times * _call_seconds(job, c)
        if c.axis not in _WIRE_FIELDS:
            fields[f"{name}_hops"] = fields.get(f"{name}_hops", 0.0) + times * _hops(c)
    return fields


_WIRE_FIELDS: dict[Axis, str] = {"tp": "tp", "cp": "cp", "ep": "ep", "domains": "ep", "pp": "pp"}
"""the first word of the field of `Work` by the axis that talks; for data ranks it depends on when
they talk"""


def _hops(c: Collective) -> float:
    """Return the messages in a row of one call: round a ring, or up a tree and down again (NCCL
    2.4's double binary trees)."""
    return 2 * math.log2(c.ranks) if c.kind == "all_reduce" else c.ranks - 1


def _call_seconds(job: Job, c: Collective) -> float:
    """Return the seconds of one call of a collective at the wires' full rate: a ring's steps, or an
    all-to-all's shares within a domain of fast links and beyond."""
    kind, layout, nic = job.cluster.kind, job.layout, job.cluster.nic * 1e9
    link = kind.link_gb_per_s * 1e9
    if c.kind == "all_to_all":
        near = min(c.ranks, kind.domain) if c.axis == "ep" else 1
        return c.bytes / c.ranks * ((near - 1) / link + (c.ranks - near) / nic)
    apart = {"tp": 1, "cp": layout.tp, "dp": layout.tp, "expert_dp": layout.ep}.get(
        c.axis
    ) or layout.gpus // c.ranks
    if c.kind == "p2p":  # one neighbour, over a card of its own
        return c.bytes / (link if apart * c.ranks <= kind.domain else nic)
    return (
        c.bytes
        * (1 + (c.kind == "all_reduce"))
        * (c.ranks - 1)
        / c.ranks
        / ring_rate(job, apart, c.ranks)
    )


def _optimizer_bytes(job: Job) -> float:
    """Return the bytes that the optimizer of one rank reads and writes in a step, less those of
    `_copy_bytes` that the first micro-batch of a step does not need."""
    a, layout = job.architecture, job.layout
    ranks, weights = layout.dp * layout.cp, mean_weights(a, layout)
    mtp_routed = sum(b.count * b.routed(a.hidden) for b in a.mtp)
    mtp = sum(b.num_params(a.hidden) + 2 * a.hidden**2 for b in a.mtp)
    dense = weights.dense + (mtp - mtp_routed) / (layout.tp * layout.pp)
    routed = weights.routed + mtp_routed / (layout.ep * layout.pp)
    shard = 1 if layout.sharding == "ddp" else layout.shard or ranks
    local = dense / shard + routed / min(max(1.0, ranks * layout.tp / layout.ep), shard)
    per_weight = ADAM_BYTES + job.profile.gradient_bytes + job.profile.update_bytes
    if job.profile.whole_weights:
        per_weight -= SUM_BYTES - FIRST_SUM_BYTES
    return per_weight * local


def _copy_bytes(job: Job) -> float:
    """Return the bytes per micro-batch that one rank copies beside its products: fully sharded
    PyTorch to and from its collectives' buffers, Onnuri's trainer on one GPU to and from 16 bits;
    0 for other engines."""
    a, layout = job.architecture, job.layout
    if job.profile.whole_weights:
        return (ROUND_BYTES + SUM_BYTES) * sum(mean_weights(a, layout))
    if not layout.sharded or not job.profile.pytorch:
        return 0.0
    per_weight = COPY_BYTES if layout.dp * layout.cp > 1 else COPY_BYTES_ALONE
    return per_weight * sum(mean_weights(a, layout))


def schedule(job: Job) -> dict[str, float]:
    """Return the fields of `Work` that follow from the number of micro-batches and the pipeline."""
    layout = job.layout
    return {
        "micro_batches": float(job.micro_batches),
        "cover": 1
        + (layout.virtual_stages > 1)
        * (1 - 1 / layout.virtual_stages)
        * (min(layout.pp, job.micro_batches) - 1),
        "bubble": (layout.pp - 1)
        / min(layout.virtual_stages, max(1, job.architecture.layers // layout.pp)),
    }


def _layout_bytes(job: Job) -> float:
    """Return the bytes per micro-batch that PyTorch's tensor parallelism reads and writes to change
    the layout of tokens around its collectives; 0 for other engines."""
    if (
        job.layout.tp == 1
        or not job.layout.sequence_parallel
        or not job.profile.pytorch
        or job.profile.async_tp
    ):
        return 0.0
    moved = sum(c.total for c in collectives(job, slowest_stage(job), "inside") if c.axis == "tp")
    return 2 * moved / job.micro_batches


def ring_rate(job: Job, apart: int, ranks: int) -> float:
    """Return the bytes per second of a ring over `ranks` whose neighbours are `apart` global ranks
    from each other.

    Inside a domain of fast links it is the links' rate, else that of the network cards that the
    domain's members of the group have among them, at most the links'.
    """
    kind = job.cluster.kind
    link = kind.link_gb_per_s * 1e9
    if apart * ranks <= kind.domain:
        return link
    return min(link, job.cluster.nic * 1e9 * max(1.0, min(kind.domain / apart, ranks)))
