"""List the parameters of a model, each by its shape, with the dimensions that tensor and expert
parallelism cut: the one list from which weights on a rank are summed.

Knows no bytes. Shapes are those of transformers' classes; a test holds them against a model.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from onnuri.planner.architecture import Attention, Block
from onnuri.planner.parallel import ParallelConfig


class Shape(NamedTuple):
    """The shape of a parameter of transformers' classes, before any cut."""

    dims: tuple[int, ...]
    tensor: int | None = None
    """dimension that tensor parallelism cuts by the plans of transformers 5.23: not of latent
    attention, of shared experts only beside it, of routed ones only without expert parallelism"""
    routed: bool = False
    """whether it belongs to the routed experts"""
    megatron: bool = False
    """whether Megatron-Core's tensor parallelism divides it: matrices, but for latent projections
    and router (Megatron-Bridge PR 3744)"""
    numbers: int | None = None
    """how many numbers it has, where that is not the dimensions' product: parameters that are
    listed together"""

    @property
    def size(self) -> int:
        """Return how many numbers the parameter has."""
        return math.prod(self.dims) if self.numbers is None else self.numbers


class Weights(NamedTuple):
    """Numbers of weights on a rank, before data ranks share them."""

    dense: float = 0.0
    """of all weights but the routed experts'"""
    routed: float = 0.0
    """of routed experts"""

    def plus(self, other: Weights, times: float = 1.0) -> Weights:
        """Return the sum of these weights and `times` the other ones."""
        return Weights(self.dense + times * other.dense, self.routed + times * other.routed)


def layer_weights(block: Block, hidden: int, layout: ParallelConfig) -> Weights:
    """Return the weights of one layer on a rank of Megatron-Core: experts divide by `ep`, and a
    group of keys and values that `tp` does not divide is copied."""
    shapes, at = layer_shapes(block, hidden), block.attention
    routed = sum(s.size for s in shapes if s.routed)
    divided = sum(s.size for s in shapes if s.megatron)
    dense = sum(s.size for s in shapes) - routed - divided + divided / layout.tp
    if at and not at.kv_rank and at.kv_heads < layout.tp:
        dense += (1 - at.kv_heads / layout.tp) * hidden * (at.head_dim + at.values)
    return Weights(dense, routed / layout.ep)


@functools.lru_cache(1024)  # layers of a model are mostly alike
def layer_shapes(block: Block, hidden: int) -> tuple[Shape, ...]:
    """Return the shapes of all parameters of one layer of a block, whole and before any rank's
    share."""
    shapes = [Shape((hidden,))] * block.norms
    shapes += [
        Shape((block.gate_rank, hidden)),
        Shape((hidden, block.gate_rank)),
    ] * block.gated_norms
    if block.attention:
        shapes += _attention(block.attention, hidden)
    if block.mlp:
        shapes += _feed_forward(block.mlp, hidden, block.gated)
        shapes += [Shape((block.mlp,), 0)] * ((1 + block.gated) * block.mlp_bias) + [
            Shape((hidden,))
        ] * block.mlp_bias
    if block.mixer_params:
        mixer = (block.mixer_params // hidden, hidden)
        shapes.append(Shape(mixer, 0, megatron=True, numbers=block.mixer_params))
    rest = block.other_params + block.vector_params + block.idle_params - block.repeated_params
    if rest:
        shapes.append(Shape((max(0, -(-rest // hidden)), hidden), numbers=rest))
    if e := block.experts:
        inner = e.latent or hidden
        shapes += [
            Shape((e.routed, hidden)),
            Shape((e.routed, (1 + block.gated) * e.width, inner), 1, True),
            Shape((e.routed, inner, e.width), 2, True),
        ]
        shapes += [Shape((e.latent, hidden)), Shape((hidden, e.latent))] * bool(e.latent)
        if e.shared:
            shared = _feed_forward(e.shared * (e.shared_width or e.width), hidden, block.gated)
            latent = block.attention and block.attention.kv_rank
            shapes += shared if latent else [s._replace(tensor=None) for s in shared]
        if e.bias:
            shapes += [
                Shape((e.routed,)),
                Shape((e.routed, (1 + block.gated) * e.width), None, True),
                Shape((e.routed, hidden), None, True),
            ]
    return tuple(shapes)


def _feed_forward(width: int, hidden: int, gated: bool) -> list[Shape]:
    """Return the shapes of a feed-forward's matrices: up, gate where it is gated, and down."""
    up, down = Shape((width, hidden), 0, megatron=True), Shape((hidden, width), 1, megatron=True)
    return [up] * (1 + gated) + [down]


def _attention(at: Attention, hidden: int) -> list[Shape]:
    """Return the shapes of attention's parameters: projections, biases, norms and sinks."""
    shapes = [Shape((hidden, at.heads * at.values), 1, megatron=True)]
    query = at.heads * (at.head_dim + at.rope_dim)
    if at.kv_rank:
        shapes = [
            Shape((hidden, at.heads * at.values), megatron=True),
            Shape((at.kv_rank + at.rope_dim, hidden)),
            Shape((at.kv_rank,)),
            Shape((at.heads * (at.head_dim + at.values), at.kv_rank), megatron=True),
            Shape((at.query_outputs(), (1 + at.gated) * at.query_rank or hidden), megatron=True),
        ]
        shapes += [Shape((at.query_rank, hidden)), Shape((at.query_rank,))] * bool(at.query_rank)
    else:
        shapes += [
            Shape((rows, hidden), 0, megatron=True)
            for rows in (query, at.kv_heads * at.head_dim, at.kv_heads * at.values)
        ]
    if at.bias:
        shapes += [
            Shape((query,), 0),
            Shape((at.kv_heads * at.head_dim,), 0),
            Shape((at.kv_heads * at.values,), 0),
            Shape((hidden,)),
        ]
    return shapes + [Shape((at.head_dim,))] * (2 * at.qk_norm) + [Shape((at.heads,), 0)] * at.sinks


def attention_products(at: Attention, hidden: int, tp: int) -> list[tuple[float, float]]:
    """Return (inputs, outputs) of the weights of attention's products on one of `tp` ranks, as
    Megatron-Core runs them: queries, keys and values in one product."""
    output = (at.heads / tp * at.values, hidden)
    if not at.kv_rank:
        groups = max(at.kv_heads / tp, 1.0)
        fused = at.heads / tp * at.head_dim + groups * (at.head_dim + at.values)
        return [(hidden, fused), output]
    query_outputs = at.query_outputs() / tp
    queries: list[tuple[float, float]] = [(hidden, query_outputs)]
    if at.query_rank:
        compressed = (1 + at.gated) * at.query_rank
        queries = [(hidden, at.query_rank), (compressed, query_outputs)]
    return [
        *queries,
        (hidden, at.kv_rank + at.rope_dim),
        (at.kv_rank, at.heads / tp * (at.head_dim + at.values)),
        output,
    ]
