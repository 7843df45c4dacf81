"""The planner against our own step on one GPU: each row left out of the fit, then each shape with
all its rows.

    python benchmarks/planner_measured.py     writes benchmarks/results/planner_measured.json and prints it as a table

Memory is fitted to no row, so leaving one out changes nothing. It is compared with the allocator's
peak less what the measuring process still held of its previous case: `data/measured_gpu.csv` has
both, and both errors are printed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from onnuri.calibration import measured, runs
from onnuri.calibration.fit import (
    FURTHER,
    PUBLISHED,
    Evidence,
    fit,
    log_speed,
    published,
    stack,
    usable,
)
from onnuri.planner.memory import GIB, memory
from onnuri.planner.step_time import step_time

RESULT = Path(__file__).parent / "results" / "planner_measured.json"


def speed_without(e: Evidence, held: np.ndarray, start: dict[str, float]) -> np.ndarray:
    """Return predicted over measured of the rows that a fit did not see, less one."""
    found = log_speed(e, fit(e, held, start))
    return np.expm1((found - published(e))[held])


def rows_of(e: Evidence) -> list[dict[str, Any]]:
    """Return the errors of each measured row."""
    whole, own = fit(e), [measured.is_own(row) for row in e.rows]
    shapes = np.array([row["model"] for row in e.rows])
    without_shape = {
        name: speed_without(e, (shapes == name) & own, whole) for name in sorted({*shapes[own]})
    }
    out = []
    for i in np.flatnonzero(own):
        row, job = e.rows[i], runs.candidate_jobs(e.rows[i])[0].job
        held = np.arange(len(e.rows)) == i
        place = int(np.flatnonzero((shapes == row["model"]) & own).tolist().index(i))
        planned, found = memory(job).allocated / GIB, step_time(job)
        raw = float(row["peak_allocated_GiB"])
        out.append(
            {
                "id": row["id"],
                "tokens_per_s": float(row["value"]),
                "speed_row_out": round(float(speed_without(e, held, whole)[0]), 4),
                "speed_shape_out": round(float(without_shape[row["model"]][place]), 4),
                "held_by_80_percent_range": found.low <= float(row["value"]) <= found.high,
                "peak_gib": round(measured.peak_gib(row), 2),
                "peak_gib_with_what_was_held_before": raw,
                "planned_gib": round(planned, 2),
                "memory": round(planned / measured.peak_gib(row) - 1, 4),
                "memory_as_recorded": round(planned / raw - 1, 4),
            }
        )
    return out


def main() -> None:
    e = stack(
        usable(runs.read(PUBLISHED)) + usable(runs.read(FURTHER)) + usable(runs.read(measured.FILE))
    )
    rows = rows_of(e)
    worst = {
        name: max((r[name] for r in rows), key=abs)
        for name in ("speed_row_out", "speed_shape_out", "memory", "memory_as_recorded")
    }
    RESULT.write_text(json.dumps({"rows": rows, "worst": worst}, indent=1) + "\n", encoding="utf-8")
    print(
        f"{'row':<32}{'tokens/s':>10}{'row out':>9}{'shape out':>11}{'GiB':>8}{'planned':>9}{'off':>8}{'as recorded':>13}"
    )
    for r in rows:
        print(
            f"{r['id']:<32}{r['tokens_per_s']:>10,.0f}{r['speed_row_out']:>9.1%}{r['speed_shape_out']:>11.1%}"
            f"{r['peak_gib']:>8.2f}{r['planned_gib']:>9.2f}{r['memory']:>8.1%}{r['memory_as_recorded']:>13.1%}"
        )
    print(
        "worst: "
        + ", ".join(f"{name.replace('_', ' ')} {value:+.1%}" for name, value in worst.items())
    )
    assert not math.isnan(sum(abs(v) for v in worst.values()))


if __name__ == "__main__":
    main()
