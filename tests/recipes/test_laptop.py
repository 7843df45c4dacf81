"""`onnuri train laptop --preset smoke`: the whole road as a user runs it, stopped on the way and
gone on with."""

import json
import signal

import pytest
from processes import start_python, wait_until

import onnuri
from onnuri.errors import ConfigError
from onnuri.modality import MEDIA
from onnuri.recipes.laptop import PRESETS, LaptopConfig, run_rows
from onnuri.toyworld.data.token_store import TokenStore
from onnuri.training import state
from onnuri.training.loop import read_metrics


@pytest.mark.slow
def test_smoke_goes_from_nothing_to_a_model_also_when_interrupted(tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    command = ("-m", "onnuri.cli", "train", "laptop", "--preset", "smoke", "-o", out)
    with log.open(
        "w"
    ) as errors:  # an interpreter of its own: pools fork workers, which a daemon may not
        first = start_python(*command, stdout=errors, stderr=errors)
    wait_until(lambda: state.latest(out / "visual") or first.poll() is not None, "a checkpoint")
    first.send_signal(signal.SIGINT)
    assert first.wait() == 130 and "the same command goes on" in log.read_text()
    assert not (out / "model").exists()
    with log.open("w") as errors:
        assert start_python(*command, stdout=errors, stderr=errors).wait() == 0, log.read_text()
    assert LaptopConfig.load(out / "run.json") == PRESETS["smoke"]()
    assert TokenStore(out / "table").rows == 48 and set(
        json.loads((out / "times.json").read_text())
    ) == {"pools", "codecs", "table", "model"}
    last = read_metrics(out / "lm")[-1]
    assert {*(f"loss_{m}" for m in MEDIA), "tokens_per_second", "lr"} <= set(last)
    model = onnuri.load(out / "model")
    made = {to: model.generate(to, text="a small red sphere", language="en") for to in MEDIA}
    assert made["image"].shape == (128, 128, 3) and made["video"].shape[0] == 17


def test_presets_fit_their_hours():
    """The budgets of the stages that are bounded by time; pools and table take what docs/log.md
    measures."""
    minutes = {}
    for name in ("full", "evening"):
        settings = PRESETS[name]()
        loops = [
            settings.visual,
            settings.audio,
            settings.shape,
            *(stage.loop for stage in settings.model),
        ]
        minutes[name] = sum(loop.minutes for loop in loops)
    assert minutes["full"] <= 300 and minutes["evening"] <= 100


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": "many"}', "null"])
def test_a_damaged_run_file_is_one_line(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match="is damaged"):
        run_rows(tmp_path, 1024, None, None)
    assert run_rows(tmp_path, 1024, None, 4) == 4
