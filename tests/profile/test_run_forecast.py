"""Forecasts: written once and before the first step, counts as they turn out, ranges of the loss
against a simulation."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import onnuri
from onnuri.model.backbone import BackboneConfig
from onnuri.model.objective import OmniObjective
from onnuri.model.omni import load_codecs, new_layout
from onnuri.profile import op_timing, run_forecast
from onnuri.toyworld.data.mixture import MixtureWeights, TaskSampler
from onnuri.toyworld.data.token_store import TokenStore, make_store
from onnuri.toyworld.front_end.toy import ToyFrontEnd
from onnuri.training.loop import TrainConfig, fit

LOOP = TrainConfig(steps=2, log_every=1, optimizer="muon")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder, codecs = tmp_path_factory.mktemp("table"), onnuri.WEIGHTS / "laptop" / "codecs"
    make_store(folder, 16, load_codecs, codecs, 1)
    made = load_codecs(codecs)
    text, layout = made["text"], new_layout(made)
    network = BackboneConfig(vocabulary=layout.size, width=32, layers=2, heads=2, hidden=48).build()
    return OmniObjective(
        network,
        layout,
        TaskSampler(MixtureWeights(), TokenStore(folder), text, ToyFrontEnd(), {}),
        text.words,
        256,
    )


def test_a_forecast_is_frozen_and_its_counts_come_true(task, tmp_path, capsys):
    run_forecast.write_forecast(tmp_path, {"lm": (task, LOOP)}, {"other": 7.0})
    frozen = (tmp_path / "forecast.json").read_bytes()
    state = torch.random.get_rng_state()
    run_forecast.write_forecast(tmp_path, {"lm": (task, LOOP)}, {})
    assert (tmp_path / "forecast.json").read_bytes() == frozen and torch.equal(
        torch.random.get_rng_state(), state
    )
    fit(task, LOOP, tmp_path / "lm")
    run_forecast.write_outcome(tmp_path, "lm", task.module)
    told = run_forecast.Forecast.from_json(json.loads(frozen)["lm"])
    was = run_forecast.RunOutcome.from_json(
        json.loads((tmp_path / "outcome.json").read_text())["lm"]
    )
    assert (told.params, told.weight_bytes, told.optimizer_bytes) == (
        was.params,
        was.weight_bytes,
        was.optimizer_bytes,
    )
    assert (
        told.gradient_bytes
        == was.weight_bytes
        == 4 * sum(p.numel() for p in task.module.parameters())
    )
    assert (
        was.minutes > 0
        and was.tokens_per_second > 0
        and told.loss.mid == pytest.approx(7.0)
        and told.loss_from == ("other",)
    )
    assert told.minutes.mid == pytest.approx(
        2 * task.batch(0).ids.numel() / told.tokens_per_second.mid / 60
    )
    assert "peak memory" in capsys.readouterr().out


def test_nothing_is_foretold_of_a_run_that_has_begun(task, tmp_path):
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "metrics.jsonl").write_text("")
    run_forecast.write_forecast(tmp_path, {"lm": (task, LOOP)}, {})
    run_forecast.write_outcome(tmp_path, "lm", task.module)
    assert not list(tmp_path.glob("*.json"))


def test_a_stage_that_was_added_to_a_run_has_no_forecast_and_no_outcome(task, tmp_path, capsys):
    (tmp_path / "forecast.json").write_text(json.dumps({"other": {}}))
    run_forecast.write_outcome(tmp_path, "lm", task.module)
    assert not (tmp_path / "outcome.json").exists() and not capsys.readouterr().out


def test_a_budget_of_minutes_is_what_it_takes(task):
    assert (
        run_forecast.forecast_stage(task, LOOP.replace(steps=None, minutes=3.0), {}).minutes.mid
        == 3.0
    )


@settings(max_examples=40, deadline=None)
@given(losses=st.lists(st.floats(0.5, 5.0), min_size=1, max_size=5), scale=st.floats(0.5, 2.0))
def test_a_range_of_the_loss_scales_and_holds_its_middle(losses, scale):
    one, other = (run_forecast.expected_loss([x * by for x in losses]) for by in (1.0, scale))
    assert one.low < one.mid < one.high and other.low == pytest.approx(one.low * scale)
    assert one.mid == pytest.approx(math.exp(np.mean(np.log(losses))))
    assert run_forecast.expected_loss([]) is None


def test_eight_of_ten_more_runs_lie_in_the_range():
    """Runs that differ as is assumed."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        *earlier, last = np.exp(rng.normal(0.3, run_forecast.LOSS_DEVIATION, 5))
        found = run_forecast.expected_loss(earlier)
        inside += found.low <= last <= found.high
    assert 0.74 < inside / 2000 < 0.88


def test_a_miss_is_said(task):
    told = run_forecast.forecast_stage(task, LOOP, {"other": 1.0})
    was = run_forecast.RunOutcome(
        params=told.params,
        weight_bytes=told.weight_bytes,
        optimizer_bytes=told.optimizer_bytes,
        loss=1.5,
        peak_bytes=round(told.peak_bytes.mid),
        tokens_per_second=told.tokens_per_second.mid,
        minutes=1e9,
    )
    rows = {row[0]: row[2] for row in run_forecast.comparison_rows(told, was)}
    assert (
        "+50.0%, out of the range" in rows["loss"]
        and "range" in rows["steps"]
        and "range" not in rows["speed"]
    )
    assert (
        "no earlier run"
        in {row[0]: row[1] for row in run_forecast.comparison_rows(told.replace(loss=None), was)}[
            "loss"
        ]
    )


def test_products_are_those_of_the_network(task):
    """Six FLOPs a weight and token, as the architecture counts them outside the head and
    attention."""
    from onnuri.planner import stock

    a, tokens = stock.from_config(task.module.config), 100
    counted = sum(
        6 * n * rows * outputs * inputs
        for (rows, outputs, inputs), n in op_timing.product_shapes(task, a, tokens).items()
    )
    scores = sum(3 * b.count * b.attention.score_flops(b.attention.seen(7)) for b in a.blocks)
    assert counted / tokens == pytest.approx(a.flops_per_token(7) - scores - 6 * a.embedding())
    assert sum(rows for rows, _ in op_timing.scored_targets(task, task.batch(0))) == int(
        (task.batch(0).weights > 0).sum()
    )


def test_what_fills_a_row_up_is_no_token_and_no_load(task):
    batch = task.batch(0)
    _, figures = task.loss(batch)
    real = int((batch.ids != task.layout.special("<pad>")).sum())
    assert 0 < batch.padding == batch.ids.numel() - real == int(batch.lengths[-1])
    assert task.balance.tokens == figures["tokens"] == real
