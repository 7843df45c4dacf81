"""Plans: sums of their parts, what was asked for, and what cannot be."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnuri
from onnuri import recipes
from onnuri.errors import ConfigError
from onnuri.planner import plan as plans
from onnuri.planner import report, stage_layouts
from onnuri.planner.goodput import DAY
from onnuri.planner.hardware import Cluster
from onnuri.planner.plan import Plan
from onnuri.planner.step_time import step_time


@pytest.fixture(scope="module")
def own():
    return onnuri.plan("axk1", layout="own")


def test_parts_add_up(own):
    main = max(own.stages, key=lambda s: s.tokens)
    assert sum(p.exposed_seconds for p in own.step) == pytest.approx(own.step_seconds.mid, rel=0.01)
    assert own.step_seconds.mid * own.tokens_per_s_per_gpu.mid * own.cluster.gpus == pytest.approx(
        main.batch_tokens
    )
    assert (
        sum(own.memory.values())
        == pytest.approx(own.memory_gib.mid)
        == pytest.approx(max(s.memory_gib for s in own.stages))
    )
    assert own.days.mid == pytest.approx(sum(s.days.mid for s in own.stages))
    assert (
        sum(s.tokens for s in own.stages)
        == pytest.approx(own.tokens)
        == pytest.approx(recipes.find("axk1").tokens)
    )
    text = own.stages[0]
    assert text.days.mid == pytest.approx(
        text.tokens / text.tokens_per_s_per_gpu.mid / own.cluster.gpus / own.goodput.share.mid / DAY
    )


def test_every_interval_is_in_order(own):
    def walk(value):
        if isinstance(value, dict):
            if value.keys() == {"low", "mid", "high"}:
                assert value["low"] <= value["mid"] <= value["high"], value
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(own.to_json())


def test_json_and_back(own):
    assert Plan.from_json(own.to_json()) == own


def test_days_tokens_and_dollars_are_kept(own):
    days = onnuri.plan("axk1", layout="own", days=30)
    assert days.days.mid == pytest.approx(30) and days.in_time == pytest.approx(own.days.cdf(30))
    assert days.tokens / own.tokens == pytest.approx(30 / own.days.mid)
    assert onnuri.plan("axk1", layout="own", tokens=1e12).tokens == pytest.approx(1e12)
    dollars = onnuri.plan("axk1", layout="own", budget_usd=1e6)
    assert dollars.bill.usd.mid == pytest.approx(1e6, rel=0.01)
    assert dollars.in_budget == pytest.approx(own.bill.usd.cdf(1e6), abs=0.01)
    both = onnuri.plan("axk1", layout="own", days=30, budget_usd=1e6)
    assert both.tokens == pytest.approx(min(days.tokens, dollars.tokens))


@pytest.mark.parametrize("name", recipes.NAMES)
def test_own_layouts_run_here_fit_in_every_stage_and_are_near_the_best(name):
    own, best = onnuri.plan(name, layout="own"), onnuri.plan(name, here=True, exact_gpus=True)
    assert not [n for n in own.notes if "batches" in n or "fit the" in n]
    for mine, found in zip(own.stages, best.stages, strict=True):
        assert mine.engine is None and found.engine is None
        assert mine.memory_gib <= own.capacity_gib
        assert mine.tokens_per_s_per_gpu.mid * 1.25 > found.tokens_per_s_per_gpu.mid, (
            mine.layout,
            found.layout,
        )


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(recipes.NAMES),
    st.sampled_from(["H200", "B200", "A100-80"]),
    st.sampled_from([64, 512, 1000, 4096, 10_240]),
)
def test_a_plan_without_a_layout_fits_in_every_stage_or_says_what_would(name, gpu, gpus):
    def planned(gpus):
        return onnuri.plan(name, Cluster(gpu=gpu, gpus=gpus), here=True, exact_gpus=True)

    try:
        found = planned(gpus)
    except ConfigError as error:
        if other := re.search(r"use ([\d,]+) GPUs$", str(error)):
            found = planned(int(other[1].replace(",", "")))
        else:
            assert re.search(r"use GPUs of [\d,]+ GiB$", str(error)), error
            return
    for s in found.stages:
        assert s.engine is None and s.memory_gib <= found.capacity_gib


def test_a_stage_that_needs_another_engine_gets_one():
    """One long sequence a GPU does not fit on 600 of 131 GiB, which 192 experts divide by 24
    alone."""
    found = onnuri.plan("axk1", {"gpu": "H200", "gpus": 600, "memory_gib": 131}, exact_gpus=True)
    assert found.engine is None and found.stages[-1].engine and found.fits


def test_a_layout_that_is_not_kept_is_said():
    found = onnuri.plan("axk1", "1024xH200", layout="ep=64,fsdp,recompute=none,bf16")
    assert any(n.startswith("laid out so that they divide and fit: text ") for n in found.notes)


def test_a_searched_plan_is_at_least_as_fast_as_the_recipes_own():
    own, best = (
        onnuri.plan("hyperclovax_omni", layout="own"),
        onnuri.plan("hyperclovax_omni", here=True, exact_gpus=True),
    )
    assert best.search and best.tokens_per_s_per_gpu.mid >= own.tokens_per_s_per_gpu.mid * 0.999


def test_media_lengthen_the_bill_and_the_vocabulary():
    recipe = recipes.find("vaetki")
    dear = recipe.replace(
        media=tuple(
            m.replace(encode_flops_per_token=10 * m.encode_flops_per_token) for m in recipe.media
        )
    )
    cheap, costly = (onnuri.plan(r, layout="own") for r in (recipe, dear))
    assert costly.encoding_gpu_hours.mid == pytest.approx(10 * cheap.encoding_gpu_hours.mid)
    assert costly.gpu_hours.mid > cheap.gpu_hours.mid
    text, annealing = (
        stage_layouts.stage_job(recipe, s, Cluster(gpu="H200", gpus=recipe.gpus), recipe.layout)
        for s in (recipe.stages[0], recipe.stages[-1])
    )
    assert text.architecture == recipe.architecture and annealing.architecture == recipe.omni
    assert recipe.omni.vocabulary - recipe.architecture.vocabulary >= sum(
        m.codes for m in recipe.media
    )


def test_odds_are_of_all_tokens_that_were_wanted(own):
    """Not of those that the days allow at the middle of the range, which would always be a half."""
    enough = onnuri.plan("axk1", layout="own", days=own.days.high)
    assert enough.in_time == pytest.approx(0.9, abs=0.01) and enough.tokens_wanted == own.tokens
    some = onnuri.plan("axk1", layout="own", days=30, tokens=1e12)
    assert some.tokens_wanted == 1e12 and some.in_time == pytest.approx(some.days.cdf(30))


def test_no_loss_is_said_where_no_law_holds():
    short = onnuri.plan("axk1", layout="own", tokens=1e10)
    assert (
        short.loss is None
        and "no law holds" in report.text(short)
        and Plan.from_json(short.to_json()) == short
    )
    assert report.page_of(short).count("<svg") == 4


def test_a_plan_is_frozen_in_depth(own):
    for change in (
        lambda: own.memory.update(logits=0),
        lambda: own.evidence.pop("loss"),
        lambda: own.memory.__setitem__("x", 1),
    ):
        with pytest.raises(TypeError, match="replace"):
            change()


def test_a_stage_of_longer_sequences_is_slower_a_token_and_one_that_is_frozen_faster():
    recipe = recipes.find("axk1")
    found = onnuri.plan(recipe, layout="own")
    text, alignment, annealing = found.stages[0], found.stages[1], found.stages[3]
    assert annealing.tokens_per_s_per_gpu.mid < text.tokens_per_s_per_gpu.mid
    each = [s.days.mid / s.tokens * s.tokens_per_s_per_gpu.mid for s in (alignment, text)]
    assert each[0] / each[1] == pytest.approx(plans.FROZEN)


def test_other_gpus_keep_the_batch_as_near_as_they_can():
    recipe, notes = stage_layouts.fit_batches(recipes.find("solar_open"), 512)
    assert (
        recipe.stages[0].batch_tokens == 16_777_216
        and "text 15,728,640 → 16,777,216 tokens" in notes[0]
    )
    assert stage_layouts.fit_batches(recipe, 512) == (recipe, [])
    many, _ = stage_layouts.fit_batches(
        recipes.find("axk1"), 100_000
    )  # more GPUs than sequences: ranks of which each has one
    assert many.stages[0].batch_tokens == 6_250 * 4096


@pytest.mark.parametrize(
    ("layout", "runs_here"),
    [
        ("dp=256,tp=2,ep=8,fsdp", True),
        ("dp=256,tp=2,sp=off,ep=8,fsdp", True),
        ("dp=512,ep=8,fsdp", True),
        ("dp=256,pp=2,ep=8,zero1", False),
        ("dp=256,tp=2,ep=8,zero1", False),
    ],
)
def test_a_typed_layout_is_planned_as_the_trainer_runs_it(layout, runs_here):
    """What the trainer's own reader of layouts runs, the planner says runs; and no other."""
    from onnuri.parallel.layout import parse_layout

    planned = onnuri.plan("vaetki", layout=layout)
    assert (planned.engine is None) == runs_here
    if runs_here:
        assert parse_layout(layout, 512) == planned.layout


def test_one_prediction_takes_less_than_50_ms():
    import time

    job = stage_layouts.stage_job(
        recipes.find("axk1"),
        recipes.find("axk1").stages[0],
        Cluster(gpu="H200", gpus=1024),
        recipes.find("axk1").layout,
    )
    began = time.process_time()
    for _ in range(10):
        step_time(job)
    assert (time.process_time() - began) / 10 < 0.05


@pytest.mark.parametrize("name", recipes.NAMES)
def test_the_frozen_answer_is_still_the_answer(name):
    """`onnuri plan freeze all` writes it anew, and the change is read before it is committed."""
    frozen, now = (
        dict(leaves(p.to_json()))
        for p in (Plan.load(recipes.frozen(name)), onnuri.plan(name, layout="own"))
    )
    assert frozen.keys() == now.keys()
    for where, value in now.items():
        assert frozen[where] == (
            pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        ), where


def leaves(value, where=""):
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{where}.{key}")
    else:
        yield where, value


@pytest.mark.parametrize(
    "cluster, wanted, why",
    [
        ("8xH200", {"days": -1}, "days -1"),
        ("8xH200", {"tokens": 0}, "tokens 0"),
        ("8xH200", {"budget_usd": 0}, "budget 0"),
        ("0xH200", {}, "0 GPUs"),
        ("xH200", {}, "cluster 'xH200'"),
        ("8xH2000", {}, "H200"),
        ("8xB300", {"budget_usd": 1}, "B300: has no list price"),
        ("1024xH200", {"layout": "dp=3"}, "is not 1024 GPUs"),
        ("1024xH200", {"layout": "pp=128"}, "more than 61 layers"),
        ("1024xH200", {"layout": "tp=3,dp=1024"}, "is not a multiple of 3"),
        (
            "8xH200",
            {},
            r"none of [\d,]+ layouts fits, the smallest takes 1,\d+ GiB of 140; use 128 GPUs$",
        ),
        (
            "100003xH200",
            {"exact_gpus": True},
            "no layout divides 8,192 sequences a batch; use 65,536 GPUs$",
        ),
        ("1024xH200", {"layout": "dp=0"}, "dp 0: is less than 1"),
        ("1024xH200", {"layout": "tp=0"}, "tp 0: is less than 1"),
        ("1024xH200", {"layout": "micro_batch=0"}, "micro_batch 0"),
        ("1024xH200", {"layout": " "}, "is empty"),
        ("1024xH200", {"software_year": -1}, "software year -1"),
        ("1024xH200", {"software_year": float("nan")}, "software year nan"),
        ("1024xH200", {"layout": "own", "days": 1e-9}, "less than one step"),
        ("1024xH200", {"days": 1e300}, "days 1e\\+300"),
        ("1024xH200", {"layout": "own", "precisions": ("fp8",)}, "stands beside a layout"),
        ("1024xA100-80", {"precisions": ("fp8",)}, "is not what a A100-80 multiplies"),
        ("8xA100", {}, "use A100-40, A100-80"),
    ],
)
def test_bad_input_is_one_line(cluster, wanted, why):
    with pytest.raises(ConfigError, match=why) as caught:
        onnuri.plan("axk1", cluster, **wanted)
    assert "\n" not in str(caught.value)


def test_the_text_says_everything_in_both_languages(own):
    english, korean = report.text(own), report.text(own, "ko")
    assert "runnable here" in english and "여기서 바로 실행됨" in korean and str(own) == english
    for figure in ("MFU", "GiB", "$", "MWh"):
        assert figure in english and figure in korean
    for sources in own.evidence.values():
        assert sources[0] in english
    assert "근거" in korean and not any(
        ours in korean for ours in ("assumed", "roofline", "constants,", "failures per")
    )


def test_a_notebook_shows_a_page_and_a_page_needs_nothing_else(own):
    part, page = own._repr_html_(), report.page_of(own, "ko", systems=recipes.summary())
    assert all(name in page for name in recipes.NAMES)
    assert (
        part.startswith('<div class="onnuri">')
        and page.startswith("<!doctype html>")
        and 'lang="ko"' in page
    )
    assert page.count("<svg") == 4 and "currentColor" in page
    for outside in ("src=", 'href="http', "@import", "url(http"):
        assert outside not in page
