"""What PyTorch's `fully_shard` makes of a model: which numbers a rank keeps, and which it holds
while a layer runs.

A group a layer, one for the embedding unless it is the head too, and the root's. Knows the shapes
of transformers' parameters, cut as `training/layout.py` cuts them: experts' along the first
dimension that the ranks divide, all others along their rows, of which the last ranks get fewer or
none, and a gather's buffers are padded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

from onnuri.planner.architecture import Architecture, Attention, Block
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.pipeline_stages import shards


class Shape(NamedTuple):
    """A parameter of transformers' classes, before any cut."""

    dims: tuple[int, ...]
    tensor: int | None = None
    """dimension that tensor parallelism cuts by the plans of transformers 5.23: not of latent
    attention, of shared experts only beside it, of routed ones only without expert parallelism"""
    routed: bool = False


class Group(NamedTuple):
    """What is gathered together, in numbers of one rank."""

    kept: float
    """the fullest rank's shard"""
    dense: float
    """whole over the dense ranks, padding counted"""
    routed: float
    """whole over the ranks that hold the same experts"""

    @property
    def whole(self) -> float:
        return self.dense + self.routed


class Cut(NamedTuple):
    """What of a layout cuts parameters."""

    tp: int
    ep: int
    dense_ranks: int
    routed_ranks: int


def cut_of(layout: ParallelConfig) -> Cut:
    """Layouts of one cut have the same groups."""
    return Cut(layout.tp, layout.ep, *shards(layout))


def group(shapes: Iterable[Shape], layout: ParallelConfig) -> Group:
    """Of parameters that are gathered together."""
    return _group(shapes, cut_of(layout))


def _group(shapes: Iterable[Shape], cut: Cut) -> Group:
    tp, ep, dense_ranks, routed_ranks = cut
    kept = dense = routed = 0.0
    for shape in shapes:
        apart = shape.routed and ep > 1
        dims = [
            size // tp if k == shape.tensor and not apart else size
            for k, size in enumerate(shape.dims)
        ]
        if apart:
            dims[0] //= ep
        ranks = routed_ranks if apart else dense_ranks
        at = (
            next((k for k, size in enumerate(dims) if size % ranks == 0), 0) if len(dims) > 2 else 0
        )
        own = math.prod(dims) // dims[at] * -(-dims[at] // ranks)
        kept, dense, routed = (
            kept + own,
            dense + own * ranks * (not apart),
            routed + own * ranks * apart,
        )
    return Group(kept, dense, routed)


def layer(block: Block, hidden: int, layout: ParallelConfig) -> Group:
    """The group of one layer."""
    return _layer(block, hidden, cut_of(layout))


@functools.lru_cache(16_384)  # layers of a model are mostly alike, and so are the cuts of a search
def _layer(block: Block, hidden: int, cut: Cut) -> Group:
    return _group(_shapes(block, hidden), cut)


@functools.lru_cache(1024)
def _shapes(block: Block, hidden: int) -> tuple[Shape, ...]:
    return tuple(layer_shapes(block, hidden))


def layer_shapes(block: Block, hidden: int) -> list[Shape]:
    """Parameters of one layer."""
    found = [Shape((hidden,))] * block.norms
    found += [
        Shape((block.gate_rank, hidden)),
        Shape((hidden, block.gate_rank)),
    ] * block.gated_norms
    if block.attention:
        found += _attention(block.attention, hidden)
    if block.mlp:
        found += _feed_forward(block.mlp, hidden, block.gated)
        found += [Shape((block.mlp,), 0)] * ((1 + block.gated) * block.mlp_bias) + [
            Shape((hidden,))
        ] * block.mlp_bias
    if block.mixer_params:
        found.append(Shape((block.mixer_params // hidden, hidden), 0))
    rest = block.other_params + block.vector_params + block.idle_params - block.repeated_params
    found += [Shape((-(-rest // hidden), hidden))] * (rest > 0)
    if e := block.experts:
        inner = e.latent or hidden
        found += [
            Shape((e.routed, hidden)),
            Shape((e.routed, (1 + block.gated) * e.width, inner), 1, True),
            Shape((e.routed, inner, e.width), 2, True),
        ]
        found += [Shape((e.latent, hidden)), Shape((hidden, e.latent))] * bool(e.latent)
        if e.shared:
            shared = _feed_forward(e.shared * (e.shared_width or e.width), hidden, block.gated)
            latent = block.attention and block.attention.kv_rank
            found += shared if latent else [Shape(s.dims) for s in shared]
        if e.bias:
            found += [
                Shape((e.routed,)),
                Shape((e.routed, (1 + block.gated) * e.width), None, True),
                Shape((e.routed, hidden), None, True),
            ]
    return found


def _feed_forward(width: int, hidden: int, gated: bool) -> list[Shape]:
    return [Shape((width, hidden), 0)] * (1 + gated) + [Shape((hidden, width), 1)]


def _attention(at: Attention, hidden: int) -> list[Shape]:
    found = [Shape((hidden, at.heads * at.values), 1)]
    query = at.heads * (at.head_dim + at.rope_dim)
    if at.kv_rank:
        found = [
            Shape((hidden, at.heads * at.values)),
            Shape((at.kv_rank + at.rope_dim, hidden)),
            Shape((at.kv_rank,)),
            Shape((at.heads * (at.head_dim + at.values), at.kv_rank)),
            Shape((at.asked(), (1 + at.gated) * at.query_rank or hidden)),
        ]
        found += [Shape((at.query_rank, hidden)), Shape((at.query_rank,))] * bool(at.query_rank)
    else:
        found += [
            Shape((rows, hidden), 0)
            for rows in (query, at.kv_heads * at.head_dim, at.kv_heads * at.values)
        ]
    if at.bias:
        found += [
            Shape((query,), 0),
            Shape((at.kv_heads * at.head_dim,), 0),
            Shape((at.kv_heads * at.values,), 0),
            Shape((hidden,)),
        ]
    return found + [Shape((at.head_dim,))] * (2 * at.qk_norm) + [Shape((at.heads,), 0)] * at.sinks


def embedding(a: Architecture, layout: ParallelConfig) -> Group:
    """The group of the embedding, empty where it is the head too."""
    return group(
        [] if a.tied else [Shape((a.vocabulary, a.embedding_width or a.hidden), 0)], layout
    )


def root(a: Architecture, layout: ParallelConfig) -> Group:
    """What no other group took: the head and the last norm."""
    extra = [Shape((a.positions, a.hidden))] * bool(a.positions)
    rest = a.other_params + a.table_params
    extra += [Shape((-(-rest // a.hidden), a.hidden))] * (rest > 0)
    return group(
        [Shape((a.vocabulary, a.embedding_width or a.hidden), 0), Shape((a.hidden,)), *extra],
        layout,
    )
