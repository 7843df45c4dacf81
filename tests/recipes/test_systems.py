"""The five systems: counts of the real classes, published figures, sources, layouts; and their
small twins."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri import recipes
from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.modality import MEDIA
from onnuri.model import backbone
from onnuri.planner import stage_layouts, stock
from onnuri.planner.hardware import Cluster
from onnuri.planner.recipe import Recipe
from onnuri.recipes.nano import BUDGET, SEQUENCE, nano

SYSTEMS = (*recipes.NAMES, *recipes.LATER)
COUNTED = {
    "axk1": (518.98e9, 32.7e9),
    "solar_open": (102.65e9, 12.03e9),
    "k_exaone": (236.57e9, 23.63e9),
    "vaetki": (112.19e9, 10.25e9),
}
"""total and active of ../shared/facts/systems.md, counted by others"""


def counted(model):
    """Total and active parameters of a real model: of the experts' weights only the chosen share is
    passed."""
    c = model.config
    routed = getattr(c, "n_routed_experts", None) or getattr(c, "num_experts", 0)
    total = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for n, p in model.named_parameters() if ".mlp.experts." in n)
    return total, total - (experts // routed * (routed - c.num_experts_per_tok) if routed else 0)


def on_meta(family, values):
    with torch.device("meta"):
        return backbone.build_hf_model(family, values)


@pytest.mark.parametrize("name", SYSTEMS)
def test_counts_are_those_of_the_real_class(name):
    r = recipes.find(name)
    model = on_meta(r.family, r.values)
    assert counted(model) == (r.architecture.num_params(), r.architecture.num_active_params())
    assert stock.from_config(model.config, name) == r.architecture
    omni = on_meta(r.family, {**r.values, "vocab_size": r.omni.vocabulary})
    assert counted(omni)[0] == r.omni.num_params()
    small = nano(name).architecture
    twin = on_meta(r.family, {**nano(name).values, "vocab_size": small.vocabulary})
    assert counted(twin) == (small.num_params(), small.num_active_params())


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(SYSTEMS),
    layers=st.integers(1, 5),
    heads=st.sampled_from([2, 4]),
    width=st.sampled_from([16, 48]),
    experts=st.sampled_from([4, 8]),
    hidden=st.sampled_from([32, 64]),
    tied=st.booleans(),
    shared=st.integers(1, 2),
)
def test_counts_of_any_shape(name, layers, heads, width, experts, hidden, tied, shared):
    r, v = recipes.find(name), dict(recipes.find(name).values)
    wanted = {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "moe_intermediate_size": width,
        "intermediate_size": 3 * width,
        "n_routed_experts": experts,
        "num_experts": experts,
        "n_shared_experts": shared,
        "num_shared_experts": shared,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "hidden_size": hidden,
        "head_dim": 8,
        "kv_lora_rank": 12,
        "q_lora_rank": 20,
        "qk_nope_head_dim": 8,
        "v_head_dim": 6,
        "qk_rope_head_dim": 4,
        "tie_word_embeddings": tied,
        "vocab_size": 77,
        "mlp_layer_types": (v.get("mlp_layer_types") or [])[:layers],
        "layer_types": (v.get("layer_types") or [])[:layers],
        "max_position_embeddings": 256,
    }
    if "kv_lora_rank" in v:
        wanted["num_key_value_heads"] = heads
    v |= {key: value for key, value in wanted.items() if key in v}
    a = stock.architecture("any", r.family, v)
    assert counted(on_meta(r.family, v)) == (a.num_params(), a.num_active_params())
    assert a.layers == layers


def test_the_summary_is_within_half_a_percent_of_what_others_counted():
    rows = {row["recipe"]: row for row in recipes.summary()}
    assert list(rows) == list(SYSTEMS) and json.loads(json.dumps(rows)) == rows
    for name, (total, active) in COUNTED.items():
        assert rows[name]["total_params"] == pytest.approx(total, rel=0.005)
        assert rows[name]["active_params"] == pytest.approx(active, rel=0.005)
    later = rows["axk2"]
    assert later["total_params"] == pytest.approx(later["published_total"], rel=0.005)
    assert later["active_params"] == pytest.approx(
        later["published_active"] + 1.9e9, rel=0.02
    )  # its docstring says why
    omni = rows["hyperclovax_omni"]
    assert omni["total_params"] == pytest.approx(omni["published_total"], rel=0.05)
    assert set(omni) == {
        "recipe",
        "total_params",
        "active_params",
        "published_total",
        "published_active",
    }


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_recipe_says_where_every_value_is_from_and_its_plan_runs_here(name):
    r = recipes.find(name)
    assert set(r.sources) == set(r.values) and all(r.sources.values())
    known = set(on_meta(r.family, r.values).config.to_dict())
    assert set(r.values) - known <= {
        "head_dim"
    }  # the class reads it, and its list of fields does not have it
    assert r.layout.other_engine is None and [s.name for s in r.stages] == [
        "text",
        "alignment",
        "omni",
        "annealing",
    ]
    for stage in r.stages:
        stage_layouts.stage_job(r, stage, Cluster(gpu=r.gpu, gpus=r.gpus), r.layout).check()
        assert (
            set(stage.media_share) <= {m.modality for m in r.media}
            and sum(stage.media_share.values()) < 1
        )
    assert {m.modality for m in r.media} <= set(MEDIA) and r.tokens > 1e12
    assert Recipe.from_json(r.to_json()) == r and isinstance(r, Config)


def test_what_nobody_published_is_marked():
    omni = recipes.find("hyperclovax_omni").sources
    assert all(
        omni[k].startswith("assumed")
        for k in ("intermediate_size", "num_key_value_heads", "rope_parameters")
    )
    assert not any(s.startswith("assumed") for s in recipes.find("axk1").sources.values())


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_small_twin_has_every_feature_of_the_large_one(name):
    large, small = recipes.find(name).values, nano(name).values
    assert set(large) == set(small)
    for key, value in large.items():
        if isinstance(value, list):
            assert set(small[key]) == set(value), key
        elif isinstance(value, (bool, str, float)) and key not in (
            "tie_word_embeddings",
            "attention_multiplier",
        ):
            assert small[key] == value, key
    assert small.get("n_group", 1) == 1 or small["n_group"] > small["topk_group"] > 1
    shared = [v["num_key_value_heads"] < v["num_attention_heads"] for v in (large, small)]
    assert shared[0] == shared[1]


def test_small_twins_have_the_same_budget():
    spent = []
    for name in SYSTEMS:
        s = nano(name)
        spent.append(s.steps * s.tokens * s.architecture.flops_per_token(SEQUENCE))
        assert s.replace(recipe="axk1", values={}, loop=nano("axk1").loop) == nano("axk1").replace(
            values={}
        )
        assert 2e6 < s.architecture.num_active_params() < 9e6
    assert max(spent) / min(spent) < 1.01 and spent[0] == pytest.approx(BUDGET, rel=0.01)


@pytest.mark.parametrize(
    "name,near", [("axk3", "axk1"), ("hyperclova", "hyperclovax_omni"), ("zzz", "axk1, solar_open")]
)
def test_an_unknown_name_is_one_line_with_the_nearest(name, near):
    with pytest.raises(ConfigError, match=near):
        recipes.find(name)
    assert (
        recipes.find("K-EXAONE") is recipes.find("K-EXAONE")
        and recipes.find("A.XK1").name == "axk1"
    )


def test_what_is_missing_or_unknown_to_the_reader_is_one_line():
    values = dict(recipes.find("axk1").values)
    with pytest.raises(ConfigError, match="use one of llama"):
        stock.architecture("x", "gpt9", values)
    del values["kv_lora_rank"]
    with pytest.raises(ConfigError, match="kv_lora_rank"):
        stock.architecture("x", "axk1", values)
