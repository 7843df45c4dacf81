"""What ranks load of a folder, each its own shards alone, is what transformers loads whole, and
random weights are those of one process."""

import json
import sys
from pathlib import Path

import pytest
import torch
from processes import ForkedProcess
from safetensors.torch import load_file, save_file
from small_models import SMALL
from transformers import AutoConfig, AutoModelForCausalLM

from onnuri.errors import ConfigError, WeightsError
from onnuri.model.base import load_base
from onnuri.parallel.fill import give_memory
from onnuri.planner.parallel import ParallelConfig
from onnuri.training import load

sys.path.insert(0, str(Path(__file__).parent))
import export_ranks
import load_ranks
import test_export
from test_export import LAPTOP, twin


def case(why_whole="", **layout):
    config = ParallelConfig(**{"recompute": "none", "sequence_parallel": False, **layout})
    return {"layout": config.to_json(), "why_whole": why_whole}


def save(folder, model, dtype=torch.bfloat16):
    """A folder with random numbers in every weight and buffer, in several files."""
    export_ranks.built(model).to(dtype).save_pretrained(folder, max_shard_size=40_000)


def save_config(folder, model):
    export_ranks.built(model).config.save_pretrained(folder)


def save_with_a_stranger(folder, model):
    """Weights that only transformers itself can read: one is no part of the class."""
    export_ranks.built(model).save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file({**load_file(path), "more": torch.zeros(3)}, path, {"format": "pt"})


def loaded_by_ranks(folder, ranks, cases):
    (folder / "cases.json").write_text(json.dumps(cases))
    logs = [folder / f"{rank}.log" for rank in range(ranks)]
    started = [
        ForkedProcess(load_ranks.__file__, rank, ranks, folder, log=log)
        for rank, log in enumerate(logs)
    ]
    for process, log in zip(started, logs, strict=True):
        assert process.wait() == 0, log.read_text()[-3000:]


def test_two_ranks_load_what_transformers_loads_whole(tmp_path):
    cases = {
        "tied": case(dp=2),
        "experts": case(dp=2, ep=2),
        "own experts": case(tp=2),
        "random": case(dp=2, ep=2),
        "random, tied": case(tp=2),
        "stranger": case("{folder}/model.safetensors: more: is no weight", dp=2),
        "computed": case("weight model.layers.0.mlp.act_fn", dp=2, sharding="ddp"),
    }
    save(tmp_path / "tied", LAPTOP)
    save(tmp_path / "experts", twin("axk1"))
    save(tmp_path / "own experts", twin("vaetki"), torch.float16)
    save_config(tmp_path / "random", twin("axk1"))
    save_config(tmp_path / "random, tied", LAPTOP)
    save_with_a_stranger(tmp_path / "stranger", LAPTOP)
    AutoConfig.for_model("apertus", **SMALL).save_pretrained(tmp_path / "computed")
    loaded_by_ranks(tmp_path, 2, cases)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_layout_loads_what_transformers_loads_whole(tmp_path, ranks):
    cases = {}
    for name, each in test_export.combinations(ranks).items():
        cases[name] = {"layout": each["layout"], "why_whole": ""}
        cases[f"{name}, random"] = cases[name]
        save(tmp_path / name, each)
        save_config(tmp_path / f"{name}, random", each)
    loaded_by_ranks(tmp_path, ranks, cases)


FAMILIES = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 24},
    "mixtral": {"num_local_experts": 4},
    "phi3": {},
    "olmo2": {},
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_one_process_loads_what_transformers_loads(tmp_path, family):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.split(",")[0], **{**SMALL, **FAMILIES[family]})
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    network, loader = load_ranks.loaded(tmp_path, None)
    assert loader.why_whole is None
    expected = load_ranks.tensors(load_ranks.reference(tmp_path))
    found = load_ranks.tensors(network)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def folder_of_llama(folder):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **SMALL)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    path = folder / "model.safetensors"
    return path, load_file(path)


HEAD = "lm_head.weight"


@pytest.mark.parametrize(
    "change, why",
    [
        (lambda t: t.pop(HEAD), f"{HEAD}: is missing"),
        (lambda t: t.update({"lm.weight": t.pop(HEAD)}), "lm.weight: is no weight of the class"),
        (lambda t: t.update({HEAD: t[HEAD][1:]}), f"{HEAD}: has the shape [319, 32]"),
        (lambda t: t.update({HEAD: t[HEAD].to(torch.float8_e4m3fn)}), "is stored in F8_E4M3"),
        (lambda t: t.update({HEAD: t[HEAD].int()}), "is stored in I32"),
    ],
)
def test_weights_of_another_kind_are_left_to_transformers(tmp_path, change, why):
    path, tensors = folder_of_llama(tmp_path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ConfigError) as refused:
        load.find_weights(tmp_path, load_base(tmp_path, device="meta"))
    assert why in str(refused.value)


def test_what_a_class_leaves_out_is_no_weight_of_another_kind(tmp_path, monkeypatch):
    path, tensors = folder_of_llama(tmp_path)
    more = {
        "model.layers.2.norm.weight": torch.ones(32),
        "model.rotary_emb.inv_freq": torch.ones(4),
    }
    save_file({**tensors, **more}, path, {"format": "pt"})
    network = load_base(tmp_path, device="meta")
    network._keys_to_ignore_on_load_unexpected = [r"layers\.2\."]
    assert load.find_weights(tmp_path, network)[path].keys() == tensors.keys()


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"no weights"])
def test_damaged_files_are_named(tmp_path, damage):
    path, _ = folder_of_llama(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be read"):
        load_ranks.loaded(tmp_path, None)
    path.rename(tmp_path / "model-1.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    with pytest.raises(WeightsError, match=r"index\.json: cannot be read"):
        load_ranks.loaded(tmp_path, None)


def test_a_run_that_resumes_loads_what_no_state_holds_alone(tmp_path, monkeypatch):
    folder_of_llama(tmp_path)
    network = load_base(tmp_path, device="meta", dtype=torch.float32)
    loader = load.Loader(tmp_path, network, 0, resumes=True)
    assert not loader.files and loader.drawn == {
        "model.rotary_emb.inv_freq",
        "model.rotary_emb.original_inv_freq",
    }
    give_memory(network, load_ranks.CPU)
    loader.load(network, None)
    expected = dict(load_base(tmp_path).named_buffers())
    for name in loader.drawn:
        assert torch.equal(dict(network.named_buffers())[name], expected[name])


def test_weights_that_are_tied_in_the_config_alone_are_refused(tmp_path):
    folder_of_llama(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "tie_word_embeddings": True}))
    with pytest.raises(WeightsError, match=r"lm_head\.weight: is tied to another weight in config"):
        load_ranks.loaded(tmp_path, None)
