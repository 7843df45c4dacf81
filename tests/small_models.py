"""Small random models: causal language models with a tokenizer, as transformers writes them, and a
model of pictures."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from onnuri.codecs.grid import GridCodec, GridConfig
from onnuri.codecs.text import TextCodec
from onnuri.model.backbone import BackboneConfig
from onnuri.model.omni import OmniModel, new_layout
from onnuri.model.word_list import WordListFrontEnd

ROWS = 320
"""of the models' embeddings"""
WORDS = 289
"""tokens of the tokenizer"""
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": ROWS,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
FAMILIES = {
    "mistral": {},
    "olmo2": {},
    "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 16},
    "phi3": {},
    "mixtral": {"num_local_experts": 4},
    "cohere": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": {"num_key_value_heads": None},
}
PICTURE_WORDS = ["사과", "red apple", "draw", "dog and cat", "그려 줘", "ball", "what is this"]
"""words that a model of pictures knows"""
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def pictures():
    """A model of pictures of 16 pixels that has learned nothing but its words."""
    torch.manual_seed(0)
    codec = GridCodec(GridConfig(side=16, stem=4, strides=(), widths=(16,), cell_blocks=1))
    text = TextCodec.learn(PICTURE_WORDS, 300)
    codecs = {"text": text, "image": codec.eval().requires_grad_(False)}
    layout = new_layout(codecs, tasks=True)
    shape = {"width": 32, "layers": 1, "heads": 2, "hidden": 48, "longest": 512}
    network = BackboneConfig(vocabulary=layout.size, **shape).build()
    return OmniModel(network, codecs, layout, front_end=WordListFrontEnd.learn(PICTURE_WORDS))


def tokenizer(begins=True):
    """Bytes and a few merges: fewer tokens than the models have rows."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    made.train_from_iterator(
        ["a red cube is left of a blue ball", "빨간 공"] * 3,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", **({"bos_token": "<s>"} if begins else {})
    )
    fast.chat_template = TEMPLATE
    return fast


def written(folder, family, dtype=torch.float32):
    """A random model of a family with its tokenizer, as transformers writes them."""
    torch.manual_seed(0)
    values = {
        k: v
        for k, v in {**SMALL, **FAMILIES[family]}.items()
        if v is not None or k == "pad_token_id"
    }
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values), dtype=dtype)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model.eval()


def likeliest_ids(network, prompt, count):
    """What transformers' `generate` says after a prompt, always the likeliest id."""
    ids = torch.tensor([prompt])
    made = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        pad_token_id=0,
        eos_token_id=None,
    )
    return made[0, len(prompt) :].tolist()
