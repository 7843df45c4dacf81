"""`onnuri verify`: right layouts pass, and each planted fault fails for the reason it should."""

import sys
from pathlib import Path

import pytest
import small_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import start_python

from onnuri import recipes
from onnuri.cli import main
from onnuri.recipes.nano import nano
from onnuri.recipes.verify import few_layers
from onnuri.training.verify import Difference, Tolerances, Verification, _differences, layouts_for
from onnuri.training.verify_config import VerifyConfig

sys.path.insert(0, str(Path(__file__).parent))
import faults

EXPECTED = {
    "no_all_reduce": "gradient of",
    "doubled_expert_gradients": "experts",
    "balance_moved_under_recomputation": "choices of experts",
    "biases_moved_alone": "weights at the end",
    "wrong_mask_in_packing": ("loss of the first step", "packed rows differ"),
    "recomputation_off": "not recomputed as the layout says",
    "shifted_sampler": "loss of the first step",
    "one_tokens_weight_off": "loss of the first step",
    "clipping_by_rank": "gradient norm",
    "stale_weights_of_one_layer": "weights at the end",
    "dropped_micro_batch": "loss of the first step",
    "decay_on_norms": "weights at the end",
    "norms_of_own_tokens": "norm.weight differs",
    "stale_piece_in_export": "exported model",
}
QUICK = ("clipping_by_rank",)
RIGHT = ("none", "muon", "muon_copies", "torch_2_11")


def found(tmp_path, name):
    """What `verify` says of a model with a planted fault."""
    log = tmp_path / "log"
    with log.open("w") as errors:  # an interpreter of its own: a daemon may not fork ranks
        process = start_python(
            faults.__file__, name, tmp_path / "found", stdout=errors, stderr=errors
        )
    assert process.wait() == 0, log.read_text()[-3000:]
    return (tmp_path / "found").read_text()


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in faults.FAULTS]
)
def test_right_layouts_pass_and_faults_fail(tmp_path, name):
    words = found(tmp_path, name)
    if name in RIGHT:
        assert words == ""
    else:
        expected = EXPECTED[name]
        for each in (expected,) if isinstance(expected, str) else expected:
            assert each in words


def test_every_fault_has_an_expectation():
    assert set(EXPECTED) | set(RIGHT) == set(faults.FAULTS)


@pytest.mark.parametrize("world_size", [2, 4, 8])
@pytest.mark.parametrize("has_experts", [False, True])
def test_layouts_take_the_ranks_and_are_each_another(world_size, has_experts):
    layouts = layouts_for(world_size, has_experts)
    assert all(layout.gpus == world_size and not layout.other_engine for layout in layouts)
    assert len(set(map(str, layouts))) == len(layouts)
    assert {layout.sharding for layout in layouts} >= {"ddp", "fsdp"}
    assert {layout.recompute for layout in layouts} == {"none", "selective", "full"}
    assert has_experts == any(layout.ep > 1 for layout in layouts)
    assert {layout.sequence_parallel for layout in layouts if layout.tp > 1} == {True, False}


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_small_model_has_a_layer_of_each_kind(name):
    values = nano(name).values
    few = few_layers(values)
    assert few["num_hidden_layers"] == 3 < values["num_hidden_layers"]
    for lists in (("layer_types",), ("mlp_layer_types",), ("layer_types", "mlp_layer_types")):
        if set(lists) <= values.keys():
            whole, chosen = (list(zip(*(v[n] for n in lists), strict=True)) for v in (values, few))
            assert len(chosen) == 3 and list(dict.fromkeys(whole)) == list(dict.fromkeys(chosen))


@given(st.integers(2, 100))
def test_a_state_is_stored_and_two_steps_of_three_follow(steps):
    stored = VerifyConfig(steps=steps).stored_step
    assert 1 <= stored < steps and (steps - stored >= 2 or steps == 2)


def test_a_figure_beyond_its_tolerance_or_no_number_fails():
    right = Difference(layout="a")
    assert not right.failures(Tolerances())
    for field in ("first_loss", "last_loss", "norm", "gradient", "weights", "resumed", "exported"):
        for value in (1e-3, float("nan"), float("inf")):
            assert len(right.replace(**{field: value}).failures(Tolerances())) == 1
    assert right.replace(routing=1).failures(Tolerances())
    assert right.replace(recomputed=False).failures(Tolerances())
    assert right.replace(crashed="x").failures(Tolerances())
    assert not right.replace(refused="x", norm=1.0).failures(Tolerances())
    whole = Verification(name="m", differences=(right,), packing=1e-3, allowed=Tolerances())
    assert len(whole.failures()) == 1 and not whole.replace(packing=0.0).failures()


def test_a_tensor_that_is_missing_or_no_number_differs_without_bound():
    one = torch.tensor([1.0, 2.0])
    broken = torch.tensor([1.0, float("nan")])
    expected = {"same": one, "off": one, "broken": one, "zero": torch.zeros(2), "lost": one}
    values = {"same": one, "off": one + 1, "broken": broken, "zero": one, "new": one}
    found = _differences(values, expected)
    assert found.pop("same") == 0.0 and found.pop("off") == 0.5
    assert set(found) == {"broken", "zero", "lost", "new"}
    assert all(value == float("inf") for value in found.values())
    assert _differences({"a": torch.zeros(2)}, {"a": torch.zeros(2)}) == {"a": 0.0}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nonsense"], "is not known"),
        (["no/such/folder"], "no/such/folder: is no folder"),
        (["--world-size", "1"], "--world-size 1: is less than 2"),
        (["--steps", "1"], "--steps 1: is less than 2"),
        (["--rows", "0"], "--rows 0: is less than 1"),
        (["--rows", "6"], "--rows 6: is no multiple of 4 ranks; give such as 8"),
        (["--tokens", "5"], "--tokens 5: is less than 24"),
        (["--learning-rate", "nan"], "--learning-rate nan: is not above 0"),
        (["--clip", "0"], "--clip 0.0: is not above 0"),
        (["--layouts", "dp=2"], "--layouts dp=2: takes 2 ranks, and --world-size is 4"),
        (["--layouts", "pp=2"], "--layouts pp=2: needs"),
        (["--layouts", "warp=2"], "is not part of a layout"),
        (["--layouts", ""], "is empty"),
        (["laptop", "-o", "/proc/no/file.json"], "cannot be a folder"),
        (["."], "config.json"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        main(["verify", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_folder_of_any_family_is_verified(tmp_path):
    small_models.written(tmp_path / "mixtral", "mixtral")
    command = ("-m", "onnuri", "verify", tmp_path / "mixtral", "--world-size", "2", "--steps", "2")
    with (tmp_path / "log").open("w") as log:
        process = start_python(*command, "--layouts", "dp=2,ep=2,fsdp", stdout=log, stderr=log)
    text = (tmp_path / "log").read_text
    assert process.wait() == 0, text()[-3000:]
    assert "1 layouts train what one process trains" in text()
