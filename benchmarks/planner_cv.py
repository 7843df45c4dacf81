"""Cross-validation of the step time on published runs: every source, and every model, left out in turn.

Run: `make bench-planner`. Writes `benchmarks/results/planner_cv.json`, and with `--freeze` the package's constants, fitted
to all rows. Takes about three minutes on one core.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from onnuri.planner import constants, hardware, memory_rows, runs
from onnuri.planner.fit import PUBLISHED, Evidence, fit, interval, log_speed, published, stack, usable
from onnuri.planner.step_time import spread, step_time
from onnuri.planner.validate import MEMORY_COLUMNS, row_doubts

RESULT = Path(__file__).parent / "results" / "planner_cv.json"


def left_out(e: Evidence, keys: list[str]) -> np.ndarray:
    """Each row's prediction by a fit to the rows of other keys."""
    out = np.zeros(len(e.rows))
    for key in sorted(set(keys)):
        held = np.array([k == key for k in keys])
        out[held] = log_speed(e, fit(e, held))[held]
    return out


def utilisation(e: Evidence, keys: list[str]) -> np.ndarray:
    """The baseline: the median utilisation of the rows of other keys on the same GPU and precision, else on the same
    precision, else of all."""
    shares = _shares(e)
    out = np.zeros(len(e.rows))
    for i, row in enumerate(e.rows):
        others = [j for j, k in enumerate(keys) if k != keys[i]]
        alike = [shares[j] for j in others if e.rows[j]["precision"] == row["precision"]]
        same = [shares[j] for j in others if (e.rows[j]["gpu"], e.rows[j]["precision"]) == (row["gpu"], row["precision"])]
        out[i] = statistics.median(same or alike or [shares[j] for j in others]) - shares[i] + published(e)[i]
    return out


def _shares(e: Evidence) -> list[float]:
    """Logarithm of each row's model FLOPs over the peak of its precision."""
    target, out = published(e), []
    for i, row in enumerate(e.rows):
        job = runs.meanings(row)[0].job
        peak = hardware.gpu(row["gpu"]).peak_tflops(runs.precision(row)) * 1e12
        out.append(float(target[i]) + math.log(job.architecture.flops_per_token(job.tokens) / peak))
    return out


def errors(found: np.ndarray, target: np.ndarray) -> dict[str, float]:
    off = np.abs(np.exp(found - target) - 1)
    return {"rows": len(off), "median": round(float(np.median(off)), 4), "p90": round(float(np.quantile(off, 0.9)), 4)}


def coverage(found: np.ndarray, target: np.ndarray, moe: np.ndarray, doubts: np.ndarray, keys: list[str]) -> dict[str, float]:
    """Share of rows inside intervals that were made from the errors of other keys."""
    inside = np.zeros(len(found), bool)
    for key in sorted(set(keys)):
        held = np.array([k == key for k in keys])
        own = {**constants.values(), **interval((target - found)[~held], moe[~held], doubts[~held])}
        for i in np.flatnonzero(held):
            down, up = spread(bool(moe[i]), int(doubts[i]), own)
            inside[i] = -down <= target[i] - found[i] <= up
    return {"pooled": round(float(inside.mean()), 3), "dense": round(float(inside[~moe].mean()), 3),
            "moe": round(float(inside[moe].mean()), 3)}


def ranks(e: Evidence, found: np.ndarray) -> dict[str, Any]:
    """Spearman's correlation over the layouts of models that have four or more, each layout once: its median speed."""
    layouts: dict[str, dict[tuple[str, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, row in enumerate(e.rows):
        key = tuple(row[c] for c in ("gpu", "gpus", "precision", "dp", "tp", "pp", "cp", "ep", "zero_or_fsdp", "recompute"))
        layouts[row["model"]][key].append(i)
    target, out = published(e), {}
    for model, each in sorted(layouts.items()):
        if len(each) >= 4:
            pairs = [(np.median(found[i]), np.median(target[i])) for i in each.values()]
            out[model] = round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 3)
    return {"median": statistics.median(out.values()), "models": out}


def elsewhere() -> dict[str, Any]:
    """Steps that SimuMax's authors measured on 8 B200 and that no constant was fitted to: with the table's GEMM rate, and
    with the one they measured on their machine, 0.488 of the peak instead of 0.776 (configs/system/b200_bf16_ceperm.json,
    matmul's efficient_factor)."""
    out = {}
    rows = [r for r in runs.read(PUBLISHED.parent / "published_memory.csv", MEMORY_COLUMNS) if r["real_step_ms"]]
    models = memory_rows.models()
    for name, share in (("table", None), ("measured", 0.488)):
        off, inside = [], []
        for row in rows:
            job = memory_rows.job(row, models[re.sub(r"[^a-z0-9]", "", row["model"].lower())]).replace(release=2026.04)
            found = step_time(job.replace(cluster=job.cluster.replace(gemm_share=share)))
            speed = job.batch_tokens / job.cluster.gpus / float(row["real_step_ms"]) * 1e3
            off.append(math.log(found.tokens_per_s_per_gpu / speed))
            inside.append(found.low <= speed <= found.high)
        out[name] = {**errors(np.array(off), np.zeros(len(off))), "coverage": round(float(np.mean(inside)), 3)}
    return out


def main() -> None:
    e = stack(usable(runs.read(PUBLISHED)))
    target, moe = published(e), np.array([r["kind"] == "moe" for r in e.rows])
    doubts = np.array([row_doubts([m.job for m in runs.meanings(r)]) for r in e.rows])
    found: dict[str, Any] = {"rows": len(e.rows)}
    predicted = {}
    for name, keys in (("source", [runs.repository(r) for r in e.rows]), ("model", [r["model"] for r in e.rows])):
        out, base = left_out(e, keys), utilisation(e, keys)
        predicted[name] = out
        found[name] = {kind: {"error": errors(out[mask], target[mask]), "utilisation_baseline": errors(base[mask], target[mask])}
                       for kind, mask in (("dense", ~moe), ("moe", moe))}
        for kind in found[name].values():
            kind["over_baseline"] = round(kind["error"]["median"] / kind["utilisation_baseline"]["median"], 3)
        found[name]["coverage"] = coverage(out, target, moe, doubts, keys)
        found[name]["ranks"] = ranks(e, out)
    whole = fit(e)
    both = np.concatenate([target - predicted["source"], target - predicted["model"]])
    ends = interval(both, np.tile(moe, 2), np.tile(doubts, 2))
    fitted = log_speed(e, whole)
    prior = log_speed(e, {c.name: c.prior for c in constants.load()})
    for name, out in (("fitted", fitted), ("prior", prior)):
        found[name] = {kind: errors(out[mask], target[mask]) for kind, mask in (("dense", ~moe), ("moe", moe))}
    if "--freeze" in sys.argv:
        constants.save({**whole, **ends})
        constants.load.cache_clear()
        constants.values.cache_clear()
    found["elsewhere"] = elsewhere()
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
