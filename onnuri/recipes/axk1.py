"""A.X K1 (SKT): 519B parameters, 33B active. Multi-head latent attention, 192 experts in groups, a
norm behind them.

What is not in its class in transformers is not here: its multi-token prediction. Run: `onnuri plan
axk1`, `onnuri train axk1 --preset nano`.
"""

from __future__ import annotations

from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.recipe import Recipe
from onnuri.recipes.system import MEDIA, layers, stages, system

CLASS = "AXK1Config's default in transformers 5.23"
CARD = "arXiv 2601.09200 and model card; the class's default"
VALUES = {
    "vocab_size": (163_840, CARD),
    "hidden_size": (7168, CARD),
    "num_hidden_layers": (61, CARD),
    "mlp_layer_types": (layers(1, "dense", 61, "sparse"), CARD),
    "intermediate_size": (18_432, CARD),
    "num_attention_heads": (64, CARD),
    "num_key_value_heads": (64, CARD),
    "q_lora_rank": (1536, CARD),
    "kv_lora_rank": (512, CARD),
    "qk_rope_head_dim": (64, CARD),
    "qk_nope_head_dim": (128, CARD),
    "v_head_dim": (128, CARD),
    "n_routed_experts": (192, CARD),
    "n_shared_experts": (1, CARD),
    "num_experts_per_tok": (8, CARD),
    "moe_intermediate_size": (
        2048,
        "the class's default; fits 519B and the card, where a third party says 2560",
    ),
    "n_group": (8, CARD),
    "topk_group": (4, CARD),
    "norm_topk_prob": (True, CLASS),
    "routed_scaling_factor": (2.5, CARD),
    "rope_parameters": (
        {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32_768,
        },
        "model card's config.json",
    ),
    "rope_interleave": (True, CLASS),
    "max_position_embeddings": (131_072, "model card's config.json"),
    "rms_norm_eps": (1e-6, CLASS),
    "hidden_act": ("silu", CLASS),
    "attention_bias": (False, CLASS),
    "tie_word_embeddings": (False, CLASS),
    "initializer_range": (0.02, CLASS),
}
NANO = {
    "num_hidden_layers": 6,
    "mlp_layer_types": layers(1, "dense", 6, "sparse"),
    "intermediate_size": 576,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 96,
    "kv_lora_rank": 96,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 48,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 192,
    "n_group": 4,
    "topk_group": 2,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 512,
    },
}
"""settings of the nano model that differ from these values (`nano.py`)"""


def recipe() -> Recipe:
    """Return the recipe on 1,024 H200, which one summary of the report names, with 75 days.

    Experts are spread over the 8 ranks of a node, 24 each, and sharded over 128 nodes; all
    sequences of a step are one micro-batch, so that weights are gathered once.
    """
    return system(
        "axk1",
        "SKT",
        "A.X K1 519B-A33B",
        "axk1",
        VALUES,
        MEDIA,
        stages(
            10e12, "about 10T, arXiv 2601.09200", 1024, {"image": 0.15, "audio": 0.2, "video": 0.1}
        ),
        ParallelConfig(dp=1024, ep=8, micro_batch=8, recompute="full"),
        "H200",
        1024,
        519e9,
        33e9,
    )
