"""HyperCLOVA X SEED 8B Omni (Naver Cloud) as Onnuri trains it: dense, every modality in and out as
discrete tokens.

Naver's own model differs: images come in as continuous embeddings of a ViT beside their discrete
tokens, sounds as continuous Whisper-type features beside theirs, and what its tokens stand for is
drawn by a flow-matching transformer and a vocoder with a speaker's embedding (arXiv 2601.01792); it
sees videos and makes none, and knows no 3D. Here a modality is its codes, both ways, one next-token
loss trains all of it, and a codec alone decodes. The class is that of Naver's text models in
transformers. What the 8B model's attention and feed-forward look like was not published: those
values are the class's defaults, with heads as in the 32B model, and count 8.0B.

Run: `onnuri plan hyperclovax_omni`, `onnuri train hyperclovax_omni --preset nano`.
"""

from __future__ import annotations

from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.recipe import ModalityPlan, Recipe
from onnuri.recipes.system import ASSUMED, SHAPE, TEXT, stages, system

REPORT = "arXiv 2601.01792"
CLASS = "assumed: HyperCLOVAXConfig's default in transformers 5.23"
THINK = "assumed: as in HyperCLOVAX-SEED-Think-32B's config.json"
VALUES = {
    "vocab_size": (
        200_704,
        REPORT + ": text, 6,561 ids of sound from 128,606, 65,536 of images from 135,168",
    ),
    "hidden_size": (4096, REPORT),
    "num_hidden_layers": (36, REPORT),
    "intermediate_size": (11_008, CLASS),
    "num_attention_heads": (32, CLASS),
    "num_key_value_heads": (8, THINK),
    "head_dim": (128, THINK),
    "use_post_norm": (True, CLASS),
    "embedding_multiplier": (1.0, CLASS),
    "logits_scaling": (1.0, CLASS),
    "residual_multiplier": (1.0, CLASS),
    "attention_multiplier": (128**-0.5, THINK),
    "rope_parameters": ({"rope_type": "default", "rope_theta": 50_000_000.0}, THINK),
    "max_position_embeddings": (32_768, REPORT),
    "rms_norm_eps": (1e-5, THINK),
    "hidden_act": ("silu", CLASS),
    "attention_bias": (False, CLASS),
    "mlp_bias": (False, CLASS),
    "tie_word_embeddings": (False, CLASS),
    "initializer_range": (0.02, CLASS),
}
IMAGE = ModalityPlan(
    modality="image",
    codec="TA-Tok, 384 x 384 px",
    codes=0,
    tokens_per_item=729,
    encode_flops_per_token=0.86e9,
    source=f"{REPORT}: ids within the published vocabulary; "
    "FLOPs: twice SigLIP2-so400m's 428M a patch",
)
VIDEO = ModalityPlan(
    modality="video",
    codec="TA-Tok, one frame a second: the image's ids",
    codes=0,
    tokens_per_second=729,
    encode_flops_per_token=IMAGE.encode_flops_per_token,
    source=ASSUMED,
)
AUDIO = ModalityPlan(
    modality="audio",
    codec="CosyVoice2 FSQ",
    codes=0,
    tokens_per_second=25,
    encode_flops_per_token=0.6e9,
    source=f"{REPORT}: ids within the published vocabulary; FLOPs: {ASSUMED}",
)
NANO = {
    "num_hidden_layers": 6,
    "intermediate_size": 576,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "attention_multiplier": 32**-0.5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}
"""settings of the nano model that differ from these values (`nano.py`)"""


def recipe() -> Recipe:
    """Return the recipe on 512 B200, the number allotted to every team in stage 1.

    There is one copy per node, and all sequences of a step are one micro-batch.
    """
    return system(
        "hyperclovax_omni",
        "Naver Cloud",
        "HyperCLOVA X SEED 8B Omni",
        "hyperclovax",
        VALUES,
        (TEXT, IMAGE, AUDIO, VIDEO, SHAPE),
        stages(10e12, ASSUMED, 512, {"image": 0.2, "audio": 0.2, "video": 0.1, "shape": 0.05}),
        ParallelConfig(dp=512, micro_batch=8, sharding="hsdp", shard=8, recompute="selective"),
        "B200",
        512,
        8e9,
        8e9,
    )
