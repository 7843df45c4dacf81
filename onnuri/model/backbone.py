"""The stock decoder under everything: the only file that names classes of transformers.

Knows no media. A config answers how large the model is and what a token costs before anything is
built.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onnuri import config
from onnuri.errors import ConfigError
from onnuri.inference import hf_forward
from onnuri.model import attention

FAMILIES = {
    "llama": "Llama",
    "hyperclovax": "HyperCLOVAX",
    "solar_open": "SolarOpen",
    "exaone_moe": "ExaoneMoe",
    "axk1": "AXK1",
    "axk2": "AXK2",
    "vaetki": "Vaetki",
}
"""model types, and how their classes' names begin; all but the last are in transformers"""


def stock_config(family: str, values: dict[str, Any]) -> Any:
    """A family's configuration. Raises ConfigError for an unknown family."""
    if family not in FAMILIES:
        raise ConfigError(f"family {family!r}", "is not known", f"use one of {', '.join(FAMILIES)}")
    made = getattr(_classes(family), f"{FAMILIES[family]}Config")(**values)
    made.bos_token_id = made.eos_token_id = made.pad_token_id = (
        None  # the classes' own are ids of other vocabularies
    )
    return made


def stock_model(family: str, values: dict[str, Any]) -> nn.Module:
    """A family's causal language model with fresh weights, on the device that is in force (`meta`
    for its shapes alone)."""
    _register()
    return dense(
        getattr(_classes(family), f"{FAMILIES[family]}ForCausalLM")(stock_config(family, values))
    )


def dense(model: nn.Module) -> nn.Module:
    """A.X K2 before sparse attention: without the indexers, which are added when sequences get long
    (arXiv 2608.30181). Where a sequence is no longer than what they choose, the function is the
    same."""
    for module in model.modules():
        if hasattr(module, "indexer"):
            module.indexer = _All()
            module.register_forward_pre_hook(_masked, with_kwargs=True)
    return model


class _All(nn.Module):
    """Where an indexer stands: chooses every key."""

    def forward(
        self,
        hidden: torch.Tensor,
        query: torch.Tensor,
        turns: Any,
        mask: torch.Tensor,
        *rest: Any,
        **named: Any,
    ) -> torch.Tensor:
        """[B, T, keys]"""
        return torch.arange(mask.shape[-1], device=hidden.device).expand(*hidden.shape[:2], -1)


def _masked(
    module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The class slices a mask for its indexer, and our attentions have none."""
    mask = named["attention_mask"]
    return given, named | {"attention_mask": torch.zeros(1, 1, 1, 1) if mask is None else mask}


def _classes(family: str) -> Any:
    """Where a family's classes are; ours make themselves known to transformers when they are
    read."""
    if family == "vaetki":
        from onnuri.model import vaetki

        return vaetki
    import transformers

    return transformers


class BackboneConfig(config.Config):
    """A Llama-class decoder with tied embeddings."""

    vocabulary: int
    width: int = 256
    layers: int = 6
    heads: int = 4
    hidden: int = 704
    """width of the gated feed-forward"""
    rope_theta: float = 10_000.0
    longest: int = 2048
    """positions"""

    def build(self) -> nn.Module:
        """A LlamaForCausalLM with fresh weights."""
        from transformers import LlamaForCausalLM

        _register()
        return LlamaForCausalLM(self.to_transformers())

    def to_transformers(self) -> Any:
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            intermediate_size=self.hidden,
            max_position_embeddings=self.longest,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            rms_norm_eps=1e-5,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )  # type: ignore[call-arg]

    def num_params(self) -> int:
        """Weights, tied embeddings counted once."""
        layer = 4 * self.width**2 + 3 * self.width * self.hidden + 2 * self.width
        return self.vocabulary * self.width + self.layers * layer + self.width

    def flops_per_token(self, context: int) -> int:
        """Forward and backward of one token: 6 a weight in a product, 12 a layer, width and
        position of attention (Kaplan et al. 2020, arXiv 2001.08361, and PaLM's appendix B, arXiv
        2204.02311)."""
        weights = self.num_params() - (2 * self.layers + 1) * self.width
        return 6 * weights + 12 * self.layers * self.width * context // 2


def load(folder: Path) -> nn.Module:
    """The stock model of a Hugging Face folder, in fp32."""
    from transformers import AutoModelForCausalLM

    _register()
    _known(folder)
    with _no_bars():
        return dense(
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        ).eval()


def outline(folder: Path) -> nn.Module:
    """The same without weights: its shapes and its config, on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    _register()
    _known(folder)
    with torch.device("meta"):
        return dense(
            AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder, local_files_only=True)
            )
        ).eval()


def _known(folder: Path) -> None:
    """Makes a class of ours that the folder names known to transformers."""
    named = folder / "config.json"
    if named.exists():  # else transformers says so
        family = json.loads(named.read_text(encoding="utf-8")).get("model_type")
        if family in FAMILIES:
            _classes(family)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars that transformers draws for every file: ours are read in a tenth of a
    second."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


def stored_dtype(folder: Path) -> torch.dtype | None:
    """Return the 16-bit type in which a folder's weights are stored; None where its config.json
    names none of the two."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = values.get("dtype", values.get("torch_dtype"))  # the older name of transformers
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name)


def save(
    model: nn.Module, folder: Path, begin: int, end: int, pad: int, dtype: torch.dtype | None = None
) -> None:
    """Write the config and 16-bit safetensors, as `from_pretrained` reads them, with the ids that
    begin, end and pad.

    `dtype`: of the weights; without it, their own if that has 16 bits, else float16. What float16
    would turn into infinity (beyond 65,504) is written as bfloat16.
    """
    import copy

    own = next(p.dtype for p in model.parameters() if p.is_floating_point())
    dtype = dtype or (own if own in (torch.bfloat16, torch.float16) else torch.float16)
    largest = torch.finfo(torch.float16).max
    if dtype is torch.float16 and any(bool((p.abs() > largest).any()) for p in model.parameters()):
        dtype = torch.bfloat16
    half: Any = copy.deepcopy(model).to(dtype)
    # servers stop at these; the config's own pad stays unset, for it would freeze that row of the
    # embedding
    half.config.bos_token_id, half.config.eos_token_id = begin, end
    settings = half.generation_config
    settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = begin, end, pad
    with _no_bars():
        half.save_pretrained(folder)


def hidden_states(
    model: nn.Module, ids: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Last hidden states [1, T, C] of sequences packed end to end: ids and positions [1, T],
    lengths [N] that sum to T."""
    core: Any = model.model
    if core.config._attn_implementation != attention.NAME:
        _register()
        core.set_attn_implementation(attention.NAME)
    return core(
        input_ids=ids, position_ids=positions, use_cache=False, lengths=lengths.tolist()
    ).last_hidden_state


@functools.cache
def _register() -> None:
    """Makes our attentions known to transformers under their names; models with other settings are
    not touched."""
    from transformers import AttentionInterface

    attention.register()
    AttentionInterface.register(hf_forward.NAME, hf_forward.rows_attention)


def embedding(model: nn.Module) -> torch.Tensor:
    """The embedding [vocabulary, C]."""
    core: Any = model
    weight: torch.Tensor = core.get_input_embeddings().weight
    return weight


def save_tokenizer(tokenizer: Any, specials: tuple[str, ...], folder: Path) -> None:
    """Tokenizer files that `AutoTokenizer` loads, special tokens behind the text's."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    own = Tokenizer.from_str(tokenizer.to_str())
    own.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def positions(model: nn.Module) -> int:
    """Longest sequence that the model knows."""
    return int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
