"""Writes the summary of the published runs that the planner reads, `planner/data/evidence.json`.

python -m onnuri.calibration.evidence
"""

from __future__ import annotations

from onnuri import files
from onnuri.calibration import runs
from onnuri.planner import evidence

MOST_MODELS = 4
"""names that a plan shows"""


def summary() -> evidence.PublishedRuns:
    """Count the published rows of steady speed by kind, GPU and class of precisions."""
    rows = runs.published()
    kinds: dict[str, list[runs.Row]] = {"moe": [], "dense": []}
    for row in rows:
        kinds["moe" if row["kind"] == "moe" else "dense"].append(row)
    gpus = sorted({row["gpu"] for row in rows})
    return evidence.PublishedRuns(
        newest_year=max(year for row in rows if (year := runs.year(row))),
        gpus=tuple(gpus),
        runs={kind: len(of_kind) for kind, of_kind in kinds.items()},
        alike=tuple(
            entry
            for kind, of_kind in kinds.items()
            for gpu in gpus
            for precision in evidence.CLASSES
            if (entry := _alike(of_kind, kind, gpu, precision)).runs
        ),
    )


def _alike(rows: list[runs.Row], kind: str, gpu: str, precision: str) -> evidence.AlikeRuns:
    near = [
        row for row in rows if row["gpu"] == gpu and row["precision"] in evidence.CLASSES[precision]
    ]
    models = sorted({row["model"] for row in near})[:MOST_MODELS]
    return evidence.AlikeRuns(
        kind=kind, gpu=gpu, precision=precision, runs=len(near), models=tuple(models)
    )


if __name__ == "__main__":
    files.write_json(summary().to_json(), evidence.FILE)
