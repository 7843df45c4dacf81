"""Say what PyTorch's `fully_shard` makes of a model: which numbers a rank keeps, and which it holds
while a layer runs.

There is one group per layer, one for the embedding unless it is the head too, and the root's. Knows
the shapes of transformers' parameters, cut as `parallel/apply.py` cuts them: experts' along the
first dimension that the ranks divide, all others along their rows, of which the last ranks get
fewer or none, and a gather's buffers are padded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

from onnuri.planner.architecture import Architecture, Block
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.pipeline_stages import shards
from onnuri.planner.weights import Shape, layer_shapes


class Group(NamedTuple):
    """How many numbers of an FSDP group, which is gathered together, one rank holds."""

    shard: float
    """in the largest shard of a rank"""
    dense: float
    """gathered over the data ranks of dense weights, padding counted"""
    routed: float
    """gathered over the ranks that hold the same experts"""

    @property
    def whole(self) -> float:
        """Return how many numbers the gathered group has."""
        return self.dense + self.routed

    def plus(self, other: Group, times: float = 1.0) -> Group:
        """Return the numbers of this group and of `times` the other one."""
        return Group(
            self.shard + times * other.shard,
            self.dense + times * other.dense,
            self.routed + times * other.routed,
        )


class Cut(NamedTuple):
    """The degrees of a layout that decide how parameters are cut."""

    tp: int
    ep: int
    dense_ranks: int
    routed_ranks: int


def cut_of(layout: ParallelConfig) -> Cut:
    """Return how a layout cuts parameters; layouts of one cut have the same groups."""
    return Cut(layout.tp, layout.ep, *shards(layout))


def group(shapes: Iterable[Shape], layout: ParallelConfig) -> Group:
    """Return the FSDP group of parameters that are gathered together."""
    return _group(shapes, cut_of(layout))


def _group(shapes: Iterable[Shape], cut: Cut) -> Group:
    """Return the FSDP group of parameters of these shapes, cut by these degrees."""
    tp, ep, dense_ranks, routed_ranks = cut
    shard = dense = routed = 0.0
    for shape in shapes:
        apart = shape.routed and ep > 1
        dims = [
            size // tp if k == shape.tensor and not apart else size
            for k, size in enumerate(shape.dims)
        ]
        if apart:
            dims[0] //= ep
        ranks = routed_ranks if apart else dense_ranks
        cut_dim = (
            next((k for k, size in enumerate(dims) if size % ranks == 0), 0) if len(dims) > 2 else 0
        )
        part = math.prod(dims[:cut_dim] + dims[cut_dim + 1 :]) * -(-dims[cut_dim] // ranks)
        shard, dense, routed = (
            shard + part,
            dense + part * ranks * (not apart),
            routed + part * ranks * apart,
        )
    return Group(shard, dense, routed)


def layer(block: Block, hidden: int, layout: ParallelConfig) -> Group:
    """Return the FSDP group of one layer of a block: how many numbers a rank keeps and gathers of
    it."""
    return _layer(block, hidden, cut_of(layout))


@functools.lru_cache(16_384)  # layers of a model are mostly alike, and so are the cuts of a search
def _layer(block: Block, hidden: int, cut: Cut) -> Group:
    """Return the FSDP group of one layer of a block, counted once per cut."""
    return _group(layer_shapes(block, hidden), cut)


def embedding(a: Architecture, layout: ParallelConfig) -> Group:
    """Return the FSDP group of the embedding, empty where it is the head too."""
    return group(
        [] if a.tied else [Shape((a.vocabulary, a.embedding_width or a.hidden), 0)], layout
    )


def root(a: Architecture, layout: ParallelConfig) -> Group:
    """Return the FSDP group of what no other group took: the head and the last norm."""
    extra = [Shape((a.positions, a.hidden))] * bool(a.positions)
    rest = a.other_params + a.table_params
    extra += [Shape((-(-rest // a.hidden), a.hidden))] * (rest > 0)
    return group(
        [Shape((a.vocabulary, a.embedding_width or a.hidden), 0), Shape((a.hidden,)), *extra],
        layout,
    )
