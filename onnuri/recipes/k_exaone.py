"""K-EXAONE (LG AI Research): 236B parameters, 23B active. Three layers in four see 128 tokens only,
and only these have RoPE.

Its multi-token prediction is not in its class in transformers, which ignores those weights, and so
not here. Run: `onnuri plan k_exaone`, `onnuri train k_exaone --preset nano`.
"""

from __future__ import annotations

from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.recipe import Recipe
from onnuri.recipes.system import ASSUMED, MEDIA, every, layers, stages, system

CLASS = "ExaoneMoeConfig's default in transformers 5.23"
CARD = "arXiv 2601.01739 and model card's config.json"
VALUES = {
    "vocab_size": (153_600, CARD),
    "hidden_size": (6144, CARD),
    "num_hidden_layers": (48, CARD),
    "mlp_layer_types": (layers(1, "dense", 48, "sparse"), CARD),
    "intermediate_size": (18_432, CARD),
    "num_attention_heads": (64, CARD),
    "num_key_value_heads": (8, CARD),
    "head_dim": (128, CARD),
    "sliding_window": (128, CARD),
    "sliding_window_pattern": ("LLLG", CARD),
    "layer_types": (every(4, 48), CARD),
    "num_experts": (128, CARD),
    "num_shared_experts": (1, CARD),
    "num_experts_per_tok": (8, CARD),
    "moe_intermediate_size": (2048, CARD),
    "n_group": (1, CLASS),
    "topk_group": (1, CLASS),
    "norm_topk_prob": (True, CLASS),
    "routed_scaling_factor": (2.5, CARD),
    "rope_parameters": ({"rope_type": "default", "rope_theta": 1_000_000.0}, CARD),
    "max_position_embeddings": (262_144, CARD),
    "rms_norm_eps": (1e-5, CLASS),
    "hidden_act": ("silu", CLASS),
    "tie_word_embeddings": (False, CLASS),
    "initializer_range": (0.02, CLASS),
}
NANO = {
    "num_hidden_layers": 8,
    "mlp_layer_types": layers(1, "dense", 8, "sparse"),
    "layer_types": every(4, 8),
    "sliding_window": 64,
    "intermediate_size": 576,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 192,
}
"""settings of the nano model that differ from these values (`nano.py`)"""


def recipe() -> Recipe:
    """Return the recipe on 512 B200, the number allotted in stage 1.

    Experts are spread over the 8 ranks of a node, 16 each, and sharded over 64 nodes; all sequences
    of a step are one micro-batch, so that weights are gathered once.
    """
    return system(
        "k_exaone",
        "LG AI Research",
        "K-EXAONE 236B-A23B",
        "exaone_moe",
        VALUES,
        MEDIA,
        stages(10e12, ASSUMED, 512, {"image": 0.15, "audio": 0.2, "video": 0.1}),
        ParallelConfig(dp=512, ep=8, micro_batch=8, recompute="full"),
        "B200",
        512,
        236e9,
        23e9,
    )
