"""`onnuri verify --device`: right steps pass, wrong ones fail, on a CPU in bf16."""

import json

import pytest
import torch

from onnuri.cli import main
from onnuri.model import attention
from onnuri.model.backbone import BackboneConfig
from onnuri.parallel.working_weights import WorkingWeights
from onnuri.recipes.verify import device_twin
from onnuri.training.verify_device import MODES, Mode, verify_on_device

BUILD = BackboneConfig(vocabulary=128, width=64, layers=2, heads=4, hidden=128).build
BF16 = MODES[:2]


def failing(build=BUILD, modes=BF16):
    return [each.mode for each in verify_on_device(build, "cpu", modes) if not each.passes]


def test_a_right_step_passes():
    found = verify_on_device(BUILD, "cpu", MODES[:4])
    assert [each.passes for each in found] == [True] * 4
    assert found[0].gradients < 1e-6 < 1e-3 < found[1].gradients
    # recomputation computes the same again, to the bit
    assert found[1].gradients == found[2].gradients == found[3].gradients


def test_attention_across_sequences_fails(monkeypatch):
    original = attention.by_sequence
    monkeypatch.setattr(
        attention,
        "by_sequence",
        lambda q, k, v, scaling, lengths, window: original(
            q, k, v, scaling, [sum(lengths)], window
        ),
    )
    assert failing() == ["float32", "bf16"]


def test_gradients_of_one_micro_batch_fail(monkeypatch):
    """As if each micro-batch's gradients replaced those before."""
    original = WorkingWeights._copy

    def forgetting(self, weight, *place):
        copy = original(self, weight, *place)
        copy.register_hook(lambda gradient: setattr(weight, "grad", None))
        return copy

    monkeypatch.setattr(WorkingWeights, "_copy", forgetting)
    assert failing() == ["bf16"]


def test_weights_of_less_than_16_bits_fail(monkeypatch):
    original = WorkingWeights._copy

    def coarse(self, weight, *place):
        rounded = torch.nn.Parameter(weight.to(torch.float8_e4m3fn).to(weight.dtype))
        weight.data.copy_(rounded.data)
        return original(self, weight, *place)

    monkeypatch.setattr(WorkingWeights, "_copy", coarse)
    assert failing() == ["bf16"]


def test_weights_that_no_update_reaches_fail(monkeypatch):
    """What a GPU did: the copies stayed as they were first."""
    monkeypatch.setattr(WorkingWeights, "_refresh", lambda self: None)
    assert failing() == ["bf16"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["hyperclovax_omni", "solar_open", "axk1"])
def test_recipes_pass(name):
    assert not failing(lambda: device_twin(name))


@pytest.mark.long
def test_a_compiled_step_passes():
    assert not failing(modes=(Mode("compiled", None, True), Mode("full", None, True, "full")))


def test_the_command_says_what_it_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("onnuri.recipes.verify._large_laptop", BUILD)
    main(["verify", "laptop", "--device", "cpu", "-o", str(tmp_path / "found.json")])
    assert "4 ways of computing a step agree on cpu" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each["mode"] for each in found["models"]["laptop"]] == [m.name for m in MODES[:4]]


def test_without_a_gpu_it_is_one_line(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "laptop", "--device", "cuda"])
    assert stopped.value.code == 2
    assert "--device cuda" in capsys.readouterr().err
