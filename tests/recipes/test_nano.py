"""`onnuri train RECIPE --preset smoke`: the small twins' road, from the shipped codecs to a folder
that makes every modality."""

import json

import pytest

import onnuri
from onnuri.cli import main
from onnuri.inference.hf_forward import HFForward
from onnuri.modality import MEDIA
from onnuri.recipes import nano
from onnuri.training.loop import read_metrics


@pytest.mark.slow
def test_smoke_trains_systems_on_one_table(tmp_path):
    for name in ("vaetki", "hyperclovax_omni", "axk2"):
        main(["train", name, "--preset", "smoke", "--out", str(tmp_path / name)])
        if name == "vaetki":
            table = (tmp_path / "nano-data-32/table/table.json").stat().st_mtime_ns
    assert (tmp_path / "nano-data-32/table/table.json").stat().st_mtime_ns == table
    assert nano.NanoConfig.load(tmp_path / "vaetki/run.json") == nano.smoke("vaetki")
    assert read_metrics(tmp_path / "vaetki/lm")[-1]["step"] == nano.smoke("vaetki").steps == 4
    told = json.loads((tmp_path / "hyperclovax_omni/forecast.json").read_text())["lm"]
    assert (told["loss"], told["loss_from"]) == (
        None,
        [],
    )  # vaetki's smoke run has a budget of its own
    was = json.loads((tmp_path / "vaetki/outcome.json").read_text())["lm"]
    assert was["params"] == nano.smoke("vaetki").architecture.num_params()
    model = onnuri.load(tmp_path / "vaetki/model")
    assert type(model.network).__name__ == "VaetkiForCausalLM" and isinstance(
        model.engine.forward, HFForward
    )
    text = model.codecs["text"]
    assert model.layout.text_codes == 4096 and text.decode(text.encode("빨간 구 é")) == "빨간 구 é"
    assert (
        json.loads((tmp_path / "vaetki/model/config.json").read_text())["vocab_size"]
        == model.layout.size
    )
    made = {
        to: model.generate(to, text="a small red sphere", language="en")
        for to in MEDIA
        if to != "audio"
    }
    assert made["image"].shape == (128, 128, 3) and made["video"].shape[0] == 17
    assert onnuri.load(tmp_path / "axk2/model").generate(
        "image", text="a small red sphere"
    ).shape == (128, 128, 3)


@pytest.mark.parametrize(
    "arguments,complaint",
    [
        (["laptop", "--preset", "nano"], "full, evening, words, smoke"),
        (["axk1", "--preset", "evening"], "nano, smoke"),
    ],
)
def test_a_preset_that_a_recipe_has_not_is_one_line(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", *arguments])
    assert stop.value.code == 2 and complaint in capsys.readouterr().err


def test_the_loss_is_foretold_from_runs_with_the_same_budget(tmp_path):
    for name, flops in (
        ("axk1", nano.BUDGET),
        ("vaetki", nano.BUDGET),
        ("solar_open", nano.BUDGET / 2),
    ):
        (tmp_path / f"{name}-nano/lm").mkdir(parents=True)
        nano.nano(name).replace(flops=flops).save(tmp_path / f"{name}-nano/run.json")
        (tmp_path / f"{name}-nano/lm/metrics.jsonl").write_text('{"loss": 1.5}\n{"loss": 1.25}\n')
        if name != "vaetki":  # which is still running
            (tmp_path / f"{name}-nano/model").mkdir()
    found = nano.earlier_losses(nano.nano("k_exaone"), tmp_path / "k_exaone-nano")
    assert found["axk1"] == 1.25 and found.get("solar_open") != 1.25 and found.get("vaetki") != 1.25
    assert not nano.earlier_losses(nano.smoke("k_exaone"), tmp_path / "k_exaone-nano")
