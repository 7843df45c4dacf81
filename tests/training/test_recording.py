"""What a run records beside its figures: a profile of the steps that were named, event files."""

import importlib.util
import json

import pytest
import torch
from torch import nn

from onnuri.cli import main
from onnuri.errors import ConfigError, DependencyError
from onnuri.training.loop import TrainConfig, fit, read_metrics
from onnuri.training.record_config import RecordConfig


class Small:
    """A task of one weight, whose every step is one product with a bias."""

    def __init__(self):
        self.module = nn.Linear(1, 1)

    def batch(self, step):
        return torch.ones(1, 1)

    def loss(self, batch):
        return self.module(batch).sum(), {}


@pytest.mark.parametrize("named, name, steps", [("2-3", "2-3", 2), ("4-9", "4-5", 2)])
def test_the_steps_that_were_named_are_profiled(tmp_path, named, name, steps):
    """Also where the run ends before the last of them."""
    record = RecordConfig(profile_steps=named)
    fit(Small(), TrainConfig(steps=5, record=record), tmp_path)
    folder = tmp_path / "profile"
    assert sorted(f.name for f in folder.iterdir()) == [f"steps-{name}.json", f"steps-{name}.txt"]
    events = json.loads((folder / f"steps-{name}.json").read_text())["traceEvents"]
    assert sum(event["name"] == "aten::addmm" for event in events) == steps
    head, *rows = (folder / f"steps-{name}.txt").read_text().splitlines()
    assert head.split() == ["share", "ms", "calls", "operator"] and len(rows) == 10
    times = [float(row.split()[1]) for row in rows]
    assert times == sorted(times, reverse=True)


def test_a_run_that_goes_on_past_its_profiled_steps_writes_none(tmp_path):
    fit(Small(), TrainConfig(steps=3), tmp_path)
    fit(Small(), TrainConfig(steps=5, record=RecordConfig(profile_steps="2-3")), tmp_path)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("steps", ["3", "0-2", "5-4", "a-b", "-3-4", "1-2-3", ""])
def test_steps_that_are_no_range_are_refused(steps):
    with pytest.raises(ConfigError, match="give such as 20-22"):
        RecordConfig(profile_steps=steps).check()


def test_tensorboard_that_is_missing_is_one_line_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError):
        RecordConfig(tensorboard=True).check()
    with pytest.raises(SystemExit) as stop:
        main(["train", "laptop", "--preset", "smoke", "-o", str(tmp_path / "r"), "--tensorboard"])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and not (tmp_path / "r").exists()
    assert said.err == (
        "onnuri: --tensorboard: needs the package tensorboard; pip install 'onnuri[watch]'\n"
    )


def test_event_files_hold_the_lines_of_all_sittings(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    record = RecordConfig(tensorboard=True)
    fit(Small(), TrainConfig(steps=2, log_every=1, record=record), tmp_path)
    fit(Small(), TrainConfig(steps=4, log_every=1, record=record), tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = read_metrics(tmp_path)
    for name in ("loss", "grad_norm", "lr", "peak_bytes", "loader_seconds"):
        scalars = [(e.step, e.value) for e in events.Scalars(name)]
        assert [step for step, _ in scalars] == [line["step"] for line in lines] == [1, 2, 3, 4]
        assert [v for _, v in scalars] == pytest.approx([line[name] for line in lines], rel=1e-6)
    assert "step" not in events.Tags()["scalars"] and "time" not in events.Tags()["scalars"]
