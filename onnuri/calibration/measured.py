"""Read the measurements of Onnuri's own step on one GPU: rows with the columns of
`data/published_runs.csv`, each with the peak of its memory.

Knows no constant. The shapes are those of `data/measured_shapes.json`, as `stock.py` reads them
from transformers' configs.
"""

from __future__ import annotations

import functools
import json
import re

from onnuri.calibration import DATA
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.parallel import COMPILED_LOSS_BYTES, ONNURI, ParallelConfig

Row = dict[str, str]
FILE = DATA / "measured_gpu.csv"
RELEASE = 2026.2
"""year of PyTorch 2.11"""
SOURCE = "onnuri, own step"


@functools.cache
def shapes() -> dict[str, Architecture]:
    """Return the architectures that were measured, by the model's name in the table."""
    listed = json.loads((DATA / "measured_shapes.json").read_text(encoding="utf-8"))
    return {name: Architecture.from_json(values) for name, values in listed.items()}


def is_own(row: Row) -> bool:
    """Return whether a row is of Onnuri's trainer and of an architecture that was measured."""
    return (row.get("note") or "").startswith("own step") and row["model"] in shapes()


def job(row: Row) -> Job:
    """Return the job that a measured row ran, in Onnuri's trainer: with FSDP of one rank where the
    row says so (until November 2026), layers and loss compiled where its note says so."""
    gpus, tokens, batch = (int(row[c]) for c in ("gpus", "seq_len", "global_batch_tokens"))
    micro_batch = re.search(r"MBS (\d+)", row["note"])
    layout = ParallelConfig(
        dp=gpus,
        ep=int(row["ep"]),
        micro_batch=int(micro_batch[1]) if micro_batch else 1,
        sharding="fsdp",
        recompute=row["recompute"],  # type: ignore[arg-type]
    )
    engine = None
    if row["zero_or_fsdp"] == "fsdp":
        fused_loss = "loss compiled" in row["note"]
        engine = ONNURI.replace(loss_bytes=COMPILED_LOSS_BYTES) if fused_loss else ONNURI
    cluster = Cluster(gpu=row["gpu"], gpus=gpus, compiled="layers compiled" in row["note"])
    return Job(
        architecture=shapes()[row["model"]],
        layout=layout,
        cluster=cluster,
        tokens=tokens,
        batch_tokens=batch,
        software_year=RELEASE,
        engine=engine,
    )


def peak_gib(row: Row) -> float:
    """Return the GiB that the step of a row had allocated at its peak, without what the measuring
    process still held of its previous case."""
    return float(row["peak_allocated_GiB"]) - float(row["held_before_GiB"] or 0)
