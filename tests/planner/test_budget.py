"""A budget: sizes by rule, ranks and ties."""

import math
import statistics

import pytest

from onnuri import recipes
from onnuri.errors import ConfigError
from onnuri.planner import budget, budget_report, hardware, serving_cost
from onnuri.planner.budget import Budget
from onnuri.planner.interval import Z80, Interval


@pytest.fixture(scope="module")
def b200():
    return budget.budget(
        [recipes.find(n) for n in recipes.NAMES],
        hardware.cluster("B200", 512),
        120,
        exact_gpus=True,
    )


def test_rules_give_known_sizes():
    assert budget.dense(32).num_params() == pytest.approx(
        8.03e9, rel=0.01
    )  # Llama 3.1 8B's own dimensions
    made = budget.sparse(48)
    assert (
        9 < made.num_params() / made.num_active_params() < 12
    )  # Solar Open 8.5, K-EXAONE 10, VAETKI 11, A.X K1 16


def test_all_are_there_with_odds_and_costs(b200):
    assert [o.name for o in b200.systems] == list(recipes.NAMES) and not b200.left_out
    assert len(b200.ladder) == len(budget.DENSE_LAYERS) + len(budget.SPARSE_LAYERS)
    for o in (*b200.systems, *b200.ladder):
        assert (
            0 <= o.finish <= 1
            and o.loss.low < o.loss.mid < o.loss.high
            and o.tokens.high <= budget.MOST_TOKENS * 1.001
        )
        assert o.plan.engine is None and o.serving.usd_per_million_tokens


def test_odds_of_finishing_follow_the_days(b200):
    axk1 = b200.systems[0]
    assert axk1.finish == axk1.days_needed.cdf(120)
    later = budget.option(recipes.find("axk1"), "system", b200.cluster, 240, exact_gpus=True)
    assert later.finish > axk1.finish and later.days_needed.mid == pytest.approx(
        axk1.days_needed.mid
    )
    assert later.tokens.mid == pytest.approx(2 * axk1.tokens.mid)


def test_three_aims_are_ranked_and_probabilities_sum_to_one(b200):
    assert set(b200.aims) == {"loss", "operate", "media"}
    for ranks in b200.aims.values():
        assert {r.name for r in ranks} == set(recipes.NAMES) and sum(
            r.first for r in ranks
        ) == pytest.approx(1)
        assert ranks[0].win_probability is None and all(
            r.first <= r.win_probability + 1e-9 <= 1 for r in ranks[1:]
        )


@pytest.mark.parametrize("ratio", [1.0, 1.1, 1.5])
def test_what_all_share_cancels_between_systems(b200, ratio):
    """By hand: logarithms of two rates differ by a normal error of the width of one, for half of
    each error is common."""
    width, one = 0.2, b200.systems[0]
    options = [
        served(one, rate, width).replace(name=str(rate)) for rate in (1000.0, 1000.0 / ratio)
    ]
    first, second = budget.rank(options, b200.days)["operate"]
    assert second.win_probability == pytest.approx(
        statistics.NormalDist().cdf(-math.log(ratio) / width), abs=0.02
    )
    assert first.place == second.place == 1  # for the price alone is known within a factor


def served(o, rate, width):
    ends = {
        end: rate * math.exp(sign * Z80 * width)
        for end, sign in (("low", -1), ("mid", 0), ("high", 1))
    }
    price = o.serving.usd_per_million_tokens * (o.serving.tokens_per_s_per_gpu.mid / rate)
    serving = o.serving.replace(tokens_per_s_per_gpu=Interval(**ends), usd_per_million_tokens=price)
    return o.replace(plan=o.plan.replace(serving=serving))


def test_ranges_of_loss_overlap_where_the_order_is_sure(b200):
    axk1, omni = b200.systems[0], b200.systems[4]
    last = b200.aims["loss"][-1]
    assert (
        axk1.loss.overlaps(omni.loss)
        and last.name == omni.name
        and last.place == 1
        and last.win_probability < 0.01
    )


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
    found = budget.budget(
        [recipes.find("axk1"), recipes.find("hyperclovax_omni")], hardware.cluster("H100", 8), 30
    )
    assert [o.name for o in found.systems] == ["hyperclovax_omni"] and "fits" in found.left_out[
        "A.X K1 519B-A33B"
    ]
    assert "A.X K1" in budget_report.text(found)


def test_text_and_page(b200):
    english, korean = budget_report.text(b200), budget_report.text(b200, "ko")
    assert "lowest loss" in english and "손실이 가장 낮은 것" in korean
    assert all(o.title in english and o.title in korean for o in b200.systems)
    page = budget_report.page_of(b200, "ko")
    assert page.count("<svg") == 4 and all(o.title in page for o in (*b200.systems, *b200.ladder))


def test_layouts_of_any_engine_are_compared_if_asked():
    cluster, recipe = hardware.cluster("H100", 64), recipes.find("hyperclovax_omni")
    here, any_ = (
        budget.option(recipe, "system", cluster, 30, engines) for engines in ("here", "any")
    )
    assert here.plan.engine is None and any_.plan.layout == any_.plan.search.best[0].layout
    assert any_.plan.tokens_per_s_per_gpu.mid >= here.plan.tokens_per_s_per_gpu.mid


def test_whose_layouts_what_is_assumed_and_units_are_said(b200):
    said = budget_report.text(b200)
    assert (
        "--engines any" in said
        and f"{serving_cost.BUSY.mid:.0%} (30 – 80) of the hours" in said
        and "beats the top one" in said
    )
    unpriced = b200.systems[0].replace(
        plan=b200.systems[0].plan.replace(
            serving=b200.systems[0].serving.replace(usd_per_million_tokens=None)
        )
    )
    free = b200.cluster.replace(own=b200.cluster.kind.replace(usd_low=None, usd_high=None))
    other = b200.replace(systems=(unpriced,), aims=budget.rank([unpriced], 120), cluster=free)
    assert "GPU seconds a million tokens" in budget_report.text(
        other
    ) and "$" not in budget_report.text(other.replace(ladder=()))
    assert "training tokens/s/GPU" in budget_report.page_of(b200)


@pytest.mark.parametrize("days", [1e-9, 1e-4])
def test_a_budget_that_trains_nothing_is_one_line(days):
    with pytest.raises(ConfigError, match="is enough for none of") as raised:
        budget.budget([recipes.find("hyperclovax_omni")], hardware.cluster("B200", 8), days)
    assert "\n" not in str(raised.value)


def test_a_size_with_fewer_tokens_than_parameters_is_left_out():
    found = budget.budget([recipes.find("hyperclovax_omni")], hardware.cluster("B200", 1), 1)
    assert not found.systems and "law of loss" in found.left_out["HyperCLOVA X SEED 8B Omni"]
    assert all(o.tokens.mid >= o.plan.total_params for o in found.ladder if o.kind == "dense")
    assert (
        "Omni" in budget_report.text(found, "ko")
        and budget_report.page_of(found).count("<svg") == 1
    )


@pytest.mark.parametrize("days", [0, -3, float("inf"), float("nan"), 1e300])
def test_no_days_is_a_mistake(days):
    with pytest.raises(ConfigError, match="days"):
        budget.budget([], hardware.cluster("B200", 8), days)
