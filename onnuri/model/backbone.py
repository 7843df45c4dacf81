"""This module builds, loads and saves causal language models of transformers, and is the only one
that names their classes.

It knows no modality. A config gives the number of parameters and the FLOPs per token before
anything is built.
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
from onnuri.inference import hf_forward, static_forward
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
"""model types, and the prefix of their classes' names; all but the last are in transformers"""


def build_hf_config(family: str, values: dict[str, Any]) -> Any:
    """Return a model family's configuration in transformers' class. Raises ConfigError for an
    unknown family."""
    if family not in FAMILIES:
        raise ConfigError(f"family {family!r}", "is not known", f"use one of {', '.join(FAMILIES)}")
    hf_config = getattr(_classes(family), f"{FAMILIES[family]}Config")(**values)
    # the classes' defaults are ids of other vocabularies
    hf_config.bos_token_id = hf_config.eos_token_id = hf_config.pad_token_id = None
    return hf_config


def build_hf_model(family: str, values: dict[str, Any]) -> nn.Module:
    """Return a family's causal language model with random weights, on the default device (`meta`
    for shapes alone)."""
    _register()
    model_class = getattr(_classes(family), f"{FAMILIES[family]}ForCausalLM")
    return replace_indexers(model_class(build_hf_config(family, values)))


def replace_indexers(model: nn.Module) -> nn.Module:
    """Make A.X K2's sparse attention dense in place, by indexers that select every key.

    This is A.X K2 before its indexers are trained, which is done once sequences get long (arXiv
    2608.30181). For sequences no longer than the number of keys that they select, the function is
    the same. Other models stay as they are.
    """
    for module in model.modules():
        if hasattr(module, "indexer"):
            module.indexer = _AllKeys()
            module.register_forward_pre_hook(_add_mask, with_kwargs=True)
    return model


class _AllKeys(nn.Module):
    """An indexer of sparse attention that selects every key."""

    def forward(
        self,
        hidden: torch.Tensor,
        query: torch.Tensor,
        turns: Any,
        mask: torch.Tensor,
        *rest: Any,
        **named: Any,
    ) -> torch.Tensor:
        """Return the index of every key for every query, int64 [B, T, keys]."""
        return torch.arange(mask.shape[-1], device=hidden.device).expand(*hidden.shape[:2], -1)


def _add_mask(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add an empty mask to a call without one: the class slices a mask for its indexer, and our
    attentions have none."""
    if kwargs["attention_mask"] is None:
        kwargs = kwargs | {"attention_mask": torch.zeros(1, 1, 1, 1)}
    return args, kwargs


def _classes(family: str) -> Any:
    """Return the module with a family's classes; importing ours registers them in transformers."""
    if family == "vaetki":
        from onnuri.model import vaetki

        return vaetki
    import transformers

    return transformers


class BackboneConfig(config.Config):
    """A BackboneConfig describes a Llama-class decoder with tied embeddings."""

    vocabulary: int
    """rows of the embedding"""
    width: int = 256
    """channels of the hidden states"""
    layers: int = 6
    heads: int = 4
    hidden: int = 704
    """channels inside the gated feed-forward"""
    rope_theta: float = 10_000.0
    longest: int = 2048
    """longest sequence, in tokens"""

    def build(self) -> nn.Module:
        """Return a LlamaForCausalLM with random weights."""
        from transformers import LlamaForCausalLM

        _register()
        return LlamaForCausalLM(self.to_transformers())

    def to_transformers(self) -> Any:
        """Return the LlamaConfig of this decoder."""
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


def load(folder: Path, device: str = "cpu") -> nn.Module:
    """Return the causal language model of a Hugging Face folder on a device, in evaluation mode: in
    float32 on a CPU, elsewhere in the 16 bits in which its weights are stored (bfloat16 if they
    have more)."""
    from transformers import AutoModelForCausalLM

    _register()
    register_own(folder)
    dtype = torch.float32 if device == "cpu" else stored_dtype(folder) or torch.bfloat16
    with no_bars():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    return replace_indexers(model).eval().to(device)


def outline(folder: Path) -> nn.Module:
    """Return the model of a Hugging Face folder on the meta device: its config and shapes without
    weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    _register()
    register_own(folder)
    hf_config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        return replace_indexers(AutoModelForCausalLM.from_config(hf_config)).eval()


def register_own(folder: Path) -> None:
    """Register in transformers the model class of ours that a folder's config.json names, if it
    names one."""
    path = folder / "config.json"
    if path.exists():  # if it does not, transformers' own error says so
        family = json.loads(path.read_text(encoding="utf-8")).get("model_type")
        if family in FAMILIES:
            _classes(family)


@contextmanager
def no_bars() -> Iterator[None]:
    """Switch off transformers' progress bars per file: ours load in a tenth of a second."""
    from transformers.utils import logging

    were_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            logging.enable_progress_bar()


def stored_dtype(folder: Path) -> torch.dtype | None:
    """Return the 16-bit dtype in which a folder's weights are stored; None if its config.json names
    neither bfloat16 nor float16."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = values.get("dtype", values.get("torch_dtype"))  # transformers' older name
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name)


def save(
    model: nn.Module, folder: Path, begin: int, end: int, pad: int, dtype: torch.dtype | None = None
) -> None:
    """Write config and 16-bit safetensors in the format of `from_pretrained`.

    `begin`, `end` and `pad` are the ids that begin, end and pad a sequence. Without a `dtype`
    weights keep their own if it has 16 bits, else they become float16; if any is beyond float16's
    range (65,504), all are written as bfloat16.
    """
    import copy

    own = next(p.dtype for p in model.parameters() if p.is_floating_point())
    dtype = dtype or (own if own in (torch.bfloat16, torch.float16) else torch.float16)
    largest = torch.finfo(torch.float16).max
    if dtype is torch.float16 and any(bool((p.abs() > largest).any()) for p in model.parameters()):
        dtype = torch.bfloat16
    converted: Any = copy.deepcopy(model).to(dtype)
    _set_special_ids(converted.config, converted.generation_config, begin, end, pad)
    with no_bars():
        converted.save_pretrained(folder)


def _set_special_ids(hf_config: Any, settings: Any, begin: int, end: int, pad: int) -> None:
    """Set the ids that begin, end and pad a sequence in a model's config and generation
    settings."""
    # servers stop at these; the config's own pad id stays unset, since it would freeze that row of
    # the embedding
    hf_config.bos_token_id, hf_config.eos_token_id = begin, end
    settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = begin, end, pad


def save_settings(
    model: Any, folder: Path, dtype: torch.dtype, special_ids: tuple[int, int, int] | None = None
) -> None:
    """Write config.json and generation_config.json as `save_pretrained` would for a model whose
    weights have a dtype; the model may be sharded.

    `special_ids` are those that begin, end and pad a sequence; None: the model's own.
    """
    import copy

    hf_config, settings = copy.deepcopy((model.config, model.generation_config))
    if special_ids:
        _set_special_ids(hf_config, settings, *special_ids)
    hf_config.dtype = str(dtype).removeprefix("torch.")
    # FSDP gives a sharded model a class of its own, named after the model's
    hf_config.architectures = [type(model).__name__.removeprefix("FSDP")]
    hf_config.save_pretrained(folder)
    if settings is not None:
        settings.save_pretrained(folder)


def hidden_states(
    model: nn.Module, ids: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Return the last hidden states [1, T, C] of sequences packed end to end.

    `ids` and `positions` are [1, T]; `lengths` [N], on the host, sum to T.
    """
    core: Any = model.model
    if core.config._attn_implementation != attention.NAME:
        _register()
        core.set_attn_implementation(attention.NAME)
    sequences = attention.RowSequences(lengths.tolist(), ids.device)
    return core(
        input_ids=ids, position_ids=positions, use_cache=False, sequences=sequences
    ).last_hidden_state


@functools.cache
def _register() -> None:
    """Register our attention functions in transformers under their names; models with other
    settings are not affected."""
    from transformers import AttentionInterface

    attention.register()
    AttentionInterface.register(hf_forward.NAME, hf_forward.rows_attention)
    AttentionInterface.register(static_forward.NAME, static_forward.static_attention)


def compute_device(module: nn.Module) -> torch.device:
    """Return the device on which a module computes: that of its buffers, since its weights may be
    kept in the host's memory; of its weights if it has no buffer."""
    tensor = next(module.buffers(), None)
    return (next(module.parameters()) if tensor is None else tensor).device


def embedding(model: nn.Module) -> torch.Tensor:
    """Return the weights of the input embedding [vocabulary, C]."""
    core: Any = model
    weight: torch.Tensor = core.get_input_embeddings().weight
    return weight


def save_tokenizer(tokenizer: Any, specials: tuple[str, ...], folder: Path) -> None:
    """Write tokenizer files that `AutoTokenizer` loads; special tokens take the ids after the
    text's."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    PreTrainedTokenizerFast(
        tokenizer_object=copied,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def positions(model: nn.Module) -> int:
    """Return the longest sequence, in tokens, that a model supports."""
    return int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
