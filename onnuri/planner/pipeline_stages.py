"""Say what of a model one rank holds: the layers of its pipeline stage, its share of their weights,
the micro-batches in flight.

Knows no bytes and no time: numbers of weights only. Memory and traffic both count from here.
"""

from __future__ import annotations

from onnuri.planner.architecture import Architecture
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.weights import Weights, layer_weights


def chunks(a: Architecture, layout: ParallelConfig) -> list[list[tuple[int, int]]]:
    """Return the layers of every pipeline chunk as (index of the block, number of layers), in the
    model's order.

    Layers that do not divide evenly go to the middle, away from embedding and head. Chunk k is on
    rank k modulo `pp`.
    """
    count = layout.pp * layout.virtual_stages
    sizes = [a.layers // count] * count
    for k in range(a.layers % count):
        sizes[(1 + k) % count] += 1
    kinds = [[index, b.count] for index, b in enumerate(a.blocks)]
    parts: list[list[tuple[int, int]]] = []
    for size in sizes:
        part: list[tuple[int, int]] = []
        while size and kinds:
            index, remaining = kinds[0]
            taken = min(size, remaining)
            part.append((index, taken))
            size, kinds[0][1] = size - taken, remaining - taken
            if not kinds[0][1]:
                kinds.pop(0)
        parts.append(part)
    return parts


def stage_layers(a: Architecture, layout: ParallelConfig) -> list[dict[int, int]]:
    """Return for every pipeline rank how many layers of each block it holds, by the block's
    index."""
    stages: list[dict[int, int]] = [{} for _ in range(layout.pp)]
    for k, part in enumerate(chunks(a, layout)):
        layers = stages[k % layout.pp]
        for index, count in part:
            layers[index] = layers.get(index, 0) + count
    return stages


def ends(a: Architecture, layout: ParallelConfig, stage: int) -> Weights:
    """Return the weights on one pipeline rank that are no layer's: the embedding on the first;
    final norm, head and multi-token prediction on the last."""
    table, last = a.embedding() / layout.tp, layout.pp - 1
    first = a.positions * a.hidden + a.other_params + a.table_params
    weights = Weights(table + first) if stage == 0 else Weights()
    if stage == last:
        weights = weights.plus(Weights(a.hidden + (0.0 if a.tied and not last else table)))
        for block in a.mtp:
            weights = weights.plus(
                layer_weights(block, a.hidden, layout).plus(
                    Weights(2 * a.hidden**2 + 3 * a.hidden)
                ),
                block.count,
            )
    return weights


def mean_weights(a: Architecture, layout: ParallelConfig) -> Weights:
    """Return the weights on a rank, the mean of all pipeline ranks, before data ranks share them;
    without multi-token prediction."""
    routed = sum(b.count * b.routed(a.hidden) for b in a.blocks)
    dense = (a.num_params() - routed) / (layout.tp * layout.pp)
    return Weights(dense, routed / (layout.ep * layout.pp))


def in_flight(layout: ParallelConfig, stage: int, micro_batches: int) -> int:
    """Return how many chunks' activations a pipeline rank holds at once in the 1F1B schedule,
    interleaved with more than one chunk per rank (Narayanan et al. 2021, arXiv 2104.04473)."""
    if layout.virtual_stages == 1:
        return min(layout.pp - stage, micro_batches)
    warmup = 2 * (layout.pp - stage - 1) + (layout.virtual_stages - 1) * layout.pp
    return min(warmup + 1, micro_batches * layout.virtual_stages)


def shards(layout: ParallelConfig) -> tuple[int, int]:
    """Return over how many ranks sharded weights are divided: dense weights, and experts', which
    tensor-parallel ranks divide no further."""
    data = layout.shards * layout.cp
    return data, max(data * layout.tp // layout.ep, 1)
