"""The verdict: what was asked for has no range, the other has, and one thing limits."""

import json

import pytest

import onnuri
from onnuri import recipes
from onnuri.cli import main
from onnuri.planner import budget, figures, hardware, report, verdict
from onnuri.planner.interval import Interval, exact


def planned(**wanted):
    return onnuri.plan("axk1", layout="own", **wanted)


def test_days_have_tokens_with_a_range():
    whole, some = planned(), planned(days=75)
    v = some.verdict
    assert v.edge == "days" and v.days == exact(75) and v.tokens.low < v.tokens.mid < v.tokens.high
    for share in (
        0.1,
        0.5,
        0.9,
    ):  # so likely fewer tokens than x in 75 days as more days than 75 for x
        tokens = v.tokens.quantile({0.1: -1.2816, 0.5: 0, 0.9: 1.2816}[share])
        assert (whole.days * (tokens / whole.tokens)).cdf(75) == pytest.approx(1 - share, abs=1e-3)
    assert v.likely == some.in_time == pytest.approx(whole.days.cdf(75))
    said = report.text(some)
    assert "75 (" not in said and f"{figures.between(v.tokens)} in 75 days" in said
    hours = 75 * 24 * some.cluster.gpus
    assert some.gpu_hours.mid == pytest.approx(hours + some.encoding_gpu_hours.mid)
    assert some.gpu_hours.high / some.gpu_hours.low < 1.01  # the hours until the date are known


def test_dollars_have_tokens_and_days_with_ranges():
    some = planned(budget_usd=1e6)
    v, whole = some.verdict, planned()
    assert v.edge == "usd" and v.usd == exact(1e6) == some.bill.usd and v.limit == "price"
    # a shorter project loses less of its hours, so it trains a little more than its share of the
    # dollars
    assert 1 <= v.tokens.mid / whole.tokens / (1e6 / whole.bill.usd.mid) < 1.1
    assert v.days.mid == pytest.approx(
        1e6 / (whole.bill.usd.mid / whole.gpu_hours.mid) / 24 / some.cluster.gpus
    )
    assert v.likely == some.in_budget


@pytest.mark.parametrize(
    "wanted, edge",
    [
        ({}, "recipe"),
        ({"tokens": 1e12}, "tokens"),
        ({"tokens": 1e12, "days": 9}, "tokens"),
        ({"days": 75, "budget_usd": 1e5}, "usd"),
        ({"days": 1, "budget_usd": 1e9}, "days"),
    ],
)
def test_what_ends_training(wanted, edge):
    found = planned(**wanted)
    assert found.verdict.edge == edge and found.verdict.tokens.mid == pytest.approx(found.tokens)
    if edge in ("tokens", "recipe"):
        assert found.verdict.days == found.days and found.verdict.tokens == exact(found.tokens)


def test_hours_sum_to_one_and_the_first_limits():
    found = planned()
    shares = found.verdict.hours
    assert sum(shares.values()) == pytest.approx(1) and list(shares.values()) == sorted(
        shares.values(), reverse=True
    )
    step = {p.name: p.exposed_seconds for p in found.step}
    networked = sum(step.get(n, 0) for n in ("tp", "cp", "ep", "pp", "gather", "reduce")) / sum(
        step.values()
    )
    assert shares["network"] == pytest.approx(networked * found.goodput.share.mid, rel=1e-3)
    layers = sum(
        step.get(n, 0) for n in ("projections", "feed_forward", "experts", "attention")
    ) / sum(step.values())
    # three passes of four are forward and backward, one is done again for lack of memory
    assert found.layout.recompute == "full"
    assert shares["recomputation"] == pytest.approx(layers / 4 * found.goodput.share.mid, rel=1e-3)
    slow = onnuri.plan("axk1", {"gpu": "H200", "gpus": 1024, "nic_gbps": 5}, layout="own")
    assert found.verdict.limit == "compute" and slow.verdict.limit == "network"
    bubbly = onnuri.plan(
        "hyperclovax_omni",
        "4096xH200",
        layout="dp=128,pp=32,micro_batch=4,zero1,recompute=none,bf16",
    )
    assert bubbly.verdict.limit == "bubble"
    small = onnuri.plan("axk1", {"gpu": "H200", "gpus": 1024, "memory_gib": 60}, layout="own")
    assert (
        not small.verdict.fits
        and small.verdict.limit == "memory"
        and small.verdict.fits_likely < 0.1
    )
    assert "no: " in report.text(small).split("\n")[2]


def test_every_part_of_a_step_belongs_to_one_limit():
    from onnuri.planner.stage_layouts import stage_job
    from onnuri.planner.step_time import step_time

    recipe = recipes.find("axk1")
    parts = step_time(
        stage_job(recipe, recipe.stages[0], hardware.cluster("H200", recipe.gpus), recipe.layout)
    ).parts
    known = [*verdict.COMPUTE, *(name for names in verdict.PARTS.values() for name in names)]
    assert len(known) == len(set(known)) and set(parts) <= set(known)


def test_tokens_by_then_turn_a_range_of_days_round():
    found = verdict.by_then(10.0, Interval(low=50, mid=100, high=400), 100)
    assert found == Interval(low=2.5, mid=10, high=20)


@pytest.mark.slow
def test_a_budget_and_a_plan_name_one_loss():
    cluster = hardware.cluster("H200", 1024)
    for name in recipes.NAMES:
        option = budget.option(recipes.find(name), "system", cluster, 75)
        plan = onnuri.plan(name, cluster, days=75, here=True)
        if option.tokens.high < budget.MOST_TOKENS and plan.loss:
            assert plan.loss == plan.verdict.loss and f"{option.loss:.6f}" == f"{plan.loss:.6f}"
            assert option.tokens.low == pytest.approx(plan.verdict.tokens.low)


def test_the_verdict_is_first_in_table_and_json(tmp_path, capsys):
    main(["plan", "axk1", "--layout", "own", "--days", "75", "--json", str(tmp_path / "p.json")])
    said = capsys.readouterr().out.split("\n")
    labels = [line.strip().split("  ")[0] for line in said[2:9]]
    assert labels == [
        "fits",
        "tokens trained",
        "how likely",
        "days",
        "cost",
        "expected loss",
        "limited by",
    ]
    written = json.loads((tmp_path / "p.json").read_text())
    assert next(iter(written)) == "verdict" and written["verdict"]["limit"] == "compute"
    main(
        [
            "plan",
            "budget",
            "--gpu",
            "H100",
            "--gpus",
            "64",
            "--days",
            "30",
            "--json",
            str(tmp_path / "b.json"),
        ]
    )
    said = capsys.readouterr().out
    assert said.index("finish their own plan") < said.index("only layouts")
    assert {"loss", "operate", "media", "usd", "finish"} <= set(
        json.loads((tmp_path / "b.json").read_text())["verdict"]
    )


@pytest.mark.parametrize(
    "odds, said",
    [
        (0, "< 1 %"),
        (0.004, "< 1 %"),
        (0.034, "3 %"),
        (0.5, "50 %"),
        (0.996, "> 99 %"),
        (1, "> 99 %"),
    ],
)
def test_no_probability_is_said_to_be_certain(odds, said):
    assert figures.percent(odds) == said


def test_korean_of_a_report_has_the_fields_words_and_no_english_left():
    own = {"price_usd": 2, "nic_gbps": 200, "nvlink_gbps": 900, "compiled": True}
    found = onnuri.plan("axk1", {"gpu": "H200", "gpus": 1024, **own}, days=75, here=True)
    said = report.text(found, "ko")
    for gone in (
        "배치 (",
        "매체",
        "따짐",
        "견줌",
        "까닭",
        "지붕선",
        "일시",
        "한 벌",
        "min마다",
        " and ",
        "1.00배",
        "overview",
        "yours",
        "table",
    ):
        assert gone not in said, gone
    for word in (
        "병렬화 구성",
        "모달리티",
        "유효 학습 시간 비율",
        "임시 버퍼",
        "인스턴스당",
        "탐색",
        "탈락 이유",
        "분마다",
        "루프라인",
    ):
        assert word in said, word
