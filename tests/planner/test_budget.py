"""A budget: sizes by rule, ranks and ties."""

import pytest

from onnuri import recipes
from onnuri.errors import ConfigError
from onnuri.planner import budget, budget_report, hardware
from onnuri.planner.budget import Budget


@pytest.fixture(scope="module")
def b200():
    return budget.budget([recipes.find(n) for n in recipes.NAMES], hardware.cluster("B200", 512), 120)


def test_rules_give_known_sizes():
    assert budget.dense(32).num_params() == pytest.approx(8.03e9, rel=0.01)  # Llama 3.1 8B's own dimensions
    made = budget.sparse(48)
    assert 9 < made.num_params() / made.num_active_params() < 12  # Solar Open 8.5, K-EXAONE 10, VAETKI 11, A.X K1 16


def test_all_are_there_with_odds_and_costs(b200):
    assert [o.name for o in b200.systems] == list(recipes.NAMES) and not b200.left_out
    assert len(b200.ladder) == len(budget.DENSE_LAYERS) + len(budget.SPARSE_LAYERS)
    for o in (*b200.systems, *b200.ladder):
        assert 0 <= o.finish <= 1 and o.loss.low < o.loss.mid < o.loss.high and o.tokens.high <= budget.MOST_TOKENS * 1.001
        assert o.plan.engine is None and o.serving.usd_per_million_tokens


def test_odds_of_finishing_follow_the_days(b200):
    axk1 = b200.systems[0]
    assert axk1.finish == axk1.days_needed.below(120)
    later = budget.option(recipes.find("axk1"), "system", b200.cluster, 240)
    assert later.finish > axk1.finish and later.days_needed.mid == pytest.approx(axk1.days_needed.mid)
    assert later.tokens.mid == pytest.approx(2 * axk1.tokens.mid)


def test_three_aims_are_ranked_and_probabilities_sum_to_one(b200):
    assert set(b200.aims) == set(budget.AIMS)
    for ranks in b200.aims.values():
        assert {r.name for r in ranks} == set(recipes.NAMES) and sum(r.first for r in ranks) == pytest.approx(1, abs=0.01)


def test_a_tie_is_an_overlap(b200):
    by, ranks = {o.name: o for o in b200.systems}, b200.aims["operate"]
    for r in ranks:
        leader = next(k for k in ranks if k.place == r.place)
        assert budget.cost(by[r.name]).overlaps(budget.cost(by[leader.name]))
    for leader in {k.place: k for k in reversed(ranks)}.values():
        above = [r for r in ranks if r.place < leader.place]
        assert all(budget.cost(by[r.name]).mid < budget.cost(by[leader.name]).mid for r in above)


def test_json_and_back(b200):
    assert Budget.from_json(b200.to_json()) == b200


def test_what_does_not_fit_is_left_out_with_its_reason():
    found = budget.budget([recipes.find("axk1"), recipes.find("hyperclovax_omni")], hardware.cluster("H100", 8), 30)
    assert [o.name for o in found.systems] == ["hyperclovax_omni"] and "fits" in found.left_out["A.X K1 519B-A33B"]
    assert "A.X K1" in budget_report.text(found)


def test_text_and_page(b200):
    english, korean = budget_report.text(b200), budget_report.text(b200, "ko")
    assert "lowest loss" in english and "손실이 가장 낮은 것" in korean
    assert all(o.title in english and o.title in korean for o in b200.systems)
    page = budget_report.page_of(b200, "ko")
    assert page.count("<svg") == 4 and all(o.title in page for o in (*b200.systems, *b200.ladder))


@pytest.mark.parametrize("days", [0, -3, float("inf")])
def test_no_days_is_a_mistake(days):
    with pytest.raises(ConfigError, match="days"):
        budget.budget([], hardware.cluster("B200", 8), days)
