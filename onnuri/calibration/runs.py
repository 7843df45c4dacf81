"""Read published runs as jobs: from a CSV's row, the jobs that it may stand for with their weights;
from a speed, the row's metric.

Knows no constant and never reads `value`. What a row does not say is what an engineer would choose,
or several choices.
"""

from __future__ import annotations

import csv
import functools
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

from onnuri.calibration import DATA, measured
from onnuri.errors import ConfigError
from onnuri.planner import hardware, shapes
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.parallel import (
    MEGATRON,
    EngineProfile,
    Kernels,
    ParallelConfig,
    Precision,
    Recompute,
    Sharding,
)
from onnuri.planner.pipeline_stages import mean_weights

Row = dict[str, str]
COLUMNS = (
    "id",
    "model",
    "kind",
    "total_params_B",
    "active_params_B",
    "layers",
    "hidden",
    "ffn",
    "experts",
    "topk",
    "heads",
    "kv_heads",
    "seq_len",
    "global_batch_tokens",
    "gpu",
    "gpus",
    "precision",
    "dp",
    "tp",
    "pp",
    "cp",
    "ep",
    "zero_or_fsdp",
    "recompute",
    "metric",
    "value",
)
"""columns that a table of runs has; `note`, `source`, `tokens_trained_B` and others may stand
beside them"""
WHOLE = {
    "layers",
    "hidden",
    "ffn",
    "experts",
    "topk",
    "heads",
    "kv_heads",
    "seq_len",
    "gpus",
    "dp",
    "tp",
    "pp",
    "cp",
    "ep",
    "microbatches",
    "micro_batch",
    "vp",
    "vocabulary",
}
NUMBERS = WHOLE | {
    "total_params_B",
    "active_params_B",
    "global_batch_tokens",
    "value",
    "tokens_trained_B",
    "release",
    "real_step_ms",
    "real_mem_GiB",
}
SMALLEST, LARGEST = 1e-9, 1e12
"""bounds of any figure of such a table: what is beyond is a slip of the keyboard"""
KINDS = ("dense", "moe")
PRECISION = re.compile(r"(?<!\d)(?:32|16|8|4)(?!\d)|half|mixed|amp", re.I)
CUMULATIVE = ("gpu_hours", "days")
METRICS = ("tokens_per_s_per_gpu", "tflops_per_gpu", "mfu", *CUMULATIVE)
PUBLISHED, FURTHER = DATA / "published_runs.csv", DATA / "further_runs.csv"
RULE = (
    "a row is null only if its model, gpu or metric is empty, its GPU is not listed, its metric"
    f" is not one of {', '.join(METRICS)}, nothing tells its model's size, or it asks for hours"
    " without tokens_trained_B or for days without that and gpus; a null counts as 100 % error;"
    " 32 bits are predicted as 16"
)
FULL_SCORES_BEFORE = 2025.0
"""year before which figures in FLOPs counted attention in full unless they say otherwise (PaLM's
and Megatron-LM's formula)"""


class CandidateJob(NamedTuple):
    """One of the jobs that a row may stand for."""

    job: Job
    weight: float
    """share of this job; those of all of a row's jobs sum to 1"""


def read(path: Path, columns: tuple[str, ...] = COLUMNS) -> list[Row]:
    """Return the rows of a CSV that has `columns`. Raises ConfigError for missing columns and for
    cells that cannot be."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows, header = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            str(path), f"cannot be read as a CSV ({error})", "give a file like published_runs.csv"
        ) from None
    if missing := [c for c in columns if c not in header]:
        raise ConfigError(
            str(path),
            f"has no column {', '.join(missing)}",
            f"give the columns {', '.join(columns)}",
        )
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ConfigError(
                f"{path} line {line}", f"has not {len(header)} cells", "quote cells with commas"
            )
        for cell, rule, repair in mistakes(row):
            raise ConfigError(f"{path} line {line} ({row['id']}): {cell}", rule, repair)
    return rows


def mistakes(row: Row) -> Iterator[tuple[str, str, str]]:
    """Yield three texts for every cell of a row that cannot be: column and value, rule, repair. An
    empty cell is unknown, not a mistake."""
    for column in (c for c in row if c in NUMBERS and row[c].strip()):
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not SMALLEST <= value <= LARGEST:
            yield (
                f"{column} {row[column]!r}",
                f"is not a number above 0 (at most {LARGEST:g})",
                "mend or empty the cell",
            )
            return
        if column in WHOLE and not value.is_integer():
            yield f"{column} {row[column]!r}", "is not a whole number", "mend or empty the cell"
    if row.get("kind", "").strip().lower() not in ("", *KINDS):
        yield (
            f"kind {row['kind']!r}",
            "is not known",
            f"write {' or '.join(KINDS)}, or empty the cell",
        )
    if row.get("precision", "").strip() and not PRECISION.search(row["precision"]):
        yield (
            f"precision {row['precision']!r}",
            "is not one of 32, 16, 8 or 4 bits",
            "write such as bf16, fp8, mxfp8 or nvfp4",
        )
    # data ranks are counted with or without context's, so these are held against the GPUs by
    # themselves
    bounds = [
        (("tp", "pp", "cp"), "gpus"),
        (("dp",), "gpus"),
        (("ep",), "gpus"),
        (("pp",), "layers"),
        (("topk",), "experts"),
    ]
    for parts, bound in bounds:
        product, most = math.prod(whole(row, c) or 1 for c in parts), whole(row, bound)
        if most and product > most:
            degrees = " x ".join(f"{c} {row[c]}" for c in parts if whole(row, c))
            yield degrees, f"is more than {bound} {row[bound]}", "mend or empty a cell"


@functools.cache
def published() -> tuple[Row, ...]:
    """Return the rows of steady speed that are on a published page, to which the constants were
    fitted."""
    return tuple(r for path in (PUBLISHED, FURTHER) for r in read(path) if steady(r))


def steady(row: Row) -> bool:
    """Return whether a row states a speed, not hours or days in all, and was not noted from
    memory."""
    return row.get("recalled") != "yes" and row["metric"] not in CUMULATIVE


def number(row: Row, column: str) -> float | None:
    """Return a cell of a row as a number, or None for an empty cell."""
    cell = (row.get(column) or "").strip()
    return float(cell) if cell else None


def whole(row: Row, column: str) -> int | None:
    """Return a cell's number as a whole one of at least 1, or None for an empty cell."""
    value = number(row, column)
    return None if value is None else max(1, round(value))


def why_null(row: Row) -> str | None:
    """Return the reason why a row has no prediction, or None where it has one."""
    for column in ("model", "gpu", "metric"):
        if not row[column].strip():
            return f"{column} is empty"
    if row["gpu"].lower() not in {n.lower() for n in hardware.table()}:
        return f"GPU {row['gpu']!r} is not listed"
    if row["metric"] not in METRICS:
        return f"metric {row['metric']!r} is not one of {', '.join(METRICS)}"
    if row["metric"] in CUMULATIVE and not number(row, "tokens_trained_B"):
        return "tokens_trained_B is empty"
    if row["metric"] == "days" and not number(row, "gpus"):
        return "gpus is empty"
    try:
        architecture(row)
    except ConfigError as error:
        return f"nothing tells the model's size: {error.value} {error.rule}"
    return None


def architecture(row: Row) -> Architecture:
    """Return the architecture of a row's model: measured here, listed, or inferred from its
    columns. Raises ConfigError where nothing tells its size."""
    if measured.is_own(row):
        return measured.shapes()[row["model"]]
    known: dict[str, int | None] = {
        c: whole(row, c) for c in ("layers", "hidden", "heads", "kv_heads", "experts", "topk")
    }
    known["expert_ffn" if row["kind"].strip().lower() == "moe" else "ffn"] = whole(row, "ffn")
    if match := re.search(r"vocab(?:ulary)? (\d{4,6})", note(row)):
        known["vocab"] = int(match[1])
    if re.search(r"w/o MTP|without MTP|no MTP", note(row)):
        known["mtp"] = 0
    total, active = number(row, "total_params_B"), number(row, "active_params_B")
    return shapes.infer(
        row["model"],
        total and total * 1e9,
        active and active * 1e9,
        mixture=row["kind"].strip().lower() == "moe",
        **known,
    )


def repository(row: Row) -> str:
    """Return the repository or page of a row's source, without the file in it."""
    source = (row.get("source") or "").strip()
    return source if source.startswith("http") else source.split(":")[0]


def note(row: Row) -> str:
    """Return the row's note, which may be empty."""
    return row.get("note") or ""


def candidate_jobs(row: Row) -> list[CandidateJob]:
    """Return the jobs that a row may stand for: the values that it says, and for those that it does
    not say the choices that engineers make."""
    if measured.is_own(row):
        return [CandidateJob(measured.job(row), 1.0)]
    a, tokens = architecture(row), whole(row, "seq_len") or 4096
    gpus = whole(row, "gpus") or _usual_gpus(a)
    cluster = _cluster(row, gpus)
    engine = _engine(row)
    jobs = []
    for layout in _layouts(row, a, gpus, tokens):
        rank = layout.micro_batch * tokens * layout.dp
        batch = whole(row, "global_batch_tokens") or rank * max(
            -(-4_194_304 // rank), 4 * layout.pp * (layout.pp > 1)
        )
        jobs.append(
            Job(
                architecture=a,
                layout=layout,
                cluster=cluster,
                tokens=tokens,
                batch_tokens=max(batch, rank),
                software_year=year(row, a),
                engine=engine,
            )
        )
    return [CandidateJob(job, 1 / len(jobs)) for job in jobs]


def _engine(row: Row) -> EngineProfile:
    """Return the engine of another group that ran the row, as its note describes it."""
    graphs = re.search(r"graph|XLA", note(row), re.I) or row["gpu"].startswith("TPU")
    return MEGATRON.replace(
        name="another group's",
        kernels=_kernels(row),
        graphs=1.0 if graphs else MEGATRON.graphs,
        gradient_bytes=_gradient_bytes(row),
        async_tp=bool(re.search(r"async-? ?TP", note(row), re.I)),
    )


def _kernels(row: Row) -> Kernels:
    """Return which kernels ran a row.

    They are PyTorch's own where the row speaks of its compiler, its attention or an engine made of
    it, or of its sharding alone, and of no vendor's library; unfused where the row says so.
    """
    words = f"{note(row)} {row['zero_or_fsdp']}"
    named = re.search(r"torch\.?compile|torchtitan|nanotron|SDPA|\beager\b", words, re.I)
    alone = all(
        (whole(row, c) or 1) == 1 for c in ("tp", "pp", "cp")
    )  # beside other degrees it is a group's own engine
    library = re.search(
        r"\bTE\b|Transformer Engine|Megatron|NeMo|XLA|JAX|MaxText", note(row)
    ) or row["gpu"].startswith("TPU")
    if library or not (named or (alone and re.search("FSDP", words, re.I))):
        return "vendor"
    if re.search(r"\beager\b", words, re.I):
        return "eager"
    return "compiled" if re.search("compile", words, re.I) else "torch"


def _gradient_bytes(row: Row) -> float:
    """Return the bytes per number that data ranks sum.

    They are 4, but 2 where all training is in 16 bits, or where ZeRO is named, whose optimizers sum
    gradients as they are (DeepSpeed's communication_data_type; InternLM/InternEvo,
    hybrid_zero_optim.py).
    """
    return 2.0 if "pure" in note(row).lower() or "zero" in row["zero_or_fsdp"].lower() else 4.0


def _usual_gpus(a: Architecture) -> int:
    """Return a power of two of GPUs, about one for 200M active parameters."""
    return max(8, 2 ** round(a.num_active_params() / 2e8).bit_length())


def _cluster(row: Row, gpus: int) -> Cluster:
    """Return the cluster of a row, with network, power and rates that its note says."""
    kind, text, nic = hardware.gpu(row["gpu"]), note(row), None
    if match := re.search(r"(\d+(?:\.\d+)?) ?Gb/s per GPU", text):
        nic = float(match[1]) / 8
    elif match := re.search(r"(\d+)x ?[A-Za-z -]*?(\d+) ?Gb", text):
        nic = int(match[1]) * float(match[2]) / 8 / 8
    share = re.search(r"GEMM[^;]*?\b(0\.\d+) of the peak", text)
    power = re.search(r"(\d{3,4}) ?W\b", text)
    memory = re.search(r"(\d+(?:\.\d+)?) ?TB/s", text)
    return Cluster(
        gpu=kind.name,
        gpus=gpus,
        nic_gb_per_s=nic,
        gemm_share=float(share[1]) if share else None,
        power_w=float(power[1]) if power else None,
        memory_tb_per_s=float(memory[1]) if memory else None,
    )


def year(row: Row, a: Architecture | None = None) -> float | None:
    """Return the year of the training software: of a release in the note or id, a date, the paper's
    number; else soon after the model."""
    texts = (note(row), row["id"], row.get("source") or "")
    for pattern in (
        r"NeMo (\d\d)\.(\d\d)",
        r"@(\d\d)\.(\d\d)",
        r"20(\d\d)[-/.](\d\d)\b",
        r"arxiv\.org/abs/(\d\d)(\d\d)\.",
        r"arXiv:(\d\d)(\d\d)\.",
    ):
        for text in texts:
            if (match := re.search(pattern, text)) and 1 <= int(match[2]) <= 12:
                return 2000 + int(match[1]) + (int(match[2]) - 0.5) / 12
    spec = shapes.listed(row["model"]) or {}
    return spec["year"] + 0.3 if "year" in spec else None


def _layouts(row: Row, a: Architecture, gpus: int, tokens: int) -> list[ParallelConfig]:
    """Return the layouts that a row may stand for: what it says, completed in every way that fits;
    where nothing fits, its plainest completion."""
    text, moe = row["zero_or_fsdp"].lower(), a.mixture
    full = re.search(r"fsdp|zero-?3", text)
    stages = _number_in_note(row, r"\bVP ?(\d+)")
    recomputes: list[Recompute] = [
        r for r in get_args(Recompute) if r == row["recompute"].strip()
    ] or ["selective"]
    precisions: list[Precision] = [precision(row)] if row["precision"].strip() else ["bf16", "fp8"]
    options = []
    for tp, pp, cp, ep in _degrees(row, a, gpus, moe):
        dp = max(1, gpus // (tp * pp * cp))
        shard = _shard(text, dp * cp)
        sharding: Sharding = "zero1" if not full else "hsdp" if shard else "fsdp"
        chunks = (
            [stages]
            if stages
            else [v for v in (1, 2, 3, 4, 6, 8) if v == 1 or (pp > 1 and v * pp <= a.layers / 1.5)]
        )
        for recompute, kind, m, v in itertools.product(
            recomputes, precisions, _micro_batches(row, tokens, dp, pp), chunks
        ):
            options.append(
                ParallelConfig(
                    dp=dp,
                    tp=tp,
                    cp=cp,
                    pp=pp,
                    ep=ep,
                    sharding=sharding,
                    shard=shard,
                    recompute=recompute,
                    virtual_stages=v,
                    micro_batch=m,
                    precision=kind,
                )
            )
    return [o for o in options if fits(a, o, row["gpu"], tokens)] or options[:1]


def _shard(text: str, ranks: int) -> int | None:
    """Return the ranks that share one copy of the model by the row's text; None where it names none
    that divides the ranks."""
    match = re.search(r"within (\d+)|fsdp(\d+)", text)
    shard = int(match[1] or match[2]) if match else None
    return None if not shard or shard >= ranks or ranks % shard else shard


def _degrees(row: Row, a: Architecture, gpus: int, moe: bool) -> list[tuple[int, int, int, int]]:
    """Return the tensor, pipeline, context and expert parallel degrees that a row may stand for:
    its own, else those that engineers try."""
    known = {c: whole(row, c) for c in ("dp", "tp", "pp", "cp", "ep")}
    cp = known["cp"] or 1
    rest = gpus // cp // (known["dp"] or 1)  # with dp given, tensor and pipeline share what is left
    tensor = [known["tp"]] if known["tp"] else [t for t in (1, 2, 4, 8) if rest % t == 0]
    degrees = []
    for tp in tensor:
        if known["pp"]:
            pipeline = [known["pp"]]
        elif known["dp"]:
            pipeline = [max(1, rest // tp)]
        elif known["tp"] or row["zero_or_fsdp"].lower().startswith("fsdp"):
            pipeline = [1]
        else:
            pipeline = [p for p in (1, 2, 4, 8, 12, 16) if rest % (tp * p) == 0 and p <= a.layers]
        for pp in pipeline:
            ranks = max(1, gpus // (tp * pp))
            routed = next((b.experts.routed for b in a.blocks if b.experts), 1)
            each = (
                [known["ep"]]
                if known["ep"]
                else [e for e in (1, 4, 8, 16, 32, 64) if ranks % e == 0 and routed % e == 0]
            )
            degrees += [(tp, pp, cp, e) for e in (each if moe else [1])]
    return degrees or [(1, 1, 1, 1)]


def fits(a: Architecture, layout: ParallelConfig, gpu: str, tokens: int) -> bool:
    """Return roughly whether a GPU holds a layout.

    Counted are 6 bytes per local parameter and 12 sharded, and activations of all passes in flight
    (arXiv 2205.05198, 34 bytes per token, layer and hidden unit; 2 with full recomputation).
    """
    local = sum(mean_weights(a, layout))
    ranks = layout.shard or layout.dp * layout.cp
    weight_bytes = local * (6 + 12 / ranks if layout.sharding == "zero1" else 18 / ranks)
    each = 2 if layout.recompute == "full" else 34
    activations = (
        layout.micro_batch * tokens / layout.cp * a.hidden * each * a.layers / layout.tp
    )  # pp passes of a pp-th each
    logits = layout.micro_batch * tokens / layout.cp * a.vocabulary / layout.tp * 6
    return weight_bytes + activations + logits < 0.92e9 * hardware.gpu(gpu).memory_gb


def _micro_batches(row: Row, tokens: int, dp: int, pp: int) -> list[int]:
    """Return the micro-batches, in sequences, that a row may stand for: its own, else those that
    divide its batch."""
    batch = number(row, "global_batch_tokens")
    if count := _number_in_note(row, r"(?:MBS|microbatch|micro-batch|micro_bsz)[ =:]*(\d+)"):
        return [count]
    if count := _number_in_note(row, r"local batch(?: size)?[ =:]*(\d+)"):
        return [
            1 if pp > 1 else count
        ]  # torchtitan's local batch is all of a step's passes, of one sequence each
    each = max(1, round(batch / (tokens * dp))) if batch else 0
    if each and (
        count := _number_in_note(
            row, r"(?:micro_num|grad accum|gradient accumulation|\bGA)[ =]*(\d+)"
        )
    ):
        return [max(1, each // count)]
    return [m for m in (1, 2, 4, 8) if not each or each % m == 0] or [1]


def _number_in_note(row: Row, pattern: str) -> int:
    """Return the whole number that a pattern finds in the note; 0 where it finds none."""
    match = re.search(pattern, note(row), re.I)
    return int(match[1]) if match else 0


def precision(row: Row) -> Precision:
    """Return the format of the products by the row's column, or by the label that its note
    quotes."""
    label = re.search(r"label '([A-Za-z0-9-]+)", note(row))
    text = (label[1] if label else row["precision"]).lower()
    if "nvfp4" in text or "fp4" in text:
        return "nvfp4"
    if re.search(r"mxfp8|fp8-mx", text):
        return "mxfp8"
    return "fp8" if re.search("fp8|float8|int8|e4m3", text) else "bf16"


def in_metric(row: Row, job: Job, speed: float) -> float:
    """Return tokens per second and GPU converted to the row's metric by its convention."""
    metric = row["metric"]
    if metric == "tokens_per_s_per_gpu":
        return speed
    if metric in CUMULATIVE:
        hours = (number(row, "tokens_trained_B") or 0.0) * 1e9 / speed / 3600
        return hours if metric == "gpu_hours" else hours / 24 / (number(row, "gpus") or 1)
    flops = flops_per_token(row, job) * speed
    return (
        flops / 1e12
        if metric == "tflops_per_gpu"
        else 100 * flops / (job.cluster.kind.bf16_tflops * 1e12)
    )


def flops_per_token(row: Row, job: Job) -> float:
    """Return the FLOPs per token by the row's convention: hardware FLOPs count a full
    recomputation; attention is counted in full or causal."""
    text = note(row).lower()
    if "causal" in text and "not causal" not in text:
        causal = True
    else:
        causal = (
            "full attention" not in text
            and "not causal" not in text
            and (job.software_year or 2024.0) >= FULL_SCORES_BEFORE
        )
    flops = job.architecture.flops_per_token(job.tokens, causal)
    hardware_flops = (
        re.search(r"hardware|incl\. recompute", text) and row["metric"] == "tflops_per_gpu"
    )
    return flops * 4 / 3 if hardware_flops and job.layout.recompute == "full" else flops
