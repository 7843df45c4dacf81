"""What one GPU computes, moves and sends for a micro-batch and for a step: FLOPs, bytes, messages, before any speed.

Knows no constant that was fitted and no rate. One `Work` a job; `step_time` makes seconds of it.
"""

from __future__ import annotations

from typing import NamedTuple

from onnuri.planner.architecture import Architecture, Attention, Block
from onnuri.planner.job import Job
from onnuri.planner.layout import Layout

TILE = 256
"""columns that a kernel's block of threads computes; what a product lacks of it is computed for nothing"""


class Work(NamedTuple):
    """Of one GPU: forward and backward of one micro-batch through its stage, unless a field says a step. A field is a
    number; the fit stacks many jobs' works, and a field is then an array."""

    proj_flops: float = 0.0
    """products around attention and in state-space mixers"""
    proj_bytes: float = 0.0
    """their operands and results once in 16 bit"""
    mlp_flops: float = 0.0
    """dense feed-forwards and shared experts"""
    mlp_bytes: float = 0.0
    expert_flops: float = 0.0
    expert_bytes: float = 0.0
    head_flops: float = 0.0
    head_bytes: float = 0.0
    quant_bytes: float = 0.0
    """activations and weights that go into products, once in 16 bit: what a narrow format reads to convert"""
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
    tp_bytes: float = 0.0
    """sent a GPU, one way"""
    tp_rate: float = 1.0
    """bytes a second of the link that carries them"""
    cp_bytes: float = 0.0
    cp_rate: float = 1.0
    ep_link_bytes: float = 0.0
    """to ranks of the fast links' domain, each once a token"""
    ep_nic_bytes: float = 0.0
    """to other domains, each once a token"""
    pp_bytes: float = 0.0
    gather_bytes: float = 0.0
    """parameters and gradients of sharded ranks, a micro-batch"""
    step_bytes: float = 0.0
    """parameters and gradients of data ranks, a step"""
    step_expert_bytes: float = 0.0
    """of experts, among the ranks that hold the same ones"""
    data_rate: float = 1.0
    expert_rate: float = 1.0
    gather_hops: float = 0.0
    """messages in a row times ranks, a micro-batch"""
    step_hops: float = 0.0
    """the same, a step"""
    optimizer_bytes: float = 0.0
    """a step"""
    micro_batches: float = 1.0
    cover: float = 1.0
    """passes at a step's end and start beside which data ranks can talk: with interleaved chunks of layers, those of the
    chunks after the first"""
    bubble: float = 0.0
    """passes' worth of waiting, as a share of a micro-batch's time"""
    model_flops: float = 0.0
    """of a step and GPU, causal, nothing recomputed"""


def work(job: Job) -> Work:
    """All of it, from the shapes."""
    a, layout = job.architecture, job.layout
    tokens = job.pass_tokens
    passes = 4.0 if layout.recompute == "full" else 3.0
    fields = dict.fromkeys(("proj_flops", "proj_bytes", "mlp_flops", "mlp_bytes", "expert_flops", "expert_bytes",
                            "quant_bytes", "expert_quant_bytes", "attention_flops", "exponentials", "elementwise_bytes",
                            "permute_bytes", "scan_bytes", "layers", "expert_layers"), 0.0)
    share, last = _stages(a, layout)
    for block in (*a.blocks, *a.mtp):
        for name, value in _block(a, block, job, tokens, passes).items():
            fields[name] += value * block.count * share
    gpu = job.cluster.kind
    if layout.precision == "nvfp4" and any(b.mixer_params for b in a.blocks):
        # Nemotron 3 keeps attention's and mixers' products wider (arXiv 2512.20856, "NVFP4 training")
        fields["proj_flops"] *= gpu.peak_tflops("nvfp4") / gpu.peak_tflops("mxfp8")
    heads = (1 + len(a.mtp)) * last
    head = _product(tokens, a.hidden, a.vocabulary / layout.tp)
    fields["head_flops"], fields["head_bytes"] = (3 * heads * x for x in head)
    fields["elementwise_bytes"] += heads * tokens * a.vocabulary * 14 / layout.tp  # logits, loss, gradient
    return Work(**fields, **_sent(job, tokens, passes), **_step(job))


def _stages(a: Architecture, layout: Layout) -> tuple[float, float]:
    """The fullest pipeline rank's share of the layers, and of the head beside them. Engineers either give every stage as
    many layers, or let embedding and head take a layer's place; the better of both counts."""
    if layout.pp == 1:
        return 1.0, 1.0
    slots = layout.pp * min(layout.virtual_stages, max(1, (a.layers + 2) // layout.pp))
    even, placed = (-(-n // slots) * slots / a.layers for n in (a.layers, a.layers + 2))
    layer = a.num_active_params() / a.layers
    alone, within = even + layout.pp * a.embedding() / layer / a.layers, placed + 1e-9
    return (even / layout.pp, 1.0) if alone <= within else (placed / layout.pp, 0.0)


def _product(m: float, k: float, n: float) -> tuple[float, float]:
    """FLOPs and bytes of one matrix product in 16 bit."""
    wide = -(-n // TILE) * TILE
    return 2 * m * k * wide, 2 * (m * k + k * n + m * n)


def _block(a: Architecture, block: Block, job: Job, tokens: float, passes: float) -> dict[str, float]:
    """Of one layer."""
    tp, h = job.layout.tp, a.hidden
    out = {"layers": passes / 3}
    whole = h * tokens / (tp if job.layout.sequence_parallel else 1)
    moved = (5.0 * block.norms + 4.0 * block.gated_norms) * whole  # norm in and out, residual's three; gate's and product's
    if at := block.attention:
        products = _attention_products(at, h, tp)
        out |= _products("proj", tokens, products, passes)
        out |= _scores(at, job, tokens, passes)
        around = 2.0 + 6 * at.sinks  # rotations; sinks come as kernels of their own
        moved += 4.0 * at.gated * tokens * at.heads * at.values / tp
        moved += around * tokens * (at.heads + at.kv_heads) * (at.head_dim + at.rope_dim) / tp
    elif block.mixer_params:
        inner = block.mixer_width
        n = (block.mixer_params - inner * h) / h
        out |= _products("proj", tokens, [(h, n / tp), (inner / tp, h)], passes)
        out["scan_bytes"] = 2 * passes * tokens * inner * 8 / tp
    width = block.mlp + (block.experts.shared * (block.experts.shared_width or block.experts.width) if block.experts else 0)
    products = [(h, (1 + block.gated) * width / tp), (width / tp, h)] if width else []
    moved += (2.0 + block.gated) * tokens * width / tp
    products += [(h, block.gate_rank), (block.gate_rank, h)] * block.gated_norms
    if e := block.experts:
        if e.latent:
            products += [(h, e.latent), (e.latent, h)]
        out |= _experts(e.latent or h, block, job, tokens, passes)
        passed = 2.0 + block.gated + 12 * e.bias  # biases and clamps come as kernels of their own
        moved += passed * tokens * e.topk * e.width / tp + tokens * e.routed / tp * 4
    if products:
        out |= _products("mlp", tokens, products, passes)
    out["elementwise_bytes"] = 2 * passes * moved
    out["quant_bytes"] = out.get("proj_bytes", 0.0) + out.get("mlp_bytes", 0.0)
    out["expert_quant_bytes"] = out.get("expert_bytes", 0.0)
    return out


def _products(name: str, tokens: float, shapes: list[tuple[float, float]], passes: float) -> dict[str, float]:
    done = [_product(tokens, k, n) for k, n in shapes]
    return {f"{name}_flops": passes * sum(d[0] for d in done), f"{name}_bytes": passes * sum(d[1] for d in done)}


def _attention_products(at: Attention, hidden: int, tp: int) -> list[tuple[float, float]]:
    if not at.kv_rank:
        key = max(at.kv_heads / tp, 1.0)
        return [(hidden, at.heads / tp * at.head_dim + key * (at.head_dim + at.values)), (at.heads / tp * at.values, hidden)]
    query = at.asked() / tp
    asked = [(hidden, at.query_rank), ((1 + at.gated) * at.query_rank, query)] if at.query_rank else [(hidden, query)]
    return [*asked, (hidden, at.kv_rank + at.rope_dim), (at.kv_rank, at.heads / tp * (at.head_dim + at.values)),
            (at.heads / tp * at.values, hidden)]


def _scores(at: Attention, job: Job, tokens: float, passes: float) -> dict[str, float]:
    """3.5 forward passes: backward is five products to forward's two (FlashAttention-2, arXiv 2307.08691)."""
    seen, times = at.seen(job.tokens), passes + 0.5
    return {"attention_flops": times * tokens * at.score_flops(seen) / job.layout.tp,
            "exponentials": (passes - 1) * tokens * seen * at.heads / job.layout.tp}


def _experts(width: int, block: Block, job: Job, tokens: float, passes: float) -> dict[str, float]:
    """Balanced routing: every local expert sees the same number of tokens."""
    e, layout = block.experts, job.layout
    assert e
    local = e.routed / layout.ep
    each = tokens / layout.tp * e.topk / local
    shapes = [(width, (1 + block.gated) * e.width), (e.width, width)]
    done = [_product(each, k, n) for k, n in shapes]
    return {"expert_flops": passes * local * sum(d[0] for d in done), "expert_bytes": passes * local * sum(d[1] for d in done),
            "permute_bytes": 2 * passes * tokens / layout.tp * e.topk * width * 4, "expert_layers": passes / 3}


def _sent(job: Job, tokens: float, passes: float) -> dict[str, float]:
    """A micro-batch's collectives."""
    a, layout, kind = job.architecture, job.layout, job.cluster.kind
    link, nic = kind.link_gb_per_s * 1e9, job.cluster.nic * 1e9
    share, _ = _stages(a, layout)
    out = {"tp_rate": link if layout.tp <= kind.domain else nic, "pp_bytes": 0.0,
           "cp_rate": link if layout.tp * layout.cp <= kind.domain else nic}
    attended = sum(b.count for b in a.blocks if b.attention) * share
    mixed = sum(b.count for b in a.blocks) * share
    if layout.tp > 1:  # gather and scatter around attention and feed-forward, one gather more in backward (2205.05198)
        out["tp_bytes"] = 2 * (6 + passes) * mixed * tokens * a.hidden * (layout.tp - 1) / layout.tp
    if layout.cp > 1:
        at = next(b.attention for b in a.blocks if b.attention)
        out["cp_bytes"] = passes * attended * tokens * 2 * at.kv_heads * (at.head_dim + at.values) / layout.tp * (layout.cp - 1)
    if layout.pp > 1:
        out["pp_bytes"] = 4 * tokens * a.hidden / layout.tp * layout.virtual_stages
    for block in (*a.blocks, *a.mtp):
        if block.experts and layout.ep > 1:
            for name, value in _dispatched(a, block, job, tokens).items():
                out[name] = out.get(name, 0.0) + value * block.count * share
    return out


def _dispatched(a: Architecture, block: Block, job: Job, tokens: float) -> dict[str, float]:
    """A token goes once to each rank of the domain that has one of its experts, and once to each other domain
    (DeepEP, github.com/deepseek-ai/DeepEP); there and back, forward and backward."""
    e, layout, domain = block.experts, job.layout, job.cluster.kind.domain
    assert e
    near = min(layout.ep, domain)
    nodes = layout.ep / near
    ranks = near * (1 - (1 - 1 / near) ** (e.topk / nodes)) * (1 - 1 / near) * nodes
    far = nodes * (1 - (1 - 1 / nodes) ** e.topk) * (1 - 1 / nodes)
    sent = 4 * 2 * tokens / layout.tp * (e.latent or a.hidden)
    return {"ep_link_bytes": sent * ranks, "ep_nic_bytes": sent * far}


def _step(job: Job) -> dict[str, float]:
    """What a step needs besides its micro-batches, and what sharded parameters cost."""
    a, layout = job.architecture, job.layout
    ranks = layout.dp * layout.cp
    routed = sum(b.count * b.routed(a.hidden) for b in (*a.blocks, *a.mtp))
    extra = sum(b.num_params(a.hidden) + 2 * a.hidden**2 for b in a.mtp)
    dense = (a.num_params() + extra - routed) / (layout.tp * layout.pp)
    experts = routed / (layout.ep * layout.pp)
    spare = max(1.0, ranks * layout.tp / layout.ep)  # ranks that hold the same experts
    shard = _shard(job)
    local = dense / shard + experts / min(spare, shard)
    sent, expert_sent = dense * (ranks > 1), experts * (spare > 1)
    messages = a.layers / layout.pp
    out = {"step_expert_bytes": 0.0, "optimizer_bytes": 26.0 * local,
           "micro_batches": float(job.micro_batches), "gather_bytes": 0.0,
           "gather_hops": 0.0, "step_bytes": 0.0, "step_hops": 0.0,
           "cover": 1 + (layout.virtual_stages > 1) * (1 - 1 / layout.virtual_stages) * (min(layout.pp, job.micro_batches) - 1),
           "bubble": (layout.pp - 1) / min(layout.virtual_stages, max(1, a.layers // layout.pp)),
           "model_flops": a.flops_per_token(job.tokens) * job.batch_tokens / layout.gpus,
           "data_rate": ring_rate(job, layout.tp, ranks), "expert_rate": ring_rate(job, layout.ep, round(spare))}
    if layout.sharding in ("fsdp", "hsdp"):
        gathers = 1.0 if layout.pp > 1 else out["micro_batches"]  # with stages, parameters stay gathered for the step
        scale = out["data_rate"] / out["expert_rate"]  # both in one figure, in the dense ring's time
        out["gather_bytes"] = (2 * 2 + job.gradient_bytes) * (sent + scale * expert_sent) * gathers / out["micro_batches"]
        out["gather_hops"] = 3 * messages * min(shard, ranks) * gathers / out["micro_batches"]
    if layout.sharding not in ("fsdp",):
        beyond = 1.0 if layout.sharding != "hsdp" else float(ranks / shard > 1)
        out["step_bytes"] = (job.gradient_bytes + 2) * sent * beyond
        out["step_expert_bytes"] = (job.gradient_bytes + 2) * expert_sent * beyond
        out["step_hops"] = 2 * messages * (ranks if layout.shard is None else min(shard, ranks))
    return out


def _shard(job: Job) -> int:
    """Ranks over which the optimizer's state is spread."""
    ranks = job.layout.dp * job.layout.cp
    return 1 if job.layout.sharding == "ddp" else job.layout.shard or ranks


def ring_rate(job: Job, inner: int, ranks: int) -> float:
    """Bytes a second of a ring over `ranks` that are `inner` apart: inside a domain the links', else of the network cards
    that the domain's members of the group have among them, at most the links'."""
    kind = job.cluster.kind
    link = kind.link_gb_per_s * 1e9
    if inner * ranks <= kind.domain:
        return link
    return min(link, job.cluster.nic * 1e9 * max(1.0, min(kind.domain / inner, ranks)))
