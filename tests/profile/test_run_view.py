"""`onnuri watch`: one picture of runs that train, have ended, are silent or have no forecast."""

import json
import time

import pytest
import torch
from rich.console import Console
from run_logs import FORECAST, log, sitting
from torch import nn

from onnuri.cli import main
from onnuri.profile import run_view
from onnuri.training.loop import TrainConfig, fit

NOW = 1_000_000.0


def run_folder(out, count=3, forecast=True, stage="lm", sittings=None, **figures):
    """A run's folder with lines of ten steps, one line every ten seconds until NOW."""
    (out / stage).mkdir(parents=True)
    figures = {"loss_text": 2.5, "lr": 1e-3, "grad_norm": 0.5, "peak_bytes": 1e8} | figures
    lines = log(count, **figures)
    for k, line in enumerate(lines):
        line |= {"loss": 3.0 - k / 10, "seconds": 10.0 * (k + 1)}
        line |= {"time": NOW - 10 * (count - 1 - k), "tflops_per_second": 0.25e-3, "mfu": 0.25}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / stage / "metrics.jsonl").write_text(text)
    begun = [s.to_json() for s in sittings or [sitting()]]
    (out / stage / "sittings.jsonl").write_text("".join(json.dumps(s) + "\n" for s in begun))
    if forecast:
        (out / "forecast.json").write_text(json.dumps({stage: FORECAST.to_json()}))
    return out


def picture(out, now=NOW):
    console = Console(width=110, record=True, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        console.print(run_view.frame(run_view.read_run(out), now))
    return captured.get()


def words(out):
    """A run's picture without its frame and its columns."""
    return " ".join(picture(out).replace("│", " ").split())


def test_a_run_that_trains(tmp_path):
    text = words(run_folder(tmp_path))
    for row in (
        "step 30 of 100 0:01:10 left",
        "loss 2.8000 █▅▁",
        "text 2.5000",
        "speed 1,000 tokens/s ▁▁▁",
        "MFU 25.0% 0.00025 of 0.001 TFLOP/s of a large product",
        "memory 100 MB",
        "gradient norm 0.5",
        "learning rate 0.001",
        "speed 1,000 (900 – 1,100) 1,000 tokens/s in the range",
        "peak memory 100 (80 – 120) 100 MB in the range",
        "minutes 10 (9 – 11) 1.667 min 81% below the range",
        "loss at the end 2 (2 – 2) 2.8 now",
    ):
        assert row in text


def test_a_drift_is_shown_with_its_cause(tmp_path):
    run_folder(tmp_path, step_seconds=2.0, loader_seconds=1.4)
    text = words(tmp_path)
    assert "speed 1,000 (900 – 1,100) 500 tokens/s 44% below the range" in text
    assert "speed: 50% of a step waits for rows" in text and "rows 70%, no core 0%" in text


def test_restarts_and_saves_are_counted(tmp_path):
    run_folder(tmp_path, sittings=[sitting(), sitting(step=10)], save_seconds=2.5)
    text = picture(tmp_path)
    assert "restarts 1" in text and "saves 20% (3 so far, 7.5 s)" in text
    assert "0:01:27 left" in text  # 70 s of steps, and a fifth of the time is saves


def test_a_run_without_a_forecast_says_so(tmp_path):
    assert "no forecast is stored for this run" in picture(run_folder(tmp_path, forecast=False))


@pytest.mark.parametrize("changes", [{"ranks": 2}, {"device": "NVIDIA H100"}])
def test_a_forecast_of_one_cpu_is_not_compared_with_other_devices(tmp_path, changes):
    text = picture(run_folder(tmp_path, sittings=[sitting(**changes)]))
    assert "is not compared with it" in text and "the range" not in text


def test_a_run_whose_budget_is_minutes(tmp_path):
    text = picture(run_folder(tmp_path, sittings=[sitting(steps=None, minutes=1.0)]))
    assert "50%  step 30  0:00:30 left" in text


def test_a_silent_run_is_called_so_and_one_that_has_ended_is_not(tmp_path):
    run_folder(tmp_path / "a")
    assert "no line for 0:02:00" in picture(tmp_path / "a", NOW + 120)
    assert "no line" not in picture(tmp_path / "a", NOW + 50)
    ended = picture(run_folder(tmp_path / "b", sittings=[sitting(steps=35)]), NOW + 1e6)
    assert "ended" in ended and "no line" not in ended


def test_the_stage_that_wrote_last_is_shown_and_half_a_line_is_left_out(tmp_path):
    run_folder(tmp_path, stage="visual", count=2)
    time.sleep(0.02)
    run_folder(tmp_path, stage="lm")
    with (tmp_path / "lm" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    state = run_view.read_run(tmp_path)
    assert (state.folder.name, state.others, state.lines[-1]["step"]) == ("lm", ("visual",), 30)
    assert run_view.read_run(tmp_path / "visual").folder.name == "visual"


def test_before_the_first_line_the_first_step_is_shown(tmp_path):
    run_folder(tmp_path)
    (tmp_path / "lm" / "metrics.jsonl").write_text("")
    assert "no line yet: one every 10 steps; the first step took 1 s" in picture(tmp_path)


def test_a_log_of_before_there_were_sittings_is_shown(tmp_path):
    run_folder(tmp_path)
    (tmp_path / "lm" / "sittings.jsonl").unlink()
    lines = (tmp_path / "lm" / "metrics.jsonl").read_text().splitlines()
    new = ("time", "peak_bytes", "mfu", "tflops_per_second")
    old = [{k: v for k, v in json.loads(x).items() if k not in new} for x in lines]
    (tmp_path / "lm" / "metrics.jsonl").write_text("\n".join(map(json.dumps, old)))
    text = picture(tmp_path)
    assert "step 30, budget not noted" in text and "in the range" in text


def test_sparklines_are_means_between_the_least_and_the_greatest():
    assert run_view.sparkline([0, 7, 0, 7], width=2) == "▁▁"
    assert run_view.sparkline(list(range(8))) == "▁▂▃▄▅▆▇█"
    assert run_view.sparkline([1.0, float("nan"), float("inf"), 2.0]) == "▁█"
    assert run_view.sparkline([]) == ""


class Small:
    """A task of one weight."""

    def __init__(self):
        self.module = nn.Linear(1, 1)

    def batch(self, step):
        return torch.ones(1, 1)

    def loss(self, batch):
        return self.module(batch).square().sum(), {"loss_text": 1.0}


def test_a_run_of_the_loop_is_shown_once_and_live_until_it_ends(tmp_path, capsys):
    fit(Small(), TrainConfig(steps=4, log_every=2), tmp_path / "lm")
    for flags in (["--once"], ["--refresh", "0.1"]):  # a run that has ended ends the live view
        main(["watch", str(tmp_path), *flags])
        said = capsys.readouterr().out
        assert "step 4 of 4" in said and "steps/s" in said and "no forecast is stored" in said


@pytest.mark.parametrize("make", ["none", "file", "empty"])
def test_a_folder_without_a_run_is_one_line_and_status_2(tmp_path, capsys, make):
    place = tmp_path / "place"
    if make != "none":
        place.mkdir() if make == "empty" else place.write_text("x")
    with pytest.raises(SystemExit) as stop:
        main(["watch", str(place), "--once"])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    assert str(place) in said.err and "holds no run" in said.err
