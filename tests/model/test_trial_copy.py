"""The small copy on which a class is tried computes as the class does, with a layer of each kind."""

import pytest
import torch
from small_models import SMALL
from transformers import AutoConfig, AutoModelForCausalLM

from onnuri.model.backbone import build_hf_config
from onnuri.model.base import reads_packed_rows
from onnuri.model.layers import layers_of
from onnuri.model.trial_copy import trial_copy
from onnuri.recipes import find
from onnuri.recipes.nano import nano

NO_CAP = {"final_logit_softcapping": None, "query_pre_attn_scalar": 8}
"""of Gemma 2, so that only its attention is capped"""


def config(family, **more):
    return AutoConfig.for_model(family, **{**SMALL, "num_hidden_layers": 6, **more})


@pytest.mark.parametrize(
    "family, more, layers",
    [
        ("llama", {"attention_dropout": 0.1, "vocab_size": 4096, "pad_token_id": 4000}, 1),
        ("mistral", {"sliding_window": 4}, 1),
        ("exaone4", {}, 2),
        ("olmo2", {}, 1),
        ("cohere", {}, 1),
        ("gemma2", NO_CAP, 2),
        ("gpt_neox", {}, 1),
        ("gpt_oss", {"num_local_experts": 4}, 2),
    ],
)
def test_a_copy_says_what_the_whole_model_does(tmp_path, family, more, layers):
    config(family, **more).save_pretrained(tmp_path)
    torch.manual_seed(0)
    whole = AutoModelForCausalLM.from_config(config(family, **more), dtype=torch.float32)
    before = torch.random.get_rng_state()
    small = trial_copy(tmp_path)
    assert small is not None and torch.equal(torch.random.get_rng_state(), before)
    assert reads_packed_rows(small) == reads_packed_rows(whole)
    assert len(layers_of(small)) == small.config.num_hidden_layers == layers
    assert small.get_input_embeddings().num_embeddings == 64


@pytest.mark.parametrize("recipe", ["axk1", "vaetki", "solar_open", "k_exaone"])
def test_dense_and_sparse_sliding_and_full_layers_are_all_there(tmp_path, recipe):
    values = {**nano(recipe).values, "num_hidden_layers": 12, "vocab_size": 320}
    for field in ("layer_types", "mlp_layer_types"):
        if values.get(field):
            values[field] = (list(values[field]) * 12)[:12]
    model_config = build_hf_config(find(recipe).family, values)
    model_config.save_pretrained(tmp_path)
    small = trial_copy(tmp_path)
    assert small is not None and reads_packed_rows(small)
    for field in ("layer_types", "mlp_layer_types"):
        kinds = getattr(model_config, field, None)
        if kinds:
            assert set(getattr(small.config, field)) == set(kinds)
            assert len(getattr(small.config, field)) == len(layers_of(small)) < 12


def test_a_class_that_cannot_be_cut_is_none(tmp_path):
    config("apertus").save_pretrained(tmp_path)  # its activations' settings are computed at first
    assert trial_copy(tmp_path) is None
    assert trial_copy(tmp_path / "nothing") is None
