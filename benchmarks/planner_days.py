"""Cumulative GPU hours of published runs against the planner's: its speed, failures and other losses together.

Run: `.venv/bin/python benchmarks/planner_days.py`. These rows fit nothing, so there is nothing to hold out but the speed's
constants, which other rows of the same models fitted. Writes `results/planner_days.json`.
"""

import json
import math
import statistics
from pathlib import Path

from onnuri.planner import goodput, runs
from onnuri.planner.interval import Interval, spread
from onnuri.planner.routing import real_step

DATA = Path(__file__).parent.parent / "onnuri" / "planner" / "data" / "published_runs.csv"
RESULT = Path(__file__).parent / "results" / "planner_days.json"


def hours(row: runs.Row) -> Interval:
    """Geometric mean of a row's meanings."""
    found = []
    for job, _ in runs.meanings(row):
        kept = goodput.goodput(job.cluster, job.architecture.num_params() * goodput.STATE_BYTES).share
        tokens = float(row["tokens_trained_B"]) * 1e9
        found.append(spread(lambda rate, share, tokens=tokens: tokens / (rate * share * 3600), real_step(job).speed, kept))
    return Interval(**{end: math.exp(statistics.fmean(math.log(getattr(i, end)) for i in found)) for end in ("low", "mid", "high")})


def main() -> None:
    rows = [r for r in runs.read(DATA) if r["metric"] == "gpu_hours" and r["recalled"] != "yes" and not runs.why_null(r)]
    out = []
    for row in rows:
        published, found = float(row["value"]), hours(row)
        out.append({"id": row["id"], "kind": row["kind"], "published": published, "predicted": found.mid, "low": found.low,
                    "high": found.high, "error": found.mid / published - 1, "inside": found.low <= published <= found.high})
        print(f"{row['id']:<24}{published:>14,.0f}{found.mid:>14,.0f} ({found.low:,.0f} – {found.high:,.0f})"
              f"{out[-1]['error']:>+8.0%}{'' if out[-1]['inside'] else '  outside'}")
    errors = sorted(abs(r["error"]) for r in out)
    summary = {"rows": len(out), "median_error": statistics.median(errors), "mean_log": statistics.fmean(
        math.log1p(r["error"]) for r in out), "coverage": sum(r["inside"] for r in out) / len(out)}
    print(summary)
    RESULT.write_text(json.dumps({"rows": out, "summary": summary}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
