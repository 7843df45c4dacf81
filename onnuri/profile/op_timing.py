"""This module times the parts of a training step on this machine: each matrix product of a network
alone for a moment, attention, Muon's iterations and a memory copy.

The bytes that elementwise operations move are the planner's count (`step_work.work`), in 32 bits.
No step is run: that would be a measurement, not a forecast.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F

from onnuri.data.pack import PackedRow
from onnuri.model.objective import OmniObjective
from onnuri.planner import hardware, step_work
from onnuri.planner.architecture import Architecture, Attention
from onnuri.planner.job import Job
from onnuri.planner.parallel import ParallelConfig
from onnuri.training.optim import Muon, Optimizers, orthogonalise

FP32_FACTOR = 2
"""bytes of a number in 32 bits over those in 16 bits, which the planner counts"""
LOGIT_BYTES = 20
"""bytes read and written per logit: the logit three times, its gradient twice, 4 bytes each"""
MUON_SAMPLE = 8
"""most matrices of one shape on which Muon's iteration is timed"""
COPY_BYTES = 2**26
"""bytes of the timed memory copy: more than any machine's cache holds, a tenth of what a step
moves"""
ONE_RANK = ParallelConfig(sharding="ddp", recompute="none")
"""parallel configuration of a run on one rank"""


def step_seconds(
    task: OmniObjective, a: Architecture, optimizer: Optimizers, batch: PackedRow
) -> dict[str, float]:
    """Return the seconds of one training step by part: products, head, attention, moved (bytes of
    elementwise operations and logits), optimizer, batch.

    `a` is the network's architecture, `batch` a packed row whose targets and lengths are counted.
    """
    tokens, lengths = batch.ids.numel(), batch.lengths
    bytes_per_second = copy_bytes_per_second()
    # a job needs a GPU's name, but the bytes that are moved do not depend on it
    any_cluster = hardware.Cluster(gpu="H100", gpus=1)
    work = step_work.work(
        Job(
            architecture=a.replace(vocabulary=1),
            layout=ONE_RANK,
            cluster=any_cluster,
            tokens=tokens,
            batch_tokens=tokens,
        )
    )
    heads = scored_targets(task, batch)
    moved = FP32_FACTOR * (work.elementwise_bytes + work.permute_bytes) + LOGIT_BYTES * sum(
        rows * ids for rows, ids in heads
    )
    return {
        "products": sum(
            n * product_seconds(*shape) for shape, n in product_shapes(task, a, tokens).items()
        ),
        "head": sum(product_seconds(rows, ids, a.hidden) for rows, ids in heads),
        "attention": len(lengths)
        * sum(
            b.count * attention_seconds(b.attention, round(float(lengths.float().mean())))
            for b in a.blocks
            if b.attention
        ),
        "moved": moved / bytes_per_second,
        "optimizer": muon_seconds(optimizer)
        + step_work.ADAM_BYTES * a.num_params() / bytes_per_second,
        "batch": shortest_seconds(lambda: task.batch(0)),
    }


def scored_targets(task: OmniObjective, batch: PackedRow) -> list[tuple[int, int]]:
    """Return (number of targets, number of ids) per candidate set that has targets in a batch; the
    head computes that many logits."""
    ids, is_target = batch.ids, batch.weights > 0
    return [
        (rows, c.hi - c.lo)
        for c in task.layout.candidate_sets()
        if (rows := int(((ids >= c.lo) & (ids < c.hi) & is_target).sum()))
    ]


def product_shapes(
    task: OmniObjective, a: Architecture, tokens: int
) -> Counter[tuple[int, int, int]]:
    """Return the number of matrix products per shape (rows, outputs, inputs) in one forward pass
    over some tokens, without embedding and head; an expert gets an equal share of the tokens."""
    products: Counter[tuple[int, int, int]] = Counter()
    mixture = next((b.experts for b in a.blocks if b.experts), None)
    for name, p in task.module.named_parameters():
        if p.ndim == 3 and mixture:
            products[tokens * mixture.topk // mixture.routed, p.shape[1], p.shape[2]] += p.shape[0]
        elif p.ndim == 2 and "embed" not in name and "lm_head" not in name:
            products[tokens, p.shape[0], p.shape[1]] += 1
    return products


def product_seconds(rows: int, outputs: int, inputs: int) -> float:
    """Return the seconds of the product [rows, inputs] x [inputs, outputs] and of the two products
    of its backward pass."""
    x, w, g = torch.ones(rows, inputs), torch.ones(outputs, inputs), torch.ones(rows, outputs)
    return shortest_seconds(lambda: (x @ w.T, g @ w, g.T @ x))


def attention_seconds(at: Attention, tokens: int) -> float:
    """Return the seconds of one layer's causal attention over one sequence, forward and
    backward."""
    query, key = (
        torch.ones(1, n, tokens, at.head_dim + at.rope_dim, requires_grad=True)
        for n in (at.heads, at.kv_heads)
    )
    value = torch.ones(1, at.kv_heads, tokens, at.values, requires_grad=True)
    return shortest_seconds(
        lambda: (
            F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            .sum()
            .backward()
        )
    )


def muon_seconds(optimizer: Optimizers) -> float:
    """Return the seconds of Muon's orthogonalisation of all its matrices in one step, timed on a
    sample of each shape; 0.0 without Muon."""
    total = 0.0
    for shape, n in Counter(
        tuple(p.shape[-2:])
        for o in optimizer.each
        if isinstance(o, Muon)
        for group in o.param_groups
        for p in group["params"]
        for _ in range(p.shape[0] if p.ndim == 3 else 1)
    ).items():
        some = torch.ones(min(n, MUON_SAMPLE), *shape)
        total += n / len(some) * shortest_seconds(functools.partial(orthogonalise, some))
    return total


def copy_bytes_per_second() -> float:
    """Return the bytes per second, read and written, of a memory copy larger than any cache."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.ones_like(source)
    return 2 * source.nbytes / shortest_seconds(lambda: target.copy_(source))


def shortest_seconds(work: Callable[[], object], least: int = 3, seconds: float = 0.03) -> float:
    """Return the seconds of the shortest of at least `least` calls of `work`, repeated until they
    have taken `seconds` in all.

    The shortest is taken because other processes on the machine only add time.
    """
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
