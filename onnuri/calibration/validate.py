"""Predict every row of a table of published runs without its value, and compare the two: `onnuri
plan validate`.

Knows no command line and fits nothing. Errors are of the prediction over the published value, less
one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onnuri import files
from onnuri.calibration import measured, memory_rows, runs
from onnuri.errors import ConfigError
from onnuri.planner import constants, goodput, moe_imbalance, step_time
from onnuri.planner.interval import Interval, spread
from onnuri.planner.job import Job

MEMORY_VALUE = "real_mem_GiB"
MEMORY_COLUMNS = (
    "id",
    "model",
    "layers",
    "gpu",
    "gpus",
    "tp",
    "pp",
    "cp",
    "ep",
    "dp",
    "seq_len",
    "microbatches",
    MEMORY_VALUE,
)
IN_SAMPLE = (
    "{known} of these rows are those that the constants were fitted to: the errors above are in"
    " sample; errors on what was held out stand in docs/planner-speed.md"
)
CHOICE = 10.0
"""power of a candidate job's speed to which its odds go: engineers choose the faster among what a
row leaves open"""


class RunPrediction(NamedTuple):
    """A prediction in the row's metric, with an 80 % interval."""

    value: float
    low: float
    high: float


def predict(row: runs.Row) -> RunPrediction | None:
    """Return the prediction of one row of runs; None by `runs.RULE`. It never reads the row's
    value."""
    if runs.why_null(row):
        return None
    candidates = runs.candidate_jobs(row)
    jobs = [m.job for m in candidates]
    speeds = [step_time.step_time(job).tokens_per_s_per_gpu for job in jobs]
    best = max(speeds)
    odds = [(s / best) ** CHOICE for s in speeds]
    speed = math.exp(sum(o * math.log(s) for o, s in zip(odds, speeds, strict=True)) / sum(odds))
    down, up = step_time.spread(
        jobs[0].architecture.mixture, step_time.extrapolation_flags(jobs[0]), constants.values()
    )
    interval = Interval(low=speed * math.exp(-down), mid=speed, high=speed * math.exp(up))
    if row["metric"] in runs.CUMULATIVE:
        interval = lasting(jobs[0], interval, (runs.number(row, "tokens_trained_B") or 0.0) * 1e9)
    ends = [runs.in_metric(row, jobs[0], s) for s in (interval.mid, interval.low, interval.high)]
    return RunPrediction(ends[0], min(ends[1:]), max(ends[1:]))


def lasting(job: Job, speed: Interval, tokens: float) -> Interval:
    """Return the tokens per second and GPU over all the hours in which that many tokens are
    trained: real routing, failures, and what else takes time are counted."""
    hours = tokens / (speed.mid * job.cluster.gpus) / 3600
    factors = [
        goodput.goodput(
            job.cluster, job.architecture.num_params() * goodput.STATE_BYTES, hours=hours
        ).share
    ]
    factors += [moe_imbalance.REAL_ROUTING_EFFICIENCY] * job.architecture.mixture
    return spread(lambda s, *shares: s * math.prod(shares), speed, *factors)


def run(path: Path, memory: bool = False, json_file: Path | None = None) -> None:
    """Print every row and the summaries, and write them to `json_file` where it is set. Raises
    ConfigError for a bad table."""
    files.check_place(json_file)
    rows = runs.read(path, MEMORY_COLUMNS if memory else runs.COLUMNS)
    if not rows:
        raise ConfigError(str(path), "has no rows", "give a file like published_runs.csv")
    report = (
        compare(rows, MEMORY_VALUE, MEMORY_VALUE, _memory)
        if memory
        else compare(rows, "value", None, predict, runs.why_null)
    )
    report["summary"]["in_sample"] = (
        0 if memory else in_sample(rows)
    )  # memory's constants are fitted to no row
    print(text(report, memory))
    if json_file:
        files.write_json(report, json_file)


def in_sample(rows: Iterable[runs.Row]) -> int:
    """Return how many rows are those that the constants were fitted to, whatever their ids."""

    def figures(row: runs.Row) -> tuple[object, ...]:
        """Return the cells of a row that identify it, numbers as numbers."""
        return tuple(
            runs.number(row, c) if c in runs.NUMBERS else row[c] for c in runs.COLUMNS if c != "id"
        )

    fitted = {figures(row) for row in (*runs.published(), *runs.read(measured.FILE))}
    return sum(figures(row) in fitted for row in rows)


def _memory(row: runs.Row) -> RunPrediction | None:
    """Return the prediction of a row of memory in GiB, in the form of a prediction of speed."""
    prediction = memory_rows.predict_row(row)
    return prediction and RunPrediction(prediction.gib, prediction.low, prediction.high)


def compare(
    rows: Iterable[runs.Row],
    value: str,
    metric: str | None,
    by: Callable[[runs.Row], RunPrediction | None],
    why: Callable[[runs.Row], str | None] | None = None,
) -> dict[str, Any]:
    """Return a dict of `rows`, each with its published and predicted value, and their `summary`.

    `value` is the column of published values, `metric` a name for all rows or None for their own,
    `by` predicts a row, and `why` tells why a row of speed has no prediction.
    """
    entries, keys = [], []
    for row in rows:
        prediction, published = by(row), runs.number(row, value)
        error = prediction.value / published - 1 if prediction and published else None
        entries.append(
            {
                "id": row["id"],
                "metric": metric or row["metric"],
                "published": published,
                "predicted": prediction and prediction.value,
                "low": prediction and prediction.low,
                "high": prediction and prediction.high,
                "error": -1.0 if prediction is None else error,
                "why_null": why(row) if why and not prediction else None,
                "assumed": assumed(row) if why and prediction else None,
            }
        )
        keys.append(
            {
                "kind": row.get("kind") or "",
                "gpu": row["gpu"],
                "metric": metric or row["metric"],
                "source": runs.repository(row),
            }
        )
    return {"rows": entries, "summary": summary(entries, keys)}


def assumed(row: runs.Row) -> str | None:
    """Return which architecture is assumed for a row's model, or None where the list or its columns
    tell it."""
    a = runs.architecture(row)
    if not a.unsure:
        return None
    experts = next((b.experts for b in a.blocks if b.experts), None)
    mixed = f", {experts.topk} of {experts.routed} experts" if experts else ""
    return f"{a.layers} layers of {a.hidden}{mixed}: {a.num_params() / 1e9:.3g}B by rule"


def summary(rows: list[dict[str, Any]], keys: list[dict[str, str]]) -> dict[str, Any]:
    """Return the figures of all rows, and by kind, GPU, source and metric."""
    known = [(r, k) for r, k in zip(rows, keys, strict=True) if r["published"]]
    groups: dict[str, Any] = {"all": figures([r for r, _ in known])}
    for name in ("kind", "gpu", "source", "metric"):
        values = sorted({k[name] for _, k in known})
        groups[name] = {v: figures([r for r, k in known if k[name] == v]) for v in values}
    return groups


def figures(rows: list[dict[str, Any]]) -> dict[str, float | int | None]:
    """Return the median and 90th percentile of the errors without their sign, and the coverage of
    the 80 % intervals among rows that have one."""
    errors = sorted(abs(r["error"]) for r in rows)
    inside = [r["low"] <= r["published"] <= r["high"] for r in rows if r["predicted"] is not None]
    return {
        "rows": len(rows),
        "null": sum(r["predicted"] is None for r in rows),
        "median_error": statistics.median(errors) if errors else None,
        "p90_error": errors[math.ceil(0.9 * len(errors)) - 1] if errors else None,
        "coverage": sum(inside) / len(inside) if inside else None,
    }


def text(report: Mapping[str, Any], memory: bool = False) -> str:
    """Return a line per row and a line per group of rows, for a terminal."""
    lines = [
        f"{'id':<58}{'metric':>21}{'published':>12}{'predicted':>12}"
        f"{'80 % from':>12}{'to':>12}{'error':>8}"
    ]
    for r in report["rows"]:
        cells = "".join(f"{_short(r[k]):>12}" for k in ("published", "predicted", "low", "high"))
        error = "" if r["error"] is None else f"{100 * r['error']:+.1f} %"
        remark = r.get("why_null") or (r.get("assumed") and f"assumed: {r['assumed']}")
        lines.append(
            f"{r['id'][:57]:<58}{r['metric']:>21}{cells}{error:>8}"
            + (f"  {remark}" if remark else "")
        )
    lines.append("")
    for name, groups in report["summary"].items():
        if name == "in_sample":
            lines += [IN_SAMPLE.format(known=groups)] * bool(groups)
            continue
        for key, f in ({"rows": groups} if name == "all" else groups).items():
            if f["rows"]:
                covered = (
                    ""
                    if f["coverage"] is None
                    else f", 80 % intervals hold {100 * f['coverage']:.0f} %"
                )
                lines.append(
                    f"{name} {key}: {f['rows']} rows, {f['null']} null,"
                    f" error {100 * f['median_error']:.1f} % at the median,"
                    f" {100 * f['p90_error']:.1f} % at the 90th percentile{covered}"
                )
    if not memory:
        lines.append(runs.RULE)
    return "\n".join(lines)


def _short(value: float | None) -> str:
    """Return a number with five significant digits, `null` for None."""
    return "null" if value is None else f"{value:.5g}"
