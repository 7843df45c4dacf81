"""Resumed = uninterrupted, bit for bit, also after a kill; the schedule; nothing half-written."""

import itertools
import json
import os
import signal
import textwrap
from types import SimpleNamespace

import pytest
import torch
from processes import ForkedProcess, run_program, wait_until
from torch import nn

from onnuri.errors import Terminated
from onnuri.training import loop, metrics, state
from onnuri.training.loop import TrainConfig, fit, lr_at, read_metrics

PROGRAM = textwrap.dedent("""
    import sys, time, torch
    from pathlib import Path
    from torch import nn
    from onnuri.training.loop import TrainConfig, fit

    class Task:
        def __init__(self, pause):
            torch.manual_seed(0)
            self.pause, self.module = pause, nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        def batch(self, step):
            return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        def loss(self, batch):
            time.sleep(self.pause)
            return (self.module(batch) - batch.sum(1, keepdim=True)).pow(2).mean(), {}

    if __name__ == "__main__":
        out, pause = Path(sys.argv[1]), float(sys.argv[2])
        task = Task(pause)
        fit(task, TrainConfig(steps=60, checkpoint_seconds=0.2, log_every=5), out)
        torch.save(task.module.state_dict(), out / "final.pt")
""")


class Small:
    """A task of one weight."""

    def __init__(self):
        self.module = nn.Linear(1, 1)

    def batch(self, step):
        return torch.ones(1, 1)

    def loss(self, batch):
        return self.module(batch).sum(), {}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "train_small.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture(scope="module")
def straight(program, tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    assert run_program(program, out, "0").returncode == 0
    return torch.load(out / "final.pt")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(program, straight, tmp_path, how):
    first = ForkedProcess(program, tmp_path, "0.03", log=tmp_path.with_suffix(".log"))
    wait_until(lambda: state.latest(tmp_path), "a checkpoint")
    first.send_signal(how)
    assert first.wait() != 0 and not (tmp_path / "final.pt").exists()
    assert run_program(program, tmp_path, "0").returncode == 0
    resumed = torch.load(tmp_path / "final.pt")
    assert all((resumed[k] == straight[k]).all() for k in straight)
    steps = [m["step"] for m in read_metrics(tmp_path)]
    assert steps == sorted(set(steps)) == list(range(5, 61, 5))
    assert not list(tmp_path.glob("*.part"))


def test_schedule_warms_up_stays_and_decays():
    config = TrainConfig(steps=100, learning_rate=1.0, warmup_steps=9, decay=0.3)
    assert lr_at(4, 0.04, config) == pytest.approx(0.5)
    assert lr_at(9, 0.09, config) == lr_at(69, 0.69, config) == 1.0
    assert 0 < lr_at(90, 0.9, config) < lr_at(80, 0.8, config) < 1
    assert lr_at(99, 1.0, config) == pytest.approx(0.0)


def test_a_shorter_run_is_the_longer_one_until_it_decays():
    """So a preset's model may go on from another's checkpoint."""
    short, long = TrainConfig(minutes=10), TrainConfig(minutes=30)
    assert all(lr_at(50 * m, m / 10, short) == lr_at(50 * m, m / 30, long) for m in range(7))


def test_a_stop_asked_for_after_the_last_step_is_heeded(tmp_path, monkeypatch):
    class Late(loop.ProgressBar):
        def __exit__(self, *error):
            os.kill(os.getpid(), signal.SIGINT)
            return super().__exit__(*error)

    monkeypatch.setattr(loop, "ProgressBar", Late)
    with pytest.raises(KeyboardInterrupt):
        fit(Small(), TrainConfig(steps=2), tmp_path)
    assert state.latest(tmp_path)


@pytest.mark.parametrize(
    "number, error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_how_it_was_stopped_is_what_it_raises(tmp_path, number, error):
    class Stopped(Small):
        def loss(self, batch):
            os.kill(os.getpid(), number)
            return super().loss(batch)

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(Stopped(), TrainConfig(steps=2), tmp_path)
    assert caught.type is error and state.latest(tmp_path).name == "00000001"


def test_every_half_minute_a_line_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    """On a clock that goes on by 20 seconds whenever it is asked: every second step, where there is
    no terminal."""
    clock = itertools.count(0, 20)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    fit(Small(), TrainConfig(steps=8), tmp_path, "small")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[1], line[3]) for line in lines] == [
        ("small", f"{100 * step / 8:.1f}%", str(step))
        for step in range(int(lines[0][3]), 9, int(lines[0][3]))
    ]
    assert len(lines) >= 3 and all(line[4] == "loss" and line[-1] == "left" for line in lines)


def test_metrics_are_json_lines(program, tmp_path):
    assert run_program(program, tmp_path, "0").returncode == 0
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert {"step", "seconds", "lr", "grad_norm", "loss"} <= set(line)
