"""How long a step's parts take on this machine: a network's own products, each timed alone for a
moment, and what is moved.

What is moved is the planner's count (`step_work.work`) in 32 bits. No step is run: that would be a
measurement, not a forecast.
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

WIDE = 2
"""bytes in 32 bits over those in 16, which the planner counts"""
LOGIT = 20
"""bytes read and written of a logit: itself thrice, its gradient twice"""
SAMPLE = 8
"""matrices that Muon's iteration is timed on at most"""
LARGE = 2**26
"""bytes: what a step keeps is ten times as much, no machine's cache is"""
ALONE = ParallelConfig(sharding="ddp", recompute="none")


def step_seconds(
    task: OmniObjective, a: Architecture, optimizer: Optimizers, batch: PackedRow
) -> dict[str, float]:
    """Return the seconds of a step by part."""
    tokens, lengths = batch.ids.numel(), batch.lengths
    pace = copied()
    any_one = hardware.Cluster(
        gpu="H100", gpus=1
    )  # a job names a GPU; bytes that one of them moves do not depend on it
    work = step_work.work(
        Job(
            architecture=a.replace(vocabulary=1),
            layout=ALONE,
            cluster=any_one,
            tokens=tokens,
            batch_tokens=tokens,
        )
    )
    heads = scored(task, batch)
    moved = WIDE * (work.elementwise_bytes + work.permute_bytes) + LOGIT * sum(
        rows * ids for rows, ids in heads
    )
    return {
        "products": sum(n * product(*shape) for shape, n in shapes(task, a, tokens).items()),
        "head": sum(product(rows, ids, a.hidden) for rows, ids in heads),
        "attention": len(lengths)
        * sum(
            b.count * scores(b.attention, round(float(lengths.float().mean())))
            for b in a.blocks
            if b.attention
        ),
        "moved": moved / pace,
        "optimizer": updates(optimizer) + step_work.ADAM_BYTES * a.num_params() / pace,
        "batch": quickest(lambda: task.batch(0)),
    }


def scored(task: OmniObjective, batch: PackedRow) -> list[tuple[int, int]]:
    """Return pairs of targets and of the ids among which they are scored."""
    ids, counted = batch.ids, batch.weights > 0
    return [
        (rows, c.hi - c.lo)
        for c in task.layout.candidate_sets()
        if (rows := int(((ids >= c.lo) & (ids < c.hi) & counted).sum()))
    ]


def shapes(task: OmniObjective, a: Architecture, tokens: int) -> Counter[tuple[int, int, int]]:
    """Return (rows, outputs, inputs) of the products inside, and how often; an expert gets its
    share of the tokens."""
    products: Counter[tuple[int, int, int]] = Counter()
    mixture = next((b.experts for b in a.blocks if b.experts), None)
    for name, p in task.module.named_parameters():
        if p.ndim == 3 and mixture:
            products[tokens * mixture.topk // mixture.routed, p.shape[1], p.shape[2]] += p.shape[0]
        elif p.ndim == 2 and "embed" not in name and "lm_head" not in name:
            products[tokens, p.shape[0], p.shape[1]] += 1
    return products


def product(rows: int, outputs: int, inputs: int) -> float:
    """Return the seconds of a product and of its two gradients."""
    x, w, g = torch.ones(rows, inputs), torch.ones(outputs, inputs), torch.ones(rows, outputs)
    return quickest(lambda: (x @ w.T, g @ w, g.T @ x))


def scores(at: Attention, tokens: int) -> float:
    """Return the seconds of one sequence's attention, forward and backward."""
    query, key = (
        torch.ones(1, n, tokens, at.head_dim + at.rope_dim, requires_grad=True)
        for n in (at.heads, at.kv_heads)
    )
    value = torch.ones(1, at.kv_heads, tokens, at.values, requires_grad=True)
    return quickest(
        lambda: (
            F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            .sum()
            .backward()
        )
    )


def updates(optimizer: Optimizers) -> float:
    """Return the seconds of Muon's iterations."""
    total = 0.0
    for shape, n in Counter(
        tuple(p.shape[-2:])
        for o in optimizer.each
        if isinstance(o, Muon)
        for group in o.param_groups
        for p in group["params"]
        for _ in range(p.shape[0] if p.ndim == 3 else 1)
    ).items():
        some = torch.ones(min(n, SAMPLE), *shape)
        total += n / len(some) * quickest(functools.partial(orthogonalise, some))
    return total


def copied() -> float:
    """Return the bytes per second, read and written, of what no cache holds."""
    source = torch.ones(LARGE // 4)
    target = torch.ones_like(source)
    return 2 * source.nbytes / quickest(lambda: target.copy_(source))


def quickest(work: Callable[[], object], least: int = 3, seconds: float = 0.03) -> float:
    """Return the seconds of the quickest of some tries: others' work on the machine only adds."""
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
