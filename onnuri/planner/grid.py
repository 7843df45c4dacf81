"""List which layouts divide: the one list from which the search, its bounds and the tests' brute
force take them.

Knows no time and no memory. Left out is what no engine runs: interleaved pipelines whose
micro-batches the pipeline ranks do not divide (`megatron/core/pipeline_parallel/schedules.py`) or
whose chunks are not all of as many layers, and pipelines of an odd number of stages that does not
divide the layers. Uneven ones of a power of two of stages stay, if no stage is empty when all
others are full: Megatron-Core's manual lays out DeepSeek-V3's 61 layers over 16 stages, each
written out (`UNEVEN`). A user's own layout may be any.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.parallel import ParallelConfig, Precision, Recompute, Sharding

MICRO_BATCHES = (1, 2, 3, 4, 5, 6, 7, 8)
VIRTUAL_STAGES = (1, 2, 4)
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
"""the fastest first, which needs most memory"""
UNEVEN = {
    "Megatron-Core": "--pipeline-model-parallel-layout",
    "torchtitan": "module_fqns_per_model_part",
}
"""the option with which an engine takes stages of unequal numbers of layers, by their
documentation"""
MAX_TENSOR_PARALLEL = 64
MAX_CONTEXT_PARALLEL = 16


class Degrees(NamedTuple):
    """Degrees of parallelism of one copy of the model, whatever its pipeline."""

    tp: int
    cp: int
    ep: int
    precision: Precision
    own: bool
    """whether Onnuri's trainer runs it; then its pipeline has one stage"""


class Cell(NamedTuple):
    """Layouts that differ only in data ranks, in how these share weights, and in what is
    recomputed."""

    degrees: Degrees
    pp: int
    virtual_stages: int
    micro_batch: int

    @property
    def copy(self) -> int:
        """Return the GPUs of one copy of the model: what tensor, context and pipeline parallelism
        take."""
        return self.degrees.tp * self.degrees.cp * self.pp

    def layout(
        self,
        dp: int,
        sharding: Sharding | None = None,
        shard: int | None = None,
        recompute: Recompute = "none",
    ) -> ParallelConfig:
        """Return one of the cell's layouts; without a sharding, one that the cell has for any
        number of data ranks."""
        d = self.degrees
        return ParallelConfig(
            dp=dp,
            tp=d.tp,
            cp=d.cp,
            pp=self.pp,
            ep=d.ep,
            sharding=sharding or ("fsdp" if d.own else "zero1"),
            shard=shard,
            virtual_stages=self.virtual_stages,
            micro_batch=self.micro_batch,
            recompute=recompute,
            precision=d.precision,
        )

    def data_ranks(self, gpus: int, sequences: int) -> int:
        """Return the data ranks on so many GPUs with so many sequences per batch, 0 where these do
        not divide."""
        dp, rest = divmod(gpus, self.copy)
        if rest or dp * self.degrees.cp % self.degrees.ep or sequences % (dp * self.micro_batch):
            return 0
        interleaved = self.virtual_stages > 1
        return 0 if interleaved and sequences // (dp * self.micro_batch) % self.pp else dp

    def shardings(self, dp: int) -> list[tuple[Sharding, int | None]]:
        """Return the ways in which `dp` data ranks can share weights, as (sharding, ranks of a
        copy), from the fewest weights per GPU to the most.

        Of `ddp` and `zero1`, which moves as many bytes and holds fewer, Onnuri's trainer runs the
        first. Its experts' ranks share a copy.
        """
        d = self.degrees
        if d.own:
            shared = [s for s in divisors(dp)[::-1] if s * d.tp % d.ep == 0]
            return [_sharing(s, dp) for s in shared]
        if self._of_own(dp):
            return [("zero1", None)] if dp * d.tp > 1 else []
        if dp == 1:
            return [("ddp", None)]
        return [*(_sharing(s, dp) for s in divisors(dp)[::-1] if s > 1), ("zero1", None)]

    def _of_own(self, dp: int) -> bool:
        """Return whether Onnuri's trainer runs the cell's degrees, so that another cell has its
        shardings."""
        return self.layout(dp, "fsdp").other_engine is None


def _sharing(shards: int, dp: int) -> tuple[Sharding, int | None]:
    """Return the sharding, and the ranks of a copy where it is `hsdp`, with which `shards` of `dp`
    data ranks share one copy of the model."""
    if shards == dp and dp > 1:
        return "fsdp", None
    return ("hsdp", shards) if shards > 1 else ("ddp", None)


@functools.cache
def divisors(n: int) -> tuple[int, ...]:
    """Return all divisors of a number, the smallest first."""
    low = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return (*low, *(n // d for d in reversed(low) if d * d != n))


def degrees(
    a: Architecture, cluster: Cluster, tokens: int, precisions: Iterable[Precision], here: bool
) -> Iterator[Degrees]:
    """Yield all degrees that divide the model and the sequence; with `here`, only those of Onnuri's
    trainer."""
    attention = [b.attention for b in a.blocks if b.attention]
    heads = math.gcd(*(at.heads for at in attention))
    # Onnuri's trainer cuts no key/value head, and no latent attention
    own_heads = math.gcd(heads, *(at.kv_heads for at in attention if not at.kv_rank))
    experts = math.gcd(*(b.experts.routed for b in (*a.blocks, *a.mtp) if b.experts))
    most = min(cluster.kind.domain, MAX_TENSOR_PARALLEL)
    tensor = [t for t in _powers(most) if (own_heads if here else heads) % t == 0]
    context = _powers(1 if here else MAX_CONTEXT_PARALLEL)
    for tp, cp, ep, precision in itertools.product(
        tensor, context, divisors(experts) if experts else (1,), precisions
    ):
        if tokens % (tp * cp):
            continue
        if cp == 1 and own_heads % tp == 0 and precision == "bf16":
            yield Degrees(tp, cp, ep, precision, True)
        if not here:
            yield Degrees(tp, cp, ep, precision, False)


def pipelines(a: Architecture, own: bool) -> list[tuple[int, int]]:
    """Return the pipelines that divide the layers: stages, and chunks of layers per stage."""
    if own:
        return [(1, 1)]
    even = [
        (pp, v)
        for pp in divisors(a.layers)
        for v in VIRTUAL_STAGES
        if (v == 1 or pp > 1) and a.layers % (pp * v) == 0
    ]
    return even + [
        (pp, 1)
        for pp in _powers(a.layers)
        if a.layers % pp and -(-a.layers // pp) * (pp - 1) < a.layers
    ]


def cells(
    a: Architecture,
    cluster: Cluster,
    tokens: int,
    precisions: Iterable[Precision] = ("bf16",),
    here: bool = False,
) -> Iterator[Cell]:
    """Yield all cells, on any number of GPUs."""
    for d in degrees(a, cluster, tokens, precisions, here):
        for (pp, virtual), micro in itertools.product(pipelines(a, d.own), MICRO_BATCHES):
            yield Cell(d, pp, virtual, micro)


def grid(
    a: Architecture,
    cluster: Cluster,
    tokens: int,
    batch_tokens: int,
    precisions: Iterable[Precision] = ("bf16",),
    here: bool = False,
) -> Iterator[tuple[Cell, int]]:
    """Yield all cells that divide a cluster's GPUs and the batch, with their data ranks."""
    sequences, rest = divmod(batch_tokens, tokens)
    if rest:
        return
    for cell in cells(a, cluster, tokens, precisions, here):
        if dp := cell.data_ranks(cluster.gpus, sequences):
            yield cell, dp


def _powers(most: int) -> list[int]:
    """Return the powers of two up to `most`."""
    return [2**k for k in range(most.bit_length()) if 2**k <= most]
