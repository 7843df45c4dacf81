"""Cross-validation of the step time on published runs: every source, and every model, left out in
turn.

Run: `make bench-planner`. Writes `benchmarks/results/planner_cv.json`, and with `--freeze` the
package's constants, fitted to all rows. Both tables of runs are fitted, and what is left out is
left out of both; figures are given for each table. Takes about three minutes on one core.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from onnuri.calibration import measured, runs
from onnuri.calibration.fit import (
    FURTHER,
    PUBLISHED,
    Evidence,
    fit,
    interval,
    log_speed,
    published,
    stack,
    usable,
)
from onnuri.planner import constants, hardware
from onnuri.planner.step_time import extrapolation_flags, spread, step_time

RARE = 8
"""groups in which rare sources and models are left out"""
RESULT = Path(__file__).parent / "results" / "planner_cv.json"


def left_out(e: Evidence, keys: list[str], start: dict[str, float]) -> np.ndarray:
    """Each row's prediction by a fit to the rows of other keys."""
    out = np.zeros(len(e.rows))
    for key in sorted(set(keys)):
        held = np.array([k == key for k in keys])
        out[held] = log_speed(e, fit(e, held, start))[held]
    return out


def folds(keys: list[str]) -> list[str]:
    """Sources and models of fewer than four rows are left out some together, which says no less and
    takes less time."""
    count = Counter(keys)
    rare = sorted(k for k, n in count.items() if n < 4)
    return [f"rare {rare.index(k) % RARE}" if count[k] < 4 else k for k in keys]


def model(row: runs.Row) -> str:
    """Its name, one for releases of one shape: Llama 3 and 3.1 differ in what they read."""
    return re.sub(r"llama-?3\.1", "llama3", row["model"].lower())


def machine(row: runs.Row) -> str:
    return f"{runs.repository(row)} {row['gpu']}"


def utilisation(e: Evidence, keys: list[str]) -> np.ndarray:
    """The baseline: the median utilisation of the rows of other keys on the same GPU and precision,
    else on the same precision, else of all."""
    shares = _shares(e)
    out = np.zeros(len(e.rows))
    for i, row in enumerate(e.rows):
        others = [j for j, k in enumerate(keys) if k != keys[i]]
        alike = [shares[j] for j in others if e.rows[j]["precision"] == row["precision"]]
        same = [
            shares[j]
            for j in others
            if (e.rows[j]["gpu"], e.rows[j]["precision"]) == (row["gpu"], row["precision"])
        ]
        out[i] = (
            statistics.median(same or alike or [shares[j] for j in others])
            - shares[i]
            + published(e)[i]
        )
    return out


def _shares(e: Evidence) -> list[float]:
    """Logarithm of each row's model FLOPs over the peak of its precision."""
    target, out = published(e), []
    for i, row in enumerate(e.rows):
        job = runs.candidate_jobs(row)[0].job
        peak = hardware.gpu(row["gpu"]).peak_tflops(runs.precision(row)) * 1e12
        out.append(float(target[i]) + math.log(job.architecture.flops_per_token(job.tokens) / peak))
    return out


def errors(found: np.ndarray, target: np.ndarray) -> dict[str, float]:
    off = np.abs(np.exp(found - target) - 1)
    return {
        "rows": len(off),
        "median": round(float(np.median(off)), 4),
        "p90": round(float(np.quantile(off, 0.9)), 4),
    }


def ends(
    off: dict[str, np.ndarray], e: Evidence, doubts: np.ndarray, use: np.ndarray
) -> dict[str, float]:
    """The interval's constants from both ways of leaving out, of some rows."""
    errors, names = (
        np.concatenate([each[use] for each in off.values()]),
        [machine(e.rows[i]) for i in np.flatnonzero(use)],
    )
    return interval(errors, np.tile(mixtures(e)[use], 2), np.tile(doubts[use], 2), 2 * names)


def coverage(
    off: dict[str, np.ndarray], name: str, e: Evidence, doubts: np.ndarray, keys: list[str]
) -> np.ndarray:
    """Which rows lie inside intervals that were made from the errors of other keys."""
    inside, moe = np.zeros(len(e.rows), bool), mixtures(e)
    for key in sorted(set(keys)):
        rest = np.array([k != key for k in keys])
        own = {**constants.values(), **ends(off, e, doubts, rest)}
        for i in np.flatnonzero(~rest):
            down, up = spread(bool(moe[i]), float(doubts[i]), own)
            inside[i] = -down <= off[name][i] <= up
    return inside


def covered(inside: np.ndarray, moe: np.ndarray) -> dict[str, float]:
    """Shares of rows that their intervals hold. No steady row of either table lacks a prediction
    (`usable` would drop it)."""
    shares = {"pooled": inside, "dense": inside[~moe], "moe": inside[moe]}
    return {name: round(float(each.mean()), 3) for name, each in shares.items()}


def mixtures(e: Evidence) -> np.ndarray:
    return np.array([r["kind"] == "moe" for r in e.rows])


def ranks(e: Evidence, found: np.ndarray, among: np.ndarray) -> dict[str, Any]:
    """Spearman's correlation over the layouts of models that have four or more, each layout once:
    its median speed."""
    layouts: dict[str, dict[tuple[str, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for i in np.flatnonzero(among):
        row = e.rows[i]
        key = tuple(
            row[c]
            for c in (
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
            )
        )
        layouts[row["model"]][key].append(i)
    target, out = published(e), {}
    for model, each in sorted(layouts.items()):
        if len(each) >= 4:
            pairs = [(np.median(found[i]), np.median(target[i])) for i in each.values()]
            out[model] = round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 3)
    return {"median": statistics.median(out.values()), "models": out}


def elsewhere(
    e: Evidence, whole: dict[str, float], off: dict[str, np.ndarray], doubts: np.ndarray
) -> dict[str, Any]:
    """A machine whose large products its group measured (SimuMax's B200: 0.488 of the peak, the
    table says 0.776), its source left out: with the table's rate, and with the measured one."""
    held = np.array([runs.candidate_jobs(r)[0].job.cluster.gemm_share is not None for r in e.rows])
    c, out = {**constants.values(), **fit(e, held, whole), **ends(off, e, doubts, ~held)}, {}
    for name in ("table", "measured"):
        speeds, inside = [], []
        for i in np.flatnonzero(held):
            job = runs.candidate_jobs(e.rows[i])[0].job
            found = step_time(
                job
                if name == "measured"
                else job.replace(cluster=job.cluster.replace(gemm_share=None)),
                c,
            )
            speeds.append(math.log(found.tokens_per_s_per_gpu))
            inside.append(found.low <= math.exp(published(e)[i]) <= found.high)
        out[name] = {
            **errors(np.array(speeds), published(e)[held]),
            "coverage": round(float(np.mean(inside)), 3),
        }
    return out


def table(
    e: Evidence, among: np.ndarray, out: np.ndarray, base: np.ndarray, inside: np.ndarray
) -> dict[str, Any]:
    """Figures of the rows of one table."""
    target, moe, found = published(e), mixtures(e), {}
    for kind, mask in (("dense", among & ~moe), ("moe", among & moe)):
        found[kind] = {
            "error": errors(out[mask], target[mask]),
            "utilisation_baseline": errors(base[mask], target[mask]),
        }
        found[kind]["over_baseline"] = round(
            found[kind]["error"]["median"] / found[kind]["utilisation_baseline"]["median"], 3
        )
    return {**found, "coverage": covered(inside[among], moe[among]), "ranks": ranks(e, out, among)}


def main() -> None:
    first = usable(runs.read(PUBLISHED))
    further, own = usable(runs.read(FURTHER)), usable(runs.read(measured.FILE))
    e = stack(first + further + own)
    place = np.arange(len(e.rows))
    among = {"published": place < len(first), "measured": place >= len(first) + len(further)}
    among["further"] = ~among["published"] & ~among["measured"]
    doubts = np.array([extrapolation_flags(runs.candidate_jobs(r)[0].job) for r in e.rows])
    whole, target, moe = fit(e), published(e), mixtures(e)
    keys = {
        "source": folds([runs.repository(r) for r in e.rows]),
        "model": folds([model(r) for r in e.rows]),
    }
    out = {name: left_out(e, k, whole) for name, k in keys.items()}
    base = {name: utilisation(e, k) for name, k in keys.items()}
    off = {name: target - each for name, each in out.items()}
    inside = {name: coverage(off, name, e, doubts, k) for name, k in keys.items()}
    found: dict[str, Any] = {
        "rows": {name: int(mask.sum()) for name, mask in among.items()},
        "coverage": {name: covered(each, moe) for name, each in inside.items()},
    }
    nulls = {
        path.name: sum(map(runs.steady, runs.read(path))) - len(usable(runs.read(path)))
        for path in (PUBLISHED, FURTHER)
    }
    assert not any(nulls.values()), nulls  # such a row would count as not held
    for title, mask in ((name, among[name]) for name in ("published", "further")):
        figures = {name: table(e, mask, out[name], base[name], inside[name]) for name in keys}
        for name, c in (
            ("fitted", whole),
            ("prior", {c.name: c.prior for c in constants.fitted()}),
        ):
            said = log_speed(e, c)
            figures[name] = {
                kind: errors(said[m], target[m])
                for kind, m in (("dense", mask & ~moe), ("moe", mask & moe))
            }
        found |= figures if title == "published" else {title: figures}
    if "--freeze" in sys.argv:
        constants.save({**whole, **ends(off, e, doubts, np.ones(len(e.rows), bool))})
        constants.load.cache_clear()
        constants.values.cache_clear()
    found["elsewhere"] = elsewhere(e, whole, off, doubts)
    found["held_out"] = {
        r["id"]: [round(float(off[name][i]), 3) for name in keys] for i, r in enumerate(e.rows)
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in found.items() if k != "held_out"}, indent=1))


if __name__ == "__main__":
    main()
