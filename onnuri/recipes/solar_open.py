"""Solar Open 100B (Upstage): 102.65B parameters, 12B active. Every layer has 128 experts; grouped
queries; no windows.

Run: `onnuri plan solar_open`, `onnuri train solar_open --preset nano`.
"""

from __future__ import annotations

from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.recipe import Recipe
from onnuri.recipes.system import MEDIA, stages, system

CLASS = "SolarOpenConfig's default in transformers 5.23"
CARD = "arXiv 2601.07022 and model card; the class's default"
VALUES = {
    "vocab_size": (196_608, CARD),
    "hidden_size": (4096, CARD),
    "num_hidden_layers": (48, CARD),
    "num_attention_heads": (64, CARD),
    "num_key_value_heads": (8, CARD),
    "head_dim": (128, CARD),
    "n_routed_experts": (128, CARD),
    "n_shared_experts": (1, CARD),
    "num_experts_per_tok": (8, CARD),
    "moe_intermediate_size": (1280, CARD),
    "n_group": (1, CLASS),
    "topk_group": (1, CLASS),
    "norm_topk_prob": (True, CLASS),
    "routed_scaling_factor": (1.0, CARD),
    "rope_parameters": ({"rope_type": "default", "rope_theta": 1_000_000.0}, CARD),
    "max_position_embeddings": (131_072, CARD),
    "rms_norm_eps": (1e-5, CARD),
    "hidden_act": ("silu", CLASS),
    "attention_bias": (False, CLASS),
    "tie_word_embeddings": (False, CLASS),
    "initializer_range": (0.02, CLASS),
}
NANO = {
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 192,
}
"""settings of the nano model that differ from these values (`nano.py`)"""


def recipe() -> Recipe:
    """Return the recipe on 480 B200, as published.

    There are 15 copies over 4 nodes each, for 480 ranks divide no dimension of the experts. Experts
    are spread over the 8 ranks of a node, 16 each; all sequences of a step are one micro-batch, so
    that weights are gathered once.
    """
    return system(
        "solar_open",
        "Upstage",
        "Solar Open 102.65B-A12B",
        "solar_open",
        VALUES,
        MEDIA,
        stages(19.7e12, "arXiv 2601.07022", 480, {"image": 0.15, "audio": 0.2, "video": 0.1}),
        ParallelConfig(dp=480, ep=8, micro_batch=8, sharding="hsdp", shard=32, recompute="full"),
        "B200",
        480,
        102.65e9,
        12e9,
    )
