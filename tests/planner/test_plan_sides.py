"""The table of the five recipes' plans side by side: its page, its figures, and the search."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from onnuri import recipes
from onnuri.parallel.layout import parse_layout

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks/plan_sides.py"))
RESULTS = json.loads((ROOT / "benchmarks/results/plan_sides.json").read_text(encoding="utf-8"))


def test_the_page_shows_the_committed_figures() -> None:
    text = (ROOT / "docs/planner-recipes.md").read_text(encoding="utf-8")
    assert SCRIPT["page"](text, RESULTS) == text


@pytest.mark.parametrize("name", recipes.NAMES)
def test_own_plans_are_the_frozen_ones_and_the_trainer_takes_those_that_run_here(name: str) -> None:
    plans = RESULTS[name]
    assert plans["own"] == SCRIPT["frozen"](name)
    gpus = recipes.find(name).gpus
    for side in ("own", "here"):
        assert parse_layout(plans[side]["layout"], gpus).other_engine is None
        assert plans[side]["engine"] is None


@pytest.mark.parametrize(
    "name",
    ["vaetki", *(pytest.param(n, marks=pytest.mark.slow) for n in recipes.NAMES if n != "vaetki")],
)
def test_a_search_finds_the_same_plans_again(name: str) -> None:
    assert SCRIPT["sides"](name) == RESULTS[name]
