"""This module compares a dry run with the planner's estimate of the same step: bytes, FLOPs and
collectives.

It knows neither how the one is traced nor how the other is estimated.
"""

from __future__ import annotations

from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
from onnuri.planner.traffic import collectives
from onnuri.profile.dryrun import DryRun

Pair = tuple[float, float]
"""(planned, traced)"""


def pairs(run: DryRun, a: Architecture, gpu: str) -> dict[str, Pair]:
    """Return (planned, traced) figures of one rank's step by name: bytes, and FLOPs of one
    micro-batch."""
    job = Job(
        architecture=a,
        layout=run.layout,
        cluster=Cluster(gpu=gpu, gpus=run.gpus),
        tokens=run.tokens,
        batch_tokens=run.tokens * run.layout.dp * run.layout.micro_batch,
    )
    m, head = memory(job), 6.0 * a.embedding()
    recompute_factor = (
        4 / 3 if run.layout.recompute == "full" else 1.0
    )  # layers alone are recomputed
    flops = (
        ((a.flops_per_token(run.tokens) - head) * recompute_factor + head)
        * run.tokens
        * run.layout.micro_batch
        / run.layout.tp
    )
    return {
        "parameter bytes": (m.parameters, run.parameter_bytes),
        "optimizer bytes": (m.optimizer, run.optimizer_bytes),
        "peak activation bytes": (m.peak_activations, run.activation_bytes),
        "peak bytes": (m.allocated, run.peak_bytes),
        "FLOPs": (flops, run.flops),
        "collective bytes": (sum(c.total for c in collectives(job)), run.collective_bytes),
    }


def text(figures: dict[str, Pair]) -> str:
    """Return a text table with one line per figure: planned, traced and the plan's relative
    error."""
    return "\n".join(
        [
            f"{'':<24}{'planned':>12}{'traced':>12}",
            *(
                f"{name:<24}{planned:>12.5g}{traced:>12.5g}{planned / traced - 1:>+9.2%}"
                for name, (planned, traced) in figures.items()
                if traced
            ),
        ]
    )
