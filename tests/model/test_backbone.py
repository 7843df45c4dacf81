"""Stock classes: each feature of a configuration is seen in the logits, and packed sequences are
what they are alone."""

import pytest
import torch
from torch import nn

from onnuri import recipes
from onnuri.errors import ConfigError
from onnuri.model import backbone
from onnuri.recipes.nano import nano

SYSTEMS = (*recipes.NAMES, *recipes.LATER)
VOCABULARY = 90
WINDOWED = {"k_exaone": "sliding_window", "vaetki": "sliding_window"}
NORMS = (nn.RMSNorm, nn.LayerNorm)
CHANGES = [
    *((name, "sliding_window", 5) for name in WINDOWED),
    ("k_exaone", "layer_types", ["sliding_attention"] * 8),
    ("vaetki", "layer_types", ["sliding_attention"] * 6),
    *((name, "routed_scaling_factor", 1.7) for name in SYSTEMS if name != "hyperclovax_omni"),
    *((name, "norm_topk_prob", False) for name in SYSTEMS if name != "hyperclovax_omni"),
    *((name, "num_experts_per_tok", 3) for name in SYSTEMS if name != "hyperclovax_omni"),
    *(
        (name, field, value)
        for name in ("axk1", "axk2")
        for field, value in (("n_group", 2), ("topk_group", 1))
    ),
    ("solar_open", "n_group", 4),
    ("k_exaone", "n_group", 4),
    ("axk1", "rope_interleave", False),
    ("vaetki", "rope_interleave", False),
    ("axk1", "rope_parameters", {"rope_type": "default", "rope_theta": 10_000.0}),
    *((name, "rope_parameters", {"rope_type": "default", "rope_theta": 300.0}) for name in SYSTEMS),
    *((name, "rms_norm_eps", 0.1) for name in SYSTEMS),
    *((name, "hidden_act", "gelu") for name in SYSTEMS),
    ("hyperclovax_omni", "attention_multiplier", 0.5),
    ("hyperclovax_omni", "embedding_multiplier", 2.0),
    ("hyperclovax_omni", "residual_multiplier", 0.5),
    ("hyperclovax_omni", "logits_scaling", 0.5),
]
"""values that leave every weight's shape as it is: a checkpoint loads, and is another network"""
SHAPES = [
    ("axk1", "kv_lora_rank", 64),
    ("axk1", "q_lora_rank", 64),
    ("vaetki", "kv_lora_rank", 64),
    ("axk1", "n_shared_experts", 2),
    ("axk2", "gated_norm_rank", 4),
    ("axk2", "q_lora_rank", 64),
    ("solar_open", "n_shared_experts", 2),
    ("k_exaone", "num_shared_experts", 2),
    ("vaetki", "n_shared_experts", 2),
    ("axk1", "qk_rope_head_dim", 32),
    ("solar_open", "num_key_value_heads", 4),
    ("hyperclovax_omni", "use_post_norm", False),
    ("axk1", "mlp_layer_types", ["sparse"] * 6),
    ("axk1", "v_head_dim", 32),
]
"""values that change shapes or weights: a checkpoint must not load"""


def values_of(name, **changes):
    small = {"sliding_window": 8} if name in WINDOWED else {}
    return {**nano(name).values, "vocab_size": VOCABULARY, **small, **changes}


def built(name, **changes):
    torch.manual_seed(2)
    model = backbone.build_hf_model(recipes.find(name).family, values_of(name, **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():  # larger than at the start, so that no feature drowns
            p.mul_(4) if p.ndim > 1 else None
    return model


@pytest.fixture(scope="module")
def models():
    return {name: built(name) for name in SYSTEMS}


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(4))


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


@pytest.mark.parametrize("name,field,value", CHANGES, ids=lambda x: str(x)[:30])
def test_a_feature_that_is_changed_is_seen(models, ids, name, field, value):
    assert nano(name).values[field] != value
    other = backbone.build_hf_model(
        recipes.find(name).family, values_of(name, **{field: value})
    ).eval()
    other.load_state_dict(models[name].state_dict())
    assert (logits(other, ids) - logits(models[name], ids)).abs().max() > 1e-3


@pytest.mark.parametrize("name,field,value", SHAPES, ids=lambda x: str(x)[:30])
def test_a_feature_that_has_weights_does_not_load(models, name, field, value):
    other = backbone.build_hf_model(recipes.find(name).family, values_of(name, **{field: value}))
    with pytest.raises(RuntimeError, match="loading state_dict"):
        other.load_state_dict(models[name].state_dict())


def first_attention(model, ids):
    """What the first layer's attention gives the last token."""
    seen = []
    hook = model.model.layers[0].self_attn.register_forward_hook(
        lambda m, args, out: seen.append(out[0][0, -1])
    )
    logits(model, ids)
    hook.remove()
    return seen[0]


def test_only_sliding_layers_know_places(ids):
    """K-EXAONE: without them a sequence's order does not matter to what its last token sees; with
    them it does."""
    everywhere = {"layer_types": ["full_attention"] * 8}
    turned = torch.cat([ids[:, :-1].flip(1), ids[:, -1:]], 1)
    full = built("k_exaone", **everywhere)
    # attention behind the first layer sees states that saw less; the first layer alone is a set
    for model, same in ((full, True), (built("k_exaone"), False)):
        seen = [first_attention(model, order) for order in (ids, turned)]
        assert torch.allclose(*seen, atol=1e-4) is same


@pytest.mark.parametrize("name", SYSTEMS)
def test_packed_sequences_are_what_they_are_alone(models, ids, name):
    model = models[name]
    parts = ids.split([23, 1, 16], 1)
    with torch.no_grad():
        alone = torch.cat([model.model(input_ids=p).last_hidden_state for p in parts], 1)
    positions = torch.cat([torch.arange(p.shape[1]) for p in parts])[None]
    with torch.no_grad():
        packed = backbone.hidden_states(model, ids, positions, torch.tensor([23, 1, 16]))
    model.set_attn_implementation("sdpa")
    assert torch.allclose(packed, alone, atol=1e-3, rtol=1e-3)


def test_without_indexers_short_sequences_are_what_the_class_makes_of_them(models, ids):
    """A.X K2: an indexer that may choose more keys than there are chooses all; one that may not is
    another network."""
    from transformers import AXK2ForCausalLM

    assert not any("indexer" in name for name in models["axk2"].state_dict())
    made = []
    for topk in (40, 5):
        plain = AXK2ForCausalLM(
            backbone.build_hf_config("axk2", values_of("axk2", index_topk=topk))
        ).eval()
        missing, unexpected = plain.load_state_dict(models["axk2"].state_dict(), strict=False)
        assert not unexpected and all("indexer" in name for name in missing)
        made.append(logits(plain, ids))
    assert torch.allclose(made[0], logits(models["axk2"], ids), atol=1e-4)
    assert not torch.allclose(made[1], made[0], atol=1e-3)


def test_an_unknown_family_is_one_line():
    with pytest.raises(ConfigError, match="use one of llama"):
        backbone.build_hf_config("gpt9", {})
