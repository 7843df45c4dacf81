"""A.X K2 (SKT): 688B parameters, 33B active. A.X K1's dimensions with 256 experts; attention's
output and the norms are gated.

As it is before sparse attention: its team adds the indexer, which lets a query read 2,048
positions, by a warm-up at 128K tokens. transformers' class runs an indexer without a gradient, so
nothing could learn it; here it is taken out (`model/backbone.py`), and a plan counts dense
attention. Not here either: native MXFP8, which Onnuri's trainer has not. The class makes queries
and gates by one matrix that sees the compressed query twice; in the published weights the half of
it that would mix the two is zero (llama.cpp PR 26757), trained from scratch it is not: 1.9B more
than published, all of them active. Run: `onnuri plan axk2`, `onnuri train axk2 --preset nano`.
"""

from __future__ import annotations

from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.recipe import Recipe
from onnuri.recipes import axk1
from onnuri.recipes.system import MEDIA, layers, stages, system

REPORT = "arXiv 2608.30181, abstract"
PORT = "SKT's configuration_axk2.py and sgl-project/sglang PR 36337: their defaults"
VALUES = {
    "vocab_size": (163_840, PORT),
    "hidden_size": (7168, PORT),
    "num_hidden_layers": (61, PORT),
    "mlp_layer_types": (layers(1, "dense", 61, "sparse"), PORT),
    "intermediate_size": (18_432, PORT),
    "num_attention_heads": (64, PORT),
    "num_key_value_heads": (64, PORT),
    "q_lora_rank": (1536, PORT),
    "kv_lora_rank": (512, PORT),
    "qk_rope_head_dim": (64, PORT),
    "qk_nope_head_dim": (128, PORT),
    "v_head_dim": (128, PORT),
    "gated_norm_rank": (16, PORT),
    "n_routed_experts": (256, PORT + "; with them the count is what was published"),
    "n_shared_experts": (1, PORT),
    "num_experts_per_tok": (8, PORT),
    "moe_intermediate_size": (2048, PORT),
    "n_group": (8, PORT),
    "topk_group": (4, PORT),
    "norm_topk_prob": (True, PORT),
    "routed_scaling_factor": (2.5, PORT),
    "rope_parameters": (
        {"rope_type": "default", "rope_theta": 1_000_000.0},
        "sgl-project/sglang PR 36337: its default",
    ),
    "max_position_embeddings": (131_072, REPORT + ": trained at 128K"),
    "rms_norm_eps": (1e-6, PORT),
    "hidden_act": ("silu", PORT),
    "attention_bias": (False, PORT),
    "tie_word_embeddings": (False, PORT),
    "initializer_range": (0.02, PORT),
}
NANO = axk1.NANO | {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    "gated_norm_rank": 8,
}
"""settings of the nano model that differ from these values (`nano.py`)"""


def recipe() -> Recipe:
    """Return the recipe on 1,024 B200, which is assumed: as many GPUs as for A.X K1, of a kind that
    has MXFP8.

    Experts are spread over the 8 ranks of a node, 32 each, and sharded over 128 nodes; all
    sequences of a step are one micro-batch.
    """
    return system(
        "axk2",
        "SKT",
        "A.X K2 688B-A33B before sparse attention",
        "axk2",
        VALUES,
        MEDIA,
        stages(8.5e12, REPORT, 1024, {"image": 0.15, "audio": 0.2, "video": 0.1}),
        ParallelConfig(dp=1024, ep=8, micro_batch=8, recompute="full"),
        "B200",
        1024,
        688e9,
        33e9,
    )
