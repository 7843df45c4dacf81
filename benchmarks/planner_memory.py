"""The planner's bytes against measurements and against the real step's dry run; nothing of it is
fitted to either.

    python benchmarks/planner_memory.py     writes benchmarks/results/planner_memory.json and prints it as a table

Published rows: errors by model, which are those of leaving it out, for no constant enters that was
fitted to a row; and rows that the package does not carry (`memory_rows_more.csv`), of another model
and of another engine. Dry run: what `benchmarks/dryrun.py` found at the recipes' own plans.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from onnuri import recipes
from onnuri.calibration import DATA
from onnuri.calibration.memory_rows import predict_row
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.traffic import collectives

RESULTS = Path(__file__).parent / "results"


def errors_of(path: Path) -> list[tuple[str, str, float]]:
    """(row, model, predicted over published in percent, less 100)"""
    found = []
    for row in csv.DictReader(path.open(encoding="utf-8")):
        said = predict_row({k: v for k, v in row.items() if "mem_GiB" not in k})
        found.append(
            (
                row["id"],
                row["model"],
                100 * (said.gib / float(row["real_mem_GiB"]) - 1) if said else -100.0,
            )
        )
    return found


def published() -> dict[str, Any]:
    """Errors in percent of the rows, and by model."""
    by_model: dict[str, list[float]] = defaultdict(list)
    for _, model, error in errors_of(DATA / "published_memory.csv"):
        by_model[model].append(abs(error))
    every = sorted(e for errors in by_model.values() for e in errors)
    return {
        "rows": len(every),
        "median_percent": round(statistics.median(every), 2),
        "p90_percent": round(every[int(0.9 * (len(every) - 1))], 2),
        "max_percent": round(every[-1], 2),
        "median_percent_by_model": {k: round(statistics.median(v), 2) for k, v in by_model.items()},
    }


def against_dry_run() -> list[dict[str, Any]]:
    """A row a recipe: what the dry run counted, and the planner's deviation from it in percent."""
    counted = json.loads((RESULTS / "dryrun.json").read_text(encoding="utf-8"))
    return [_deviations(name, counted[name]) for name in recipes.NAMES if name in counted]


def _deviations(name: str, run: dict[str, Any]) -> dict[str, Any]:
    job = job_of(name, run)
    m, calls = memory(job), collectives(job)
    living = run["at_peak"]["activations"] + run["at_peak"]["gathered"]
    pairs = {
        "parameters": (m.parameters, run["parameter_bytes"]),
        "optimizer": (m.optimizer, run["optimizer_bytes"]),
        "peak_activations": (m.peak_activations, run["activation_bytes"]),
        "activations_and_gathered_at_the_peak": (m.activations + m.logits + m.transient, living),
        "peak": (m.allocated, run["peak_bytes"]),
        "collective_bytes": (sum(c.total for c in calls), run["collective_bytes"]),
    }
    return {
        "recipe": name,
        "peak_gib": round(run["peak_bytes"] / 2**30, 2),
        "deviation_percent": {
            k: round(100 * (mine / theirs - 1), 3) for k, (mine, theirs) in pairs.items()
        },
    }


def job_of(name: str, run: dict[str, Any]) -> Job:
    """The step that a dry run took: one micro-batch of a recipe with its media's ids."""
    layout, found = ParallelConfig.from_json(run["layout"]), recipes.find(name)
    return Job(
        architecture=found.omni,
        layout=layout,
        cluster=Cluster(gpu=found.gpu, gpus=layout.gpus),
        tokens=run["tokens"],
        batch_tokens=run["tokens"] * layout.dp * layout.micro_batch,
    )


def main() -> None:
    others = {
        row: round(error, 2)
        for row, _, error in errors_of(Path(__file__).parent / "memory_rows_more.csv")
    }
    found = {
        "published_memory": published(),
        "other_rows_percent": others,
        "dry_run": against_dry_run(),
    }
    (RESULTS / "planner_memory.json").write_text(
        json.dumps(found, indent=1) + "\n", encoding="utf-8"
    )
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
