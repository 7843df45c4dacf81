"""A loss that is no number, or a spike, takes a run back to its last state and on with later rows, a
few times."""

import json
import math

import pytest
import torch
from torch import nn

from onnuri.errors import ConfigError
from onnuri.model.loss import LossParts
from onnuri.training import loop, state
from onnuri.training.loop import TrainConfig, fit, read_metrics
from onnuri.training.watch import MOST_SKIPPED, WINDOW, LossWatch, Trouble


def parts(mean, weight=2.0):
    return LossParts(torch.tensor(mean * weight), weight)


def judged(watch, losses, first=0, norm=1.0):
    for step, loss in enumerate(losses, first):
        watch.add(step, loss, torch.tensor(norm))
    return watch.judge()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_loss_that_is_no_number_is_trouble(bad):
    watch = LossWatch(None)
    trouble = judged(watch, [parts(1.0), parts(bad), parts(bad)], 5)
    assert trouble.step == 6 and not math.isfinite(trouble.loss)
    assert judged(watch, [parts(1.0), parts(1e9)]) is None and watch.judge() is None


def test_a_spike_is_far_above_the_median_of_the_steps_before():
    for factor, expected in ((3.0, Trouble(WINDOW, 3.5)), (4.0, None), (None, None)):
        watch = LossWatch(factor)
        losses = [parts(1.0 if k % 4 else 2.0) for k in range(WINDOW)]
        assert judged(watch, losses) is None
        assert judged(watch, [parts(3.5)], WINDOW) == expected
    early = LossWatch(3.0)
    assert judged(early, [parts(1.0)] * (WINDOW - 1)) is None
    assert judged(early, [parts(9.0)], WINDOW) is None


def test_a_step_without_targets_is_no_trouble():
    assert judged(LossWatch(None), [LossParts(torch.tensor(0.0), 0.0)]) is None


def test_steps_that_teach_nothing_are_trouble_if_they_are_many_in_a_row():
    watch, loss = LossWatch(None), [parts(1.0)]
    for norm in (math.nan, math.inf):
        assert judged(watch, loss * MOST_SKIPPED, 0, norm) is None
        assert judged(watch, loss) is None
    assert judged(watch, loss * 3, 0, math.nan) is None and watch.skipped == 2 * MOST_SKIPPED + 3
    trouble = judged(watch, loss * 20, 3, math.nan)
    assert trouble == Trouble(MOST_SKIPPED, 1.0, MOST_SKIPPED + 1)
    assert str(trouble) == "gradients that are not finite in 17 steps up to 16"


class BrokenBackward(torch.autograd.Function):
    """The number itself, whose gradient is no number."""

    @staticmethod
    def forward(_, x):
        return x.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * math.nan


class Rows:
    """A line is fitted to rows, some of which are bad; the clock goes on by 10 s a step."""

    def __init__(self, clock, bad=lambda row: None, row_of=lambda number: number):
        torch.manual_seed(0)
        self.module, self.clock = nn.Linear(4, 1), clock
        self.bad, self.row_of, self.read = bad, row_of, []

    def batch(self, number):
        self.read.append(self.row_of(number))
        return self.read[-1]

    def loss(self, row):
        self.clock["now"] += 10.0
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(row))
        loss = (self.module(x) - x.sum(1, keepdim=True)).abs().mean() + 1.0
        factor = self.bad(row)
        if factor == "backward":
            return BrokenBackward.apply(loss), {}
        return loss * factor if factor else loss, {}


@pytest.fixture
def clock(monkeypatch):
    """States are stored every fourth step."""
    now = {"now": 0.0}
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now["now"])
    return now


def config(steps, **more):
    return TrainConfig(
        steps=steps, checkpoint_seconds=35.0, log_every=5, learning_rate=0.01, **more
    )


def weights(task):
    return [p.detach().clone() for p in task.module.parameters()]


@pytest.mark.parametrize(
    "bad_row, factor, seen, back, steps", [(9, math.nan, 10, 8, 12), (41, 50.0, 44, 40, 48)]
)
def test_a_bad_row_takes_the_run_back_and_on_with_the_rows_after(
    tmp_path, clock, capsys, bad_row, factor, seen, back, steps
):
    """It is judged before the next fifth step's line or the next state, every fourth step, after
    `seen` rows; the run goes on from the state `back`."""
    task = Rows(clock, lambda row: factor if row == bad_row else None)
    fit(task, config(steps, spike=3.0), tmp_path / "run")
    assert task.read == [*range(seen), *range(seen, seen + steps - back)]
    skipping = Rows(clock, row_of=lambda k: k if k < back else k - back + seen)
    fit(skipping, config(steps), tmp_path / "skipping")
    assert all(torch.equal(p, q) for p, q in zip(weights(task), weights(skipping), strict=True))
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(5, steps + 1, 5))
    (noted,) = [line for line in lines if "rewinds" in line]
    assert (noted["rewound_from"], noted["rewound_to"], noted["rewinds"]) == (seen, back, 1)
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert f"in step {bad_row + 1}: back to {back}" in capsys.readouterr().out
    assert state.read_position(state.latest(tmp_path / "run")).rewinds == 1


def test_a_run_that_keeps_failing_ends_with_one_line(tmp_path, clock):
    task = Rows(clock, lambda row: math.nan if row >= 6 else None)
    with pytest.raises(ConfigError, match=r"loss nan in step \d+: .* back 2 times") as caught:
        fit(task, config(100, rewinds=2), tmp_path)
    assert "\n" not in str(caught.value) and state.latest(tmp_path).name == "00000004"


def test_rewinds_are_counted_over_sittings(tmp_path, clock):
    first = Rows(clock, lambda row: math.nan if row == 6 else None)
    fit(first, config(12), tmp_path)
    second = Rows(clock, lambda row: math.nan if row == 16 else None)
    with pytest.raises(ConfigError, match="back 1 times"):
        fit(second, config(24, rewinds=1), tmp_path)
    position = json.loads((state.latest(tmp_path) / state.SUMMARY).read_text())["position"]
    assert position["rewinds"] == 1 and second.read[0] == 16


def test_without_a_state_the_bad_step_is_left_out(tmp_path, clock):
    task = Rows(clock, lambda row: math.nan if row == 1 else None)
    fit(task, config(4).replace(checkpoint_seconds=1e9, log_every=1), tmp_path)
    assert task.read == [0, 1, 2, 3] and all(p.isfinite().all() for p in weights(task))


def test_steps_without_gradients_are_counted_and_end_a_run_that_has_no_others(
    tmp_path, clock, capsys
):
    task = Rows(clock, lambda row: "backward" if 6 <= row < 9 else None)
    fit(task, config(20), tmp_path / "a")
    assert task.read == [*range(20)]
    lines = read_metrics(tmp_path / "a")
    assert [line.get("skipped_steps") for line in lines] == [None, 2, 3, 3]
    out = " ".join(capsys.readouterr().out.split())
    assert "3 steps left out: their gradients are not finite" in out
    task = Rows(clock, lambda row: "backward" if row >= 6 else None)
    with pytest.raises(ConfigError, match=r"gradients that are not finite in 17 .* back 1 times"):
        fit(task, config(100, rewinds=1), tmp_path / "b")
