"""Codecs of transformers' classes, small and random: no weights are published with the project."""

import torch

from onnuri.codecs.emu3 import Emu3Codec
from onnuri.codecs.mimi import MimiCodec

EMU3 = {
    "codebook_size": 50,
    "embed_dim": 2,
    "latent_channels": 2,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1],
    "num_res_blocks": 1,
    "hidden_size": 32,
    "attn_resolutions": [],
}
MIMI = {
    "codebook_size": 32,
    "codebook_dim": 8,
    "num_quantizers": 4,
    "hidden_size": 16,
    "num_filters": 4,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "upsample_groups": 16,
    "vector_quantization_hidden_dimension": 8,
}


def small_emu3():
    """Cells of 4 × 4 pixels, 8 × 6 at most."""
    torch.manual_seed(2)
    return Emu3Codec(Emu3Codec.Config(values=EMU3, max_height=8, max_width=6)).eval()


def small_mimi():
    """Three of four codebooks, three seconds at most."""
    torch.manual_seed(3)
    return MimiCodec(MimiCodec.Config(values=MIMI, codebooks=3, seconds=3.0)).eval()
