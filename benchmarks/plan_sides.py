"""The plans of the five recipes side by side: the layout that each recipe trains with, the fastest
of all engines, and the fastest that is runnable here, on the recipe's own GPUs.

    python benchmarks/plan_sides.py     writes results/plan_sides.json and the table of docs/planner-recipes.md

The recipe's own layout is read from its frozen plan; the other two come from one search.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnuri
from onnuri import recipes
from onnuri.planner.hardware import Cluster
from onnuri.planner.memory import GIB, memory
from onnuri.planner.parallel import ParallelConfig, to_string
from onnuri.planner.plan import Plan
from onnuri.planner.recipe import Recipe
from onnuri.planner.search import Candidate
from onnuri.planner.stage_layouts import stage_job
from onnuri.planner.step_time import newest

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/plan_sides.json"
PAGE = ROOT / "docs/planner-recipes.md"
BEGIN, END = "<!-- sides -->", "<!-- /sides -->"
SIDES = {"own": "the recipe's own", "any": "fastest, any engine", "here": "fastest here"}


def planned(recipe: Recipe, candidate: Candidate | None) -> dict[str, Any] | None:
    """Return a layout of a search with its figures in the largest stage; None where there is
    none."""
    if candidate is None:
        return None
    stage = max(recipe.stages, key=lambda s: s.tokens)
    cluster = Cluster(gpu=recipe.gpu, gpus=recipe.gpus)
    job = stage_job(recipe, stage, cluster, candidate.layout, newest())
    speed = candidate.tokens_per_s_per_gpu.mid
    return side(job.layout, candidate.engine, speed, memory(job).total / GIB)


def side(layout: ParallelConfig, engine: str | None, speed: float, gib: float) -> dict[str, Any]:
    """Return a layout with tokens/s per GPU and the GiB of the fullest GPU."""
    return {
        "layout": to_string(layout),
        "engine": engine,
        "tokens_per_s_per_gpu": round(speed, 1),
        "memory_gib": round(gib, 1),
    }


def frozen(name: str) -> dict[str, Any]:
    """Return the recipe's own layout as its frozen plan has it, in the largest stage."""
    stage = max(Plan.load(recipes.frozen(name)).stages, key=lambda s: s.tokens)
    return side(stage.layout, stage.engine, stage.tokens_per_s_per_gpu.mid, stage.memory_gib)


def sides(name: str) -> dict[str, Any]:
    """Return the three plans of a recipe."""
    recipe = recipes.find(name)
    search = onnuri.plan(name, exact_gpus=True).search
    assert search
    return {
        "gpus": f"{recipe.gpus:,} {recipe.gpu}",
        "own": frozen(name),
        "any": planned(recipe, search.best[0]),
        "here": planned(recipe, search.here),
    }


def table(results: dict[str, Any]) -> str:
    """Return the plans as a table in Markdown."""
    lines = [
        "| recipe | GPUs | plan | layout | runs in | tokens/s per GPU | GiB |",
        "|---|---|---|---|---|---:|---:|",
    ]
    for name, plans in results.items():
        for key, words in SIDES.items():
            if p := plans[key]:
                figures = f"{p['tokens_per_s_per_gpu']:,.0f} | {p['memory_gib']:.0f}"
                where = p["engine"] or "Onnuri"
                lines.append(
                    f"| {name} | {plans['gpus']} | {words} | `{p['layout']}` | {where} | {figures} |"
                )
    return "\n".join(lines)


def page(text: str, results: dict[str, Any]) -> str:
    """Return the page with the table between its two marks."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n\n{table(results)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    results = {name: sides(name) for name in recipes.NAMES}
    RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
