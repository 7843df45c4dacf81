"""Count what one layer keeps for its backward pass, in bytes per token and rank: matrix product by
matrix product, as the kernels that run the layer keep it.

Knows no pipeline and no batch. Two kinds of kernels: fused ones (Megatron-Core with Transformer
Engine), and the operators that transformers' model code calls one after another, which is what
Onnuri's own trainer runs.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from onnuri.planner.architecture import Architecture, Attention, Block
from onnuri.planner.parallel import ParallelConfig, Precision, Recompute
from onnuri.planner.weights import attention_products

SAVED: dict[Precision, float] = {
    "bf16": 2.0,
    "fp8": 1.0,
    "mxfp8": 1 + 1 / 32,
    "nvfp4": 0.5 + 1 / 16,
}
"""bytes per number of the input that a matrix product keeps for its backward pass: payload and
block scales"""


FLASH = 2022.5
"""software year from which attention scores are never written to memory (Dao et al. 2022, arXiv
2205.14135)"""


class LayerBytes(NamedTuple):
    """Bytes per token and rank that one layer keeps and needs for its backward pass."""

    saved_bytes: float
    """kept from forward to backward without recomputation"""
    input_bytes: float
    """the layer's input alone, which is all that is kept of a layer that is recomputed in full"""
    transient_bytes: float
    """on top of what is kept, at the fullest moment of its recomputation or backward pass"""
    product_bytes: float = 0.0
    """kept under selective recomputation, where only the outputs of products and attention and
    dispatched tokens are kept (`parallel/recompute.py`, SAVED_OPERATORS); the layer's
    input is counted"""
    recompute_bytes: float = 0.0
    """what recomputing the rest adds to `product_bytes`"""
    expert_grad_peak_bytes: float = 0.0
    """at the moment when the gradients of the experts' weights exist; 0 without experts"""

    def kept(self, recompute: Recompute) -> float:
        """Return the bytes per token that are kept for the backward pass with such
        recomputation."""
        kept_bytes = {"none": self.saved_bytes, "selective": self.product_bytes}
        return kept_bytes.get(recompute, self.input_bytes)

    def recomputed(self, recompute: Recompute) -> float:
        """Return the bytes per token that exist again once the layer has been recomputed."""
        again_bytes = {"none": 0.0, "selective": self.recompute_bytes}
        return again_bytes.get(recompute, self.saved_bytes)


def megatron_layer(
    block: Block,
    architecture: Architecture,
    layout: ParallelConfig,
    tokens: int,
    software_year: float | None = None,
    imbalance: float = 1.0,
) -> LayerBytes:
    """Return the bytes per token and rank that a layer of Megatron-Core keeps.

    `tokens` is the sequence length, which counts where attention scores are written. `imbalance` is
    what this rank's experts receive over the mean.
    """
    width, tp = architecture.hidden / (layout.tp if layout.sequence_parallel else 1), layout.tp
    number_bytes = SAVED[layout.precision]
    dropped = bool(
        architecture.positions
    )  # GPT-3's generation, known by learned positions, trained with dropout: a byte a mask
    saved_bytes = (
        min(block.norms, 2) * (2 + number_bytes) * width + max(block.norms - 2, 0) * 2 * width
    )  # norms' inputs and outputs
    saved_bytes += (
        2 * width * dropped + 8 * block.mixer_width / tp
    )  # a mixer's two projections, convolution and output
    transient_bytes = (
        4.0 * architecture.hidden if tp > 1 else 2.0 * architecture.hidden
    )  # gathered input and its gradient
    if block.attention:
        saved_bytes += _fused_attention(block.attention, layout, tokens, software_year)
    if block.mlp:
        saved_bytes += _feed_forward(block, block.mlp, number_bytes) / tp
        transient_bytes = max(transient_bytes, 2 * (1 + block.gated) * block.mlp / tp)
    if experts := block.experts:
        routed_copies = (
            imbalance * experts.topk * width / architecture.hidden
        )  # of the rank's own tokens, which are what sequence parallelism leaves it
        saved_bytes += (
            routed_copies
            * (
                number_bytes * architecture.hidden
                + _feed_forward(block, experts.width, number_bytes)
                + 4
            )
            + 8 * experts.routed
        )  # and router's scores
        saved_bytes += (
            experts.shared
            * _feed_forward(block, experts.shared_width or experts.width, number_bytes)
            / tp
        )
        transient_bytes = max(
            transient_bytes,
            4 * routed_copies * architecture.hidden,
            2 * routed_copies * (1 + block.gated) * experts.width,
        )
    # recomputing attention's scores alone leaves nothing else to keep or to make again
    return LayerBytes(saved_bytes, 2 * width, transient_bytes, product_bytes=saved_bytes)


def _feed_forward(block: Block, width: int, number_bytes: float) -> float:
    """Return the bytes per token that a feed-forward of `width` keeps: the activation function's
    input, in 16 bits, and its output, which is the second product's input, at `number_bytes`
    each."""
    return (2 * (1 + block.gated) + number_bytes) * width


def _fused_attention(
    attention: Attention, layout: ParallelConfig, tokens: int, software_year: float | None
) -> float:
    """Return the bytes per token and rank that fused attention keeps: queries, keys, values, its
    output and, with software older than FlashAttention, the scores of all `tokens`."""
    tp, number_bytes = layout.tp, SAVED[layout.precision]
    heads, groups = attention.heads / tp, max(attention.kv_heads / tp, 1)
    output_width = heads * attention.values
    if attention.kv_rank:  # keys and values of every head are written out of the latent
        saved_bytes = 2 * heads * (2 * (attention.head_dim + attention.rope_dim) + attention.values)
        saved_bytes += (2 + number_bytes) * (
            attention.query_rank + attention.kv_rank
        ) + 2 * attention.rope_dim
    else:
        saved_bytes = 2 * (
            heads * attention.head_dim + groups * (attention.head_dim + attention.values)
        )
    if software_year is None or software_year >= FLASH:
        saved_bytes += 4 * heads  # one sum of exponentials a query
        # its own output for the backward pass, and the next product's input: one tensor in 16 bits,
        # unless heads are exchanged for tokens in between (context parallelism by all-to-all) or
        # the product keeps another format
        output_is_shared = layout.cp == 1 and layout.precision == "bf16"
        return saved_bytes + (2 if output_is_shared else 2 + number_bytes) * output_width
    scores = (
        5 * heads * tokens if layout.recompute == "none" else 0
    )  # softmax in and out, dropout's mask: arXiv 2205.05198
    return saved_bytes + number_bytes * output_width + scores


def matrices(block: Block, hidden: int, layout: ParallelConfig) -> set[tuple[float, float]]:
    """Return the distinct (rows, columns) of a layer's weight matrices on one rank, as
    Megatron-Core stores them: queries, keys and values in one matrix, gate and up in one."""
    tp, at, e = layout.tp, block.attention, block.experts
    products = attention_products(at, hidden, tp) if at else []
    shapes = {(outputs, inputs) for inputs, outputs in products}
    widths = [block.mlp / tp] if block.mlp else []
    if e:
        widths += [e.width] + ([(e.shared_width or e.width) * e.shared / tp] if e.shared else [])
    for width in widths:
        shapes |= {((1 + block.gated) * width, hidden), (hidden, width)}
    return shapes


@functools.lru_cache(4096)  # layers of a model are mostly alike
def torch_eager_layer(
    block: Block, h: int, layout: ParallelConfig, imbalance: float = 1.0
) -> LayerBytes:
    """Return the bytes per token and rank that a layer of transformers keeps when its operators run
    one by one.

    A norm keeps its input in 32 and 16 bits, and its output where a product takes it, with sequence
    parallelism gathered; a gated feed-forward keeps gate, activation, up and their product. `h` is
    the hidden width, `imbalance` what this rank's experts receive over the mean.
    """
    tp = layout.tp
    split = tp if layout.sequence_parallel else 1  # parts of a sequence between blocks
    behind = (6.0 + 2 * block.centred) * h + 4  # a norm whose output is added, not multiplied
    input_bytes, norms = 2.0 * h / split, min(block.norms, 2) * 2.0 * h
    norms += (block.outer_norms / split + block.norms - block.outer_norms) * behind
    saved_bytes, product_bytes, shared = (
        norms + 8 * block.mixer_width / tp,
        input_bytes + 8 * block.mixer_width / tp,
        0.0,
    )
    saved_bytes += block.gated_norms * 6.0 * h  # the gate in 32 bits, and what it lets through
    product_bytes += block.gated_norms * 2.0 * h
    transient_bytes, expert_grad_peak_bytes = 12.0 * h, 0.0
    if at := block.attention:
        attention_bytes, attention_products, attention_shared = _eager_attention(at, h, tp)
        attention_bytes += 2 * (at.query_rank + at.kv_rank) * block.centred
        saved_bytes, product_bytes, shared = (
            saved_bytes + attention_bytes,
            product_bytes + attention_products,
            shared + attention_shared,
        )
    if block.mlp:
        wide, parts = block.mlp / tp, 1 + block.gated
        saved_bytes += 4 * parts * wide
        product_bytes, shared = product_bytes + 2 * parts * wide + 2 * h, shared + 2 * parts * wide
        transient_bytes = max(transient_bytes, 4 * wide + 4 * h)
    if e := block.experts:
        latent, dispatched = bool(block.attention and block.attention.kv_rank), layout.ep > 1
        wide = e.shared * (e.shared_width or e.width) / (tp if latent else 1)
        rows, width = e.topk / (tp if dispatched else 1), e.width / (1 if dispatched else tp)
        rows_of_experts = rows * (imbalance if dispatched else 1.0)  # of the rank's own experts
        saved_bytes += 4 * h + 12 * e.routed + 16 * rows  # the router, in 32 bits
        saved_bytes += rows_of_experts * (2 * h + 8 * width) + rows * 2 * h + 8 * wide
        product_bytes += (
            4 * e.routed
            + rows_of_experts * (4 * width + 2 * h)
            + (rows_of_experts + rows) * 2 * h * dispatched
            + 4 * wide
            + 2 * h * bool(wide)
        )
        shared += 4 * wide + rows * 4 * width * (not dispatched)
        # experts' outputs on their rank and on the token's, and their weighted sum's terms in 32
        # bits; the layer's state between its parts, and a last norm's gradient in 32 bits; what
        # comes after is not yet there
        after = 8 * wide + (block.norms > 2) * behind
        expert_grad_peak_bytes = saved_bytes - rows * 2 * h - after + 4 * h
        transient_bytes = max(
            transient_bytes,
            (4 * rows_of_experts + 6 * rows if dispatched else 8 * rows) * h
            + (6 + 4 * block.centred) * h
            - after,
        )
    return LayerBytes(
        saved_bytes,
        input_bytes,
        transient_bytes,
        product_bytes,
        saved_bytes - shared,
        expert_grad_peak_bytes,
    )


@functools.lru_cache(4096)
def torch_fused_layer(
    block: Block, h: int, layout: ParallelConfig, imbalance: float = 1.0
) -> LayerBytes:
    """Return the bytes per token and rank that a layer keeps whose fused kernels make again what
    stands between products: their outputs, attention's, and the rows that went to the experts.

    That is the least that PyTorch's engines keep; the last product's output is in the next layer's
    input.
    """
    eager, e = torch_eager_layer(block, h, layout, imbalance), block.experts
    # with expert parallelism, products count the dispatched rows already
    undispatched = e.topk if e and layout.ep == 1 else 0
    has_last_product = bool(block.mlp or (e and e.shared))
    saved_bytes = eager.product_bytes - 2.0 * h * has_last_product + 2.0 * h * undispatched
    return _saving(eager, saved_bytes, eager.transient_bytes)


@functools.lru_cache(4096)
def torch_compiled_layer(
    block: Block, h: int, layout: ParallelConfig, imbalance: float = 1.0
) -> LayerBytes:
    """Return the bytes per token and rank that a layer of transformers keeps when PyTorch's
    compiler fuses it.

    Its partitioner keeps what products and attention give, and what they take: whatever the
    backward pass must write to memory anyway, as the gradient of a weight needs its product's
    input, is never made again (torch/_functorch/partitioners.py,
    `ban_recompute_materialized_backward`). A norm behind the last product needs that one's output.
    A test holds the sum against the tensors that a compiled layer saves.
    """
    fused, e = torch_fused_layer(block, h, layout, imbalance), block.experts
    saved_bytes = fused.saved_bytes + _product_inputs(block, h, layout, imbalance)
    saved_bytes += 2.0 * h * (block.norms > 2)
    # the gradient of the feed-forward's product; of each expert's output in 32 and in 16 bits, at
    # whose end the shared expert's product is gone
    transient_bytes = 4.0 * h + 2 * block.mlp / layout.tp
    if e:
        wide = e.shared * (e.shared_width or e.width) / layout.tp
        transient_bytes = max(transient_bytes, 6.0 * e.topk * h - 2 * wide)
    return _saving(torch_eager_layer(block, h, layout, imbalance), saved_bytes, transient_bytes)


def _saving(eager: LayerBytes, saved_bytes: float, transient_bytes: float) -> LayerBytes:
    """Return an eager layer's bytes with fewer of them kept, and fewer needed for a moment."""
    saved_bytes = min(saved_bytes, eager.saved_bytes)
    fewer = eager.saved_bytes - saved_bytes
    return eager._replace(
        saved_bytes=saved_bytes,
        transient_bytes=min(transient_bytes, eager.transient_bytes),
        recompute_bytes=min(eager.recompute_bytes, saved_bytes),
        expert_grad_peak_bytes=max(0.0, eager.expert_grad_peak_bytes - fewer),
    )


def _product_inputs(block: Block, h: int, layout: ParallelConfig, imbalance: float) -> float:
    """Return the bytes per token and rank of what a compiled layer keeps beside
    `torch_fused_layer`'s: the inputs of products, and one number per norm in 32 bits."""
    tp, at, e = layout.tp, block.attention, block.experts
    total_bytes = min(block.norms, 2) * 2.0 * h + 4.0 * block.norms + 2.0 * block.mlp / tp
    if at and at.kv_rank:
        total_bytes += 2.0 * (at.query_rank + at.kv_rank) + 4.0 * (1 + bool(at.query_rank))
    elif at and at.qk_norm:  # its input, beside its output that attention takes
        heads = (at.heads + at.kv_heads) / tp
        total_bytes += heads * (2.0 * at.head_dim + 4)
    if e:
        dispatched = layout.ep > 1
        rows, width = e.topk / (tp if dispatched else 1), e.width / (1 if dispatched else tp)
        # the router's input in 32 bits, its choice in 64, scores in 32, three permutations in 64
        total_bytes += 4.0 * h + e.topk * (8 + 4 + 3 * 8)
        total_bytes += rows * (imbalance if dispatched else 1.0) * 2.0 * width
        total_bytes += 2.0 * e.shared * (e.shared_width or e.width) / tp
    return total_bytes


def _eager_attention(at: Attention, h: int, tp: int) -> tuple[float, float, float]:
    """Return three counts of bytes per token and rank that attention of transformers keeps: all of
    it, what is kept where only products are, and the part that both counts share."""
    tp = 1 if at.kv_rank else tp  # by the plans of transformers 5.23
    heads, groups = at.heads / tp, max(at.kv_heads / tp, 1)
    output = heads * (2 * at.values + 4)
    if at.kv_rank:
        key_value_up = 2 * heads * (at.head_dim + at.values)
        query = 2 * heads * (at.head_dim + at.rope_dim)
        compressed = at.query_rank + at.kv_rank
        gate = at.gated * heads * at.values
        query, compressed = query + 2 * gate, compressed + at.gated * at.query_rank // 2
        saved_bytes = (
            8 * compressed
            + 4 * bool(at.query_rank)
            + 4
            + 2 * query
            + key_value_up
            + output
            + 8 * gate
        )
        return (
            saved_bytes,
            2 * (compressed + at.rope_dim) + query + key_value_up + output + 2 * h,
            key_value_up + output,
        )
    turned, values = 2 * (heads + groups) * at.head_dim, 2 * groups * at.values
    norms = (heads + groups) * (6 * at.head_dim + 4) * at.qk_norm
    return norms + turned + values + output, turned + values + output + 2 * h, values + output
