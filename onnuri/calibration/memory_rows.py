"""Predict published measurements of memory: from one row of a CSV with the columns of
`data/published_memory.csv` to GiB.

Looks at no column of results. Shapes of the models that those rows name stand in
`data/memory_models.json`, each with its source; a row of another model brings its own columns
(hidden, ffn, heads, kv_heads, vocabulary, experts, topk).
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from onnuri.calibration import DATA, runs
from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.planner import constants, shapes
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Z80
from onnuri.planner.job import Job
from onnuri.planner.memory import GIB, Memory, memory
from onnuri.planner.parallel import MEGATRON, ParallelConfig, Precision, Recompute, Sharding

REQUIRED = ("model", "gpus", "tp", "pp")


class MemoryPrediction(NamedTuple):
    """Predicted GiB, with an 80 % interval."""

    gib: float
    low: float
    high: float


class MemoryModel(Config):
    """A model whose memory was published, and those values of its published configuration for which
    the CSV has no column."""

    architecture: Architecture
    source: str
    micro_batch: int = 1
    virtual_stages: int = 1


def predict_row(row: Mapping[str, str]) -> MemoryPrediction | None:
    """Return the predicted GiB of a row; None without a required column, or for a model that is
    neither listed nor described by its columns."""
    model = _model(row) if all(row.get(name) for name in REQUIRED) else None
    if model is None:
        return None
    estimate = memory(job(row, model))
    value, spread = (
        _measured_bytes(estimate, row.get("note") or "") / GIB,
        math.exp(Z80 * estimate.spread),
    )
    return MemoryPrediction(value, value / spread, value * spread)


def _measured_bytes(m: Memory, note: str) -> float:
    """Return the bytes of the part of memory that the note says was measured; without a word, the
    allocator's peak."""
    if "optimizer state" in note:
        return m.parameters + m.gradients + m.optimizer
    if "activations" in note:
        return m.activations
    return m.allocated * (constants.values()["memory_reserved"] if "reserved" in note else 1)


def job(row: Mapping[str, str], model: MemoryModel) -> Job:
    """Return the job that a row ran, by its note where it has no column."""
    note = row.get("note") or ""
    tokens = _whole(row, "seq_len", 4096)
    tp, pp, cp = (_whole(row, name, 1) for name in ("tp", "pp", "cp"))
    local = _number(r"local batch(?: size)?[ =:]*(\d+)", note)
    passes = _whole(row, "microbatches", local if local and pp > 1 else 1024)
    # torchtitan's local batch is all of a step's passes, of one sequence each, where there is a
    # pipeline
    micro = _whole(row, "micro_batch", 0) or _number(
        r"\b(?:MBS|micro-?batch(?: size)?)[ =:]*(\d+)", note
    )
    micro = micro or (1 if pp > 1 else local) or model.micro_batch
    layout = ParallelConfig(
        dp=_whole(row, "dp", _whole(row, "gpus", 1) // (tp * pp * cp) or 1),
        tp=tp,
        pp=pp,
        cp=cp,
        ep=_whole(row, "ep", 1),
        sequence_parallel="no sequence parallel" not in note,
        sharding=_sharding(row),
        virtual_stages=_whole(row, "vp", 0) or model.virtual_stages,
        micro_batch=micro,
        recompute=_recompute(f"{row.get('recompute') or ''} recompute", note),
        precision=_precision(row),
    )
    batch = tokens * layout.dp * micro * passes
    return Job(
        architecture=_reduced(model.architecture, _whole(row, "layers", 0)),
        layout=layout,
        tokens=tokens,
        batch_tokens=batch,
        software_year=_release(row),
        engine=MEGATRON.replace(
            kernels="eager" if re.search(r"\beager\b", note, re.I) else "vendor"
        ),
        cluster=Cluster(gpu=row.get("gpu") or "", gpus=_whole(row, "gpus", 1)),
    )


def _recompute(*texts: str) -> Recompute:
    """Return the degree of recomputation that the first of some texts names; "none" where none
    does."""
    again = r"(?:recompute\w*|recomputation|AC|activation (?:checkpointing|recomputation))"
    degree = r"(no|none|selective|full)"
    for text in texts:
        words = re.search(rf"\b{degree}[ -]{again}\b", text, re.I) or re.search(
            rf"\b{again}[ =:]*{degree}\b", text, re.I
        )
        if words:
            degrees: dict[str, Recompute] = {"selective": "selective", "full": "full"}
            return degrees.get(words[1].lower(), "none")
    return "none"


def _precision(row: Mapping[str, str]) -> Precision:
    """Return the format of products that the row's column or, without one, its note says; 16 bits
    without a word."""
    column = row.get("precision") or ""
    label = (
        column
        if column.strip()
        else " ".join(re.findall(r"\b(?:mxfp8|nvfp4|fp8|float8)\b", row.get("note") or "", re.I))
    )
    return runs.precision({"precision": label, "note": row.get("note") or ""})


def _sharding(row: Mapping[str, str]) -> Sharding:
    """Return the sharding of a row: Megatron-Core's distributed optimizer, unless the row speaks of
    full sharding or of none."""
    words = f"{row.get('zero_or_fsdp') or ''} {row.get('note') or ''}".lower()
    return "fsdp" if re.search(r"fsdp|zero-?3", words) else "ddp" if "ddp" in words else "zero1"


def _release(row: Mapping[str, str]) -> float | None:
    """Return the year of the software: from its column, or from the month of a paper that is the
    source; else None."""
    if row.get("release"):
        return float(row["release"])
    paper = re.search(r"arXiv:(\d\d)(\d\d)\.", row.get("source") or "")
    return 2000 + int(paper[1]) + (int(paper[2]) - 1) / 12 if paper else None


def _reduced(a: Architecture, layers: int) -> Architecture:
    """Return an architecture with fewer layers, the leading kinds kept; 0 layers leave it as it
    is."""
    if layers in (0, a.layers):
        return a
    first = sum(b.count for b in a.blocks[:-1])
    return a.replace(blocks=(*a.blocks[:-1], a.blocks[-1].replace(count=max(layers - first, 1))))


def _model(row: Mapping[str, str]) -> MemoryModel | None:
    """Return the model of a row: listed for memory, listed among all shapes, or described by the
    row's own columns; None where nothing tells."""
    name = row["model"]
    if named := models().get(re.sub(r"[^a-z0-9]", "", name.lower())):
        return named
    known: dict[str, Any] = {
        to: _whole(row, column, 0) for column, to in _COLUMNS.items() if row.get(column)
    }
    if known.get("experts") and "ffn" in known:  # the column's meaning in rows of mixtures
        known["expert_ffn"] = known.pop("ffn")
    if not shapes.listed(name) and not {"layers", "hidden", "heads"} <= known.keys():
        return None
    return MemoryModel(
        architecture=shapes.infer(name, None, None, **known),
        source="data/shapes.json and the row's columns",
    )


_COLUMNS = {c: c for c in ("layers", "hidden", "ffn", "experts", "topk", "heads", "kv_heads")} | {
    "vocabulary": "vocab"
}
"""columns of a row by what `shapes.py` calls them"""


@functools.cache
def models() -> dict[str, MemoryModel]:
    """Return the models of `data/memory_models.json`, by name in lower-case letters and digits."""
    listed = json.loads((DATA / "memory_models.json").read_text(encoding="utf-8"))
    return {
        re.sub(r"[^a-z0-9]", "", name.lower()): MemoryModel.from_json(values)
        for name, values in listed.items()
    }


def _whole(row: Mapping[str, str], column: str, missing: int) -> int:
    """Return a cell as a whole number, or `missing` for an empty one. Raises ConfigError for
    another number."""
    text = row.get(column) or ""
    if not text:
        return missing
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (number >= 1 and number.is_integer()):
        raise ConfigError(
            f"{column} {text!r} of {row.get('id', 'a row')}",
            "is not a whole number above zero",
            "write one, or leave the cell empty",
        )
    return int(number)


def _number(pattern: str, note: str) -> int:
    """Return the whole number that a pattern finds in a note; 0 where it finds none."""
    match = re.search(pattern, note)
    return int(match[1]) if match else 0
