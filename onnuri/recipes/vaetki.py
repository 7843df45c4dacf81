"""VAETKI (NC AI): 112B parameters, 10B active, and 3D as a modality. MLA, windows in five layers of
six, four norms a layer.

Its class is ours (`model/vaetki.py`), for transformers has none. Run: `onnuri plan vaetki`,
`onnuri train vaetki --preset nano`.
"""

from __future__ import annotations

from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.recipe import Recipe
from onnuri.recipes.system import ASSUMED, MEDIA, SHAPE, every, layers, stages, system

CARD = "model card's config.json, as in serithemage/korea-ai-foundation-model-verification"
LLAMA = "llama.cpp PR 18719"
VALUES = {
    "vocab_size": (137_216, CARD),
    "hidden_size": (3072, CARD),
    "num_hidden_layers": (48, CARD),
    "mlp_layer_types": (layers(3, "dense", 48, "sparse"), CARD),
    "layer_types": (every(6, 48), CARD),
    "sliding_window": (512, CARD),
    "intermediate_size": (18_432, CARD),
    "num_attention_heads": (24, CARD),
    "num_key_value_heads": (24, CARD),
    "q_lora_rank": (1536, CARD),
    "kv_lora_rank": (512, CARD),
    "qk_rope_head_dim": (64, CARD),
    "qk_nope_head_dim": (128, CARD),
    "v_head_dim": (128, "inferred: with it the count is what was published"),
    "n_routed_experts": (128, CARD),
    "n_shared_experts": (1, CARD),
    "num_experts_per_tok": (8, CARD),
    "moe_intermediate_size": (2048, CARD),
    "norm_topk_prob": (True, LLAMA),
    "routed_scaling_factor": (2.5, LLAMA),
    "rope_parameters": ({"rope_type": "default", "rope_theta": 10_000.0}, CARD),
    "rope_interleave": (True, LLAMA),
    "max_position_embeddings": (131_072, CARD + "; its card says 32k"),
    "rms_norm_eps": (1e-5, ASSUMED),
    "hidden_act": ("silu", ASSUMED),
    "attention_bias": (False, ASSUMED),
    "tie_word_embeddings": (False, "inferred: with it the count is what was published"),
    "initializer_range": (0.02, ASSUMED),
}
NANO = {
    "num_hidden_layers": 6,
    "mlp_layer_types": layers(1, "dense", 6, "sparse"),
    "layer_types": every(6, 6),
    "sliding_window": 64,
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
}
"""settings of the nano model that differ from these values (`nano.py`)"""


def recipe() -> Recipe:
    """Return the recipe on 512 B200, the number allotted to every team in stage 1.

    There are 16 copies over 4 nodes each. Experts are spread over the 8 ranks of a node, 16 each;
    all sequences of a step are one micro-batch, so that weights are gathered once.
    """
    return system(
        "vaetki",
        "NC AI",
        "VAETKI 112B-A10B",
        "vaetki",
        VALUES,
        (*MEDIA, SHAPE),
        stages(9.8e12, CARD, 512, {"image": 0.12, "audio": 0.15, "video": 0.08, "shape": 0.1}),
        ParallelConfig(dp=512, ep=8, micro_batch=8, sharding="hsdp", shard=32, recompute="full"),
        "B200",
        512,
        112.2e9,
        10.1e9,
    )
