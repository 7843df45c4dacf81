"""A run's state on disk: what is damaged or another run's is one line, and the last two are kept."""

import json
import shutil

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from onnuri.errors import WeightsError
from onnuri.training import state
from onnuri.training.optim import Optimizers
from onnuri.training.state import Position
from onnuri.training.step import update_weights


def network(width=5, names="net"):
    torch.manual_seed(0)
    return nn.ModuleDict({names: nn.Linear(3, width), "last": nn.Linear(width, 1)})


def optimizers(module, muon=False):
    return Optimizers(module, muon, 1e-2, 0.1, (0.9, 0.95))


def stored(out, *steps):
    module = network()
    for step in steps:
        state.store(out, module, optimizers(module), Position(step, 2 * step, step / 2))
    return module


def test_the_newest_states_are_kept_and_the_newest_is_read(tmp_path):
    stored(tmp_path, 5, 100, 9_999_999, 123_456_789)
    names = sorted(folder.name for folder in (tmp_path / state.FOLDER).iterdir())
    assert names == ["09999999", "123456789"]
    module = network()
    assert state.restore(tmp_path, module, optimizers(module)).rows == 2 * 123_456_789


def test_a_step_of_one_digit_more_is_newer(tmp_path):
    stored(tmp_path, 99_999_998, 99_999_999, 100_000_000)
    names = {folder.name for folder in (tmp_path / state.FOLDER).iterdir()}
    assert names == {"99999999", "100000000"} and state.latest(tmp_path).name == "100000000"


@pytest.mark.parametrize("muon", [False, True])
def test_a_state_before_the_first_step_is_that_of_none(tmp_path, muon):
    """Moments that are made in order to be stored change no step."""
    results = []
    for stores in (False, True):
        module = network()
        optimizer = optimizers(module, muon)
        if stores:
            state.store(tmp_path, module, optimizer, Position())
        for _ in range(3):
            sum(p.square().sum() for p in module.parameters()).backward()
            update_weights(module, optimizer, 1e-2, 1.0)
        results.append([p.detach().clone() for p in module.parameters()])
    for p, q in zip(*results, strict=True):
        assert torch.equal(p, q)


def tied():
    module = network()
    module["other"] = nn.Linear(3, 5)
    module["other"].weight = module["net"].weight
    return module


def test_a_weight_with_two_names_is_stored_once(tmp_path):
    module = tied()
    state.store(tmp_path, module, optimizers(module), Position(1, 1, 1.0))
    reader = dcp.FileSystemReader(state.latest(tmp_path))
    names = [n for n in reader.read_metadata().state_dict_metadata if n.startswith("model.")]
    assert len(names) == len(list(module.parameters()))
    again = tied()
    with torch.no_grad():
        for p in again.parameters():
            p.zero_()
    state.restore(tmp_path, again, optimizers(again))
    assert again["other"].weight is again["net"].weight
    assert torch.equal(again["other"].weight, module["net"].weight)


def cut(folder):
    path = next(folder.glob("__0_*"))
    path.write_bytes(path.read_bytes()[:-9])


def flip(folder):
    path = next(folder.glob("__0_*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage, words",
    [
        (cut, "SHA-256 differs"),
        (flip, "SHA-256 differs"),
        (lambda folder: next(folder.glob("__0_*")).unlink(), "SHA-256 differs"),
        (lambda folder: (folder / ".metadata").write_bytes(b"x"), "SHA-256 differs"),
        (lambda folder: (folder / state.SUMMARY).unlink(), "FileNotFoundError"),
        (lambda folder: (folder / state.SUMMARY).write_text("[]"), "KeyError"),
        (lambda folder: (folder / state.SUMMARY).write_text("{"), "JSONDecodeError"),
    ],
)
def test_a_damaged_state_is_one_line_and_the_one_before_it_serves(tmp_path, damage, words):
    stored(tmp_path, 3, 4)
    newest = state.latest(tmp_path)
    damage(newest)
    module = network()
    with pytest.raises(WeightsError, match=words) as caught:
        state.restore(tmp_path, module, optimizers(module))
    assert str(newest) in str(caught.value) and "\n" not in str(caught.value)
    shutil.rmtree(newest)
    assert state.restore(tmp_path, module, optimizers(module)) == (3, 6, 1.5, 0)


@pytest.mark.parametrize(
    "other, words",
    [
        (lambda: network(width=6), r"holds \(1, 5\) for model.last.weight.* has \(1, 6\)"),
        (lambda: network(names="web"), r"holds \(5,\) for model.net.bias, and this run has none"),
    ],
)
def test_another_runs_state_is_one_line_and_changes_nothing(tmp_path, other, words):
    stored(tmp_path, 3)
    module = other()
    before = [p.detach().clone() for p in module.parameters()]
    with pytest.raises(WeightsError, match=words):
        state.restore(tmp_path, module, optimizers(module))
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))


def test_a_state_of_another_optimizer_is_refused(tmp_path):
    stored(tmp_path, 3)
    module = network()
    with pytest.raises(WeightsError, match=r"exp_avg|momentum"):
        state.restore(tmp_path, module, optimizers(module, muon=True))


def test_what_a_killed_writer_left_is_no_state(tmp_path):
    stored(tmp_path, 3)
    part = tmp_path / state.FOLDER / ".00000004.part"
    part.mkdir()
    (part / "__0_0.distcp").write_bytes(b"half")
    assert state.latest(tmp_path).name == "00000003"
    stored(tmp_path, 5)  # of a step that is not the killed one's
    assert state.latest(tmp_path).name == "00000005" and not part.exists()
    assert json.loads((state.latest(tmp_path) / state.SUMMARY).read_text())["position"]["step"] == 5
