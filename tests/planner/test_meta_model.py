"""Architectures read on the meta device against small real models on the CPU: torch's parameters,
torch's FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from onnuri.errors import ConfigError
from onnuri.planner import meta_model
from onnuri.planner.architecture import Architecture

SMALL: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 8,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 2,
    "num_key_value_heads": 8,
}
TOKENS = 64


def config(kind: str, **values: Any) -> Any:
    return transformers.CONFIG_MAPPING[kind](**values)


def small(kind: str, layers: int = 2, **values: Any) -> Any:
    return config(kind, **{**SMALL, "num_hidden_layers": layers, **values})


def kinds() -> dict[str, Any]:
    """Every kind of decoder that its figures are read otherwise for."""
    text = {**SMALL, "num_hidden_layers": 2, "num_key_value_heads": 4, "head_dim": 16}
    vision = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 16,
    }
    return {
        "grouped": small("llama", num_key_value_heads=2),
        "tied": small("qwen2", num_key_value_heads=2, tie_word_embeddings=True),
        "normed queries": small("qwen3", num_key_value_heads=2, head_dim=32),
        "windows": small("gemma2", num_key_value_heads=2, head_dim=32, sliding_window=16),
        "Conv1D": config("gpt2", n_embd=128, n_layer=2, n_head=4, vocab_size=512, n_positions=256),
        "parallel": config(
            "gptj", n_embd=128, n_layer=2, n_head=4, vocab_size=512, n_positions=256, rotary_dim=16
        ),
        "one key": small(
            "falcon",
            num_hidden_layers=2,
            multi_query=True,
            new_decoder_architecture=False,
            parallel_attn=True,
        ),
        "fused": small("gpt_neox"),
        "narrow embedding": config(
            "opt",
            hidden_size=128,
            ffn_dim=256,
            num_attention_heads=4,
            vocab_size=512,
            num_hidden_layers=2,
            max_position_embeddings=256,
            word_embed_proj_dim=64,
        ),
        "mixture": small(
            "mixtral", num_key_value_heads=4, num_local_experts=4, num_experts_per_tok=2
        ),
        "many experts": small(
            "qwen3_moe",
            num_key_value_heads=4,
            head_dim=16,
            num_experts=8,
            num_experts_per_tok=3,
            moe_intermediate_size=48,
            decoder_sparse_step=1,
        ),
        "shared experts": small(
            "qwen2_moe",
            num_key_value_heads=4,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=48,
            shared_expert_intermediate_size=96,
        ),
        "latent": small("deepseek_v3", **LATENT),
        "hybrid": small(
            "jamba",
            4,
            num_key_value_heads=4,
            num_experts=4,
            num_experts_per_tok=2,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_d_state=8,
            mamba_dt_rank=8,
            use_mamba_kernels=False,
        ),
        "linear attention": small(
            "qwen3_next",
            4,
            num_key_value_heads=2,
            head_dim=32,
            num_experts=8,
            num_experts_per_tok=2,
            moe_intermediate_size=64,
            shared_expert_intermediate_size=64,
            linear_num_value_heads=4,
            linear_num_key_heads=2,
            linear_key_head_dim=32,
            linear_value_head_dim=32,
        ),
        "two modalities": config(
            "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4
        ),
        "states alone": config(
            "mamba",
            hidden_size=128,
            num_hidden_layers=2,
            vocab_size=512,
            state_size=8,
            use_mambapy=False,
        ),
    }


KINDS = tuple(kinds())
RECURRENCE = {"linear attention": 0.25, "hybrid": 0.02, "states alone": 0.02}
"""share of torch's FLOPs that the scan of a state may be, over the formulas' at this size"""


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_flops_are_those_of_torch(kind: str) -> None:
    made = kinds()[kind]
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForCausalLM.from_config(made).eval()
    reading = meta_model.read(made, kind)
    a = reading.architecture
    assert reading.total == sum(p.numel() for p in model.parameters())
    assert a.num_params() + sum(reading.left_out.values()) == reading.total
    counted = flops(model)
    formula = meta_model.forward(a.replace(extra_flops=0.0), TOKENS)
    assert formula == pytest.approx(counted, rel=RECURRENCE.get(kind, 0.02))
    assert meta_model.forward(a, TOKENS) == pytest.approx(counted, rel=0.02)


def flops(model: Any) -> float:
    """Forward FLOPs a token of the real model, its chosen experts as batched products."""
    for setting, value in (
        ("set_experts_implementation", "batched_mm"),
        ("set_attn_implementation", "eager"),
    ):
        if hasattr(model, setting):
            getattr(model, setting)(value)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(input_ids=torch.full((1, TOKENS), 5), use_cache=False)
    return counter.get_total_flops() / TOKENS


def read(kind: str) -> Architecture:
    return meta_model.read(kinds()[kind], kind).architecture


def test_heads_widths_and_experts_are_the_configs() -> None:
    grouped = read("grouped").blocks[0]
    assert grouped.attention and (
        grouped.attention.heads,
        grouped.attention.kv_heads,
        grouped.attention.head_dim,
    ) == (8, 2, 16)
    assert (grouped.count, grouped.mlp, grouped.gated, read("grouped").tied) == (
        2,
        256,
        True,
        False,
    )
    assert read("tied").tied
    plain = read("Conv1D")
    assert plain.positions == 256 and plain.blocks[0].mlp == 512 and not plain.blocks[0].gated
    one = read("one key").blocks[0].attention
    assert one and one.kv_heads == 1
    assert read("narrow embedding").embedding_width == 64
    many = read("many experts").blocks[0].experts
    assert many and (many.routed, many.topk, many.width, many.shared) == (8, 3, 48, 0)
    shared = read("shared experts").blocks[0].experts
    assert shared and (shared.shared, shared.shared_width) == (1, 96)


def test_latent_attention_and_leading_dense_layers() -> None:
    dense, sparse = read("latent").blocks
    at, experts = sparse.attention, sparse.experts
    assert at and experts and dense.mlp == 256 and not dense.experts
    assert (at.query_rank, at.kv_rank, at.rope_dim, at.head_dim, at.values) == (48, 32, 8, 16, 24)
    assert (
        experts.routed,
        experts.topk,
        experts.width,
        (experts.shared_width or 0) * experts.shared,
    ) == (8, 2, 64, 128)


def test_windows_stand_in_the_layers_that_have_them() -> None:
    assert [b.attention and b.attention.window for b in read("windows").blocks] == [16, None]


def test_state_space_layers_are_mixers_and_are_named() -> None:
    reading = meta_model.read(kinds()["hybrid"], "hybrid")
    mixers = [b for b in reading.architecture.blocks if b.mixer_params]
    assert mixers and all(b.attention is None and b.mixer_width == 256 for b in mixers)
    assert any(b.attention and b.attention.kv_heads == 4 for b in reading.architecture.blocks)
    assert any("state-space" in note for note in meta_model.notes(reading))
    assert meta_model.unplaced_share(reading) > 0.05


def test_tower_is_left_out_and_named() -> None:
    reading = meta_model.read(kinds()["two modalities"], "two")
    model: Any = transformers.AutoModelForCausalLM.from_config(kinds()["two modalities"])
    tower = sum(p.numel() for n, p in model.named_parameters() if "vision_tower" in n)
    assert reading.left_out["model.vision_tower"] == tower
    assert any("vision_tower" in note for note in meta_model.notes(reading))


def test_experts_that_no_config_names_are_assumed_aloud() -> None:
    values: dict[str, Any] = {**LATENT, "num_experts_per_tok": None}
    reading = meta_model.read(small("deepseek_v2", **values), "unsaid")
    assert any("experts a token" in note for note in meta_model.notes(reading))
    assert meta_model.unplaced_share(reading) == 1.0


def test_what_builds_no_decoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="no causal language model"):
        meta_model.read(config("vit"))
    with pytest.raises(ConfigError, match="builds no model"):
        meta_model.read(small("llama", hidden_size=-128))
