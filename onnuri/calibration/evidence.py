"""Write the summary of the published runs that the planner reads, `planner/data/evidence.json`.

python -m onnuri.calibration.evidence
"""

from __future__ import annotations

from collections import defaultdict

from onnuri import files
from onnuri.calibration import runs
from onnuri.planner import evidence

MOST_MODELS = 4
"""number of names of models that a plan shows"""


def summary() -> evidence.PublishedRuns:
    """Return the number of published rows of steady speed by kind, GPU and class of precisions,
    with the names of their models."""
    rows = runs.published()
    kinds: dict[str, int] = {"dense": 0, "moe": 0}
    models: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        kind = "moe" if row["kind"] == "moe" else "dense"
        kinds[kind] += 1
        for precision, alike in evidence.CLASSES.items():
            if row["precision"] in alike:
                models[evidence.key(kind, row["gpu"], precision)].append(row["model"])
    return evidence.PublishedRuns(
        newest_year=max(year for row in rows if (year := runs.year(row))),
        gpus=sorted({row["gpu"] for row in rows}),
        runs=kinds,
        alike={key: len(names) for key, names in sorted(models.items())},
        models={key: sorted(set(names))[:MOST_MODELS] for key, names in sorted(models.items())},
    )


if __name__ == "__main__":
    files.write_json(summary()._asdict(), evidence.FILE)
