"""The five systems in small: trains each for its budget and measures its matrix: `make bench-nano`,
two hours and more, resumable.

Writes onnuri/recipes/NAME.matrix.json, beside the recipe. Run for some: `python benchmarks/nano.py
axk1 vaetki`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, median
from typing import Any

import onnuri
from onnuri import recipes
from onnuri.evaluation.machine import machine
from onnuri.recipes.nano import SEQUENCE, NanoConfig
from onnuri.toyworld.oracles.matrix import SPLITS, matrix
from onnuri.training.loop import read_metrics

ITEMS = 50
RUNS = Path("runs")
KEPT = ("from", "to", "split", "task", "attribute_accuracy", "chance", "interval")
"""of a cell of the matrix"""


def measured(run: Path) -> dict[str, Any]:
    """What a run cost and what it learned. Its seconds are those of the median step: other work
    beside it does not count."""
    settings, log = NanoConfig.load(run / "run.json"), read_metrics(run / "lm")
    architecture = settings.architecture
    cells = [
        c
        for c in matrix(onnuri.load(run / "model"), ITEMS)["cells"]
        if c["objects"] == c["language"] == "all"
    ]
    return {
        "machine": machine(),
        "total_params": architecture.num_params(),
        "active_params": architecture.num_active_params(),
        "steps": settings.steps,
        "tokens_a_step": settings.tokens,
        "loss": log[-1]["loss"],
        "training_seconds": settings.steps / median(line["steps_per_second"] for line in log),
        "flops": settings.steps * settings.tokens * architecture.flops_per_token(SEQUENCE),
        "items": ITEMS,
        **{
            name: json.loads((run / f"{name}.json").read_text(encoding="utf-8"))["lm"]
            for name in ("forecast", "outcome")
            if (run / f"{name}.json").exists()
        },
        "off_diagonal": {split: off_diagonal(cells, split) for split in SPLITS},
        "cells": [{k: c[k] for k in KEPT} for c in cells],
    }


def off_diagonal(cells: list[dict[str, Any]], split: str) -> dict[str, float]:
    """Means over the cells from one modality to another, and how far the worst of them is above
    chance."""
    chosen = [c for c in cells if c["split"] == split and c["from"] != c["to"]]
    return {
        "attribute_accuracy": mean(c["attribute_accuracy"] for c in chosen),
        "chance": mean(c["chance"] for c in chosen),
        "worst_above_chance": min(c["attribute_accuracy"] - c["chance"] for c in chosen),
    }


if __name__ == "__main__":
    for name in sys.argv[1:] or recipes.NAMES:
        run = RUNS / f"{name}-nano"
        if not (run / "model/onnuri.json").exists():
            recipes.train(name, "nano", run)
        found = measured(run)
        recipes.matrix(name).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(found["off_diagonal"]))
