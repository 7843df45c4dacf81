"""A Hugging Face folder that all ranks write together is the one that `save_pretrained` writes of
the whole model, and plain `from_pretrained` reads it."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from processes import ForkedProcess
from safetensors import safe_open
from small_models import FAMILIES, SMALL
from transformers import AutoConfig, AutoModelForCausalLM

from onnuri.errors import ConfigError
from onnuri.files import whole_folder
from onnuri.model.written_weights import written_weights
from onnuri.planner.parallel import ParallelConfig
from onnuri.recipes import find
from onnuri.recipes.nano import nano
from onnuri.training.export import export

sys.path.insert(0, str(Path(__file__).parent))
import export_ranks

LAPTOP = {
    "family": "laptop",
    # of odd numbers, so that shards are uneven and some ranks hold none of a tensor
    "values": {"vocabulary": 67, "width": 28, "layers": 1, "heads": 2, "hidden": 41},
}
WHOLE, CUT = 10**9, 20_000
"""bytes per file: all in one, and several"""


def twin(recipe):
    """A recipe's small model, still smaller."""
    values = {**nano(recipe).values, "vocab_size": 64, "hidden_size": 48}
    values |= {"bos_token_id": None, "eos_token_id": None, "num_hidden_layers": 2}
    values |= {n: values[n][-2:] for n in ("mlp_layer_types", "layer_types") if n in values}
    return {"family": find(recipe).family, "values": values}


def case(model, file_bytes=WHOLE, dtype="float32", **layout):
    config = ParallelConfig(**{"recompute": "none", "sequence_parallel": False, **layout})
    return {
        **model,
        "layout": config.to_json(),
        "dtype": dtype,
        "file_bytes": file_bytes,
        # small, so that tensors are cut
        "block_bytes": 3_000 if model is LAPTOP else 30_000,
    }


def written_by_ranks(folder, ranks, cases):
    (folder / "cases.json").write_text(json.dumps(cases))
    logs = [folder / f"{rank}.log" for rank in range(ranks)]
    started = [
        ForkedProcess(export_ranks.__file__, rank, ranks, folder, log=log)
        for rank, log in enumerate(logs)
    ]
    for process, log in zip(started, logs, strict=True):
        assert process.wait() == 0, log.read_text()[-3000:]


def reference(network, folder, dtype, file_bytes):
    copy.deepcopy(network).to(dtype).save_pretrained(folder, max_shard_size=file_bytes)
    return folder


def tensors(folder):
    """Name, and dtype and bytes of every tensor of a folder, as the safetensors package reads
    them."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (a safe_open is no dict)
                assert name not in found
                found[name] = file.get_tensor(name)
    return found


def check_equal(own, expected):
    """A folder is another to the byte but for the cut into files."""
    ours, theirs = ({p.name: p for p in f.iterdir()} for f in (own, expected))
    files = {name for name in ours.keys() | theirs.keys() if not name.startswith("model")}
    if "model.safetensors" in theirs:
        files |= ours.keys() | theirs.keys()
    for name in files:
        assert ours[name].read_bytes() == theirs[name].read_bytes(), name
    ours, theirs = tensors(own), tensors(expected)
    assert sorted(ours) == sorted(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


@torch.no_grad()
def check_logits(network, own, dtype):
    """What plain transformers reads computes, in 32 bits, what the whole model does with weights
    rounded alike."""
    ids = torch.arange(12)[None]
    # a copy, since products of weights that lie unaligned, as in a mapped file, are rounded otherwise
    read = copy.deepcopy(AutoModelForCausalLM.from_pretrained(own, dtype=torch.float32))
    for tensor in network.state_dict().values():  # not `to`, which rounds rotary frequencies too
        tensor.copy_(tensor.to(dtype))
    expected = network.eval()(ids).logits
    assert torch.equal(read.eval()(ids).logits, expected)


def check(folder, cases):
    """Every case's folder is the whole model's, and nothing else was left."""
    for name, each in cases.items():
        dtype, own = getattr(torch, each["dtype"]), folder / name / "own"
        assert [p.name for p in (folder / name).iterdir()] == ["own"]
        more = own / "more.txt"
        assert more.read_text() == "more"
        more.unlink()
        network = export_ranks.built(each)
        check_equal(own, reference(network, folder / name / "whole", dtype, each["file_bytes"]))
        check_logits(network, own, dtype)


QUICK = {
    "tied, fsdp, in files": case(LAPTOP, CUT, dp=2),
    "experts, ep": case(twin("axk1"), dtype="bfloat16", dp=2, ep=2),
    "own experts, tp": case(twin("vaetki"), tp=2),
}


def test_two_ranks_write_what_transformers_writes_of_the_whole(tmp_path):
    written_by_ranks(tmp_path, 2, QUICK)
    check(tmp_path, QUICK)


def alone(family):
    """A random model of another family, whole."""
    values = {**SMALL, **FAMILIES[family]}
    values = {k: v for k, v in values.items() if v is not None or k == "pad_token_id"}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_process_writes_the_same_bytes_as_transformers(tmp_path, family):
    network = alone(family)
    export(network, tmp_path / "own", dtype=torch.bfloat16, block_bytes=5_000)
    check_equal(tmp_path / "own", reference(network, tmp_path / "whole", torch.bfloat16, WHOLE))


def test_each_weight_can_have_a_dtype_of_its_own(tmp_path):
    more = {"n_routed_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
    config = AutoConfig.for_model("solar_open", **{**SMALL, **more})
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    assert set(dtypes.values()) == {
        torch.bfloat16,
        torch.float32,
    }  # the class keeps routers' biases
    wide = copy.deepcopy(network).float()
    export(wide, tmp_path / "own", dtype=dtypes, block_bytes=5_000)
    network.save_pretrained(tmp_path / "whole")
    check_equal(tmp_path / "own", tmp_path / "whole")


def test_a_rank_whose_disk_is_full_ends_all_and_leaves_the_folder_as_it_was(tmp_path):
    cases = {"full": {**QUICK["tied, fsdp, in files"], "gone": 1}}
    folder = tmp_path / "full"
    (folder / "own").mkdir(parents=True)
    (folder / "own/before.txt").write_text("before")
    written_by_ranks(tmp_path, 2, cases)
    errors = {(tmp_path / f"full-{rank}.error").read_text() for rank in range(2)}
    assert errors == {
        f"{folder / 'own'}: cannot be written (No space left on device); give another folder"
    }
    assert [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*"))] == [
        "own",
        "own/before.txt",
    ]


def test_what_a_killed_export_left_is_removed(tmp_path):
    (tmp_path / ".own.part").mkdir()
    (tmp_path / ".own.part/model.safetensors").write_text("half")
    export(alone("mistral"), tmp_path / "own", dtype=torch.float32)
    assert [p.name for p in tmp_path.iterdir()] == ["own"]
    assert (tmp_path / "own/model.safetensors").stat().st_size > 1_000


def test_a_folder_that_a_kill_left_moved_aside_comes_back(tmp_path):
    (tmp_path / ".own.old").mkdir()
    (tmp_path / ".own.old/before.txt").write_text("before")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "own"):
        raise ZeroDivisionError
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == [
        "own",
        "own/before.txt",
    ]


def test_float16_refuses_a_weight_beyond_its_range(tmp_path):
    network = alone("mistral")
    with torch.no_grad():
        network.lm_head.weight[3, 4] = -70_000
    with pytest.raises(
        ConfigError, match=r"lm_head\.weight: is beyond the range of torch\.float16"
    ):
        export(network, tmp_path / "own", dtype=torch.float16)
    assert not list(tmp_path.iterdir())
    dtypes = dict.fromkeys(network.state_dict(), torch.float16)
    export(network, tmp_path / "own", dtype={**dtypes, "lm_head.weight": torch.bfloat16})


def test_a_class_whose_checkpoint_is_computed_is_refused(monkeypatch):
    import transformers.core_model_loading as loading

    network = alone("mistral")
    monkeypatch.setattr(
        loading,
        "revert_weight_conversion",
        lambda model, state: {"new": state["lm_head.weight"] * 2},
    )
    with pytest.raises(ConfigError, match="weight new: is computed"):
        written_weights(network, torch.float32)


MIXTURES = ("axk1", "vaetki", "solar_open", "k_exaone")


def combinations(ranks):
    """Every kind of layout of some ranks for every family."""
    layouts = {
        2: {"fsdp": {"dp": 2}, "ddp": {"dp": 2, "sharding": "ddp"}, "tp": {"tp": 2}},
        4: {
            "fsdp": {"dp": 4},
            "hsdp": {"dp": 4, "sharding": "hsdp", "shard": 2},
            "fsdp, tp": {"dp": 2, "tp": 2},
            "ddp, tp": {"dp": 2, "tp": 2, "sharding": "ddp"},
        },
    }[ranks]
    experts = {
        2: {"ep": {"dp": 2, "ep": 2}, "tp, ep": {"tp": 2, "ep": 2}},
        4: {
            "ep": {"dp": 4, "ep": 4},
            "fsdp, ep": {"dp": 4, "ep": 2},
            "hsdp, ep": {"dp": 4, "ep": 2, "sharding": "hsdp", "shard": 2},
            "fsdp, tp, ep": {"dp": 2, "tp": 2, "ep": 2},
            "fsdp, tp, whole ep": {"dp": 2, "tp": 2, "ep": 4},
        },
    }[ranks]
    cases = {}
    for name, layout in layouts.items():
        cases[f"laptop, {name}"] = case(LAPTOP, CUT, **layout)
        cases[f"hyperclovax_omni, {name}"] = case(twin("hyperclovax_omni"), CUT, **layout)
    for recipe in MIXTURES:
        for name, layout in {**layouts, **experts}.items():
            cases[f"{recipe}, {name}"] = case(twin(recipe), CUT, "bfloat16", **layout)
    return cases


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_layout_writes_what_transformers_writes_of_the_whole(tmp_path, ranks):
    cases = combinations(ranks)
    written_by_ranks(tmp_path, ranks, cases)
    check(tmp_path, cases)
