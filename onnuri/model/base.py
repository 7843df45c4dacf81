"""This module loads any causal language model of transformers as the base of a model of several
modalities, and saves it. It names no model family.

The base keeps its ids and padded rows, its special tokens and chat template, its class and its
dtype; the embedding grows by the layout's special tokens and codes. `save_base` writes a folder
that plain transformers reads, with the same logits.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onnuri.errors import ConfigError, WeightsError
from onnuri.files import whole_folder
from onnuri.inference.hf_forward import head
from onnuri.model.backbone import hidden_states, no_bars, register_own
from onnuri.model.token_layout import TokenLayout

LAYOUT = "layout.json"
"""file of the token layout, beside the model's own files"""
GENERATION = "generation_config.json"
"""file of a model's settings for generation"""
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")
"""names under which transformers stores weights"""
TRIAL_LENGTHS = (5, 7)
"""ids of the two sequences by which `reads_packed_rows` tries a model"""


def load_base(
    source: Path | Any,
    layout: TokenLayout | None = None,
    *,
    weights: bool = True,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Return the causal language model of a folder or of a transformers configuration.

    With a `layout` its embedding is resized to the layout's ids. Without `weights`, or from a
    configuration, weights are random; on the meta device there are shapes alone. `dtype` defaults
    to the folder's own. Raises WeightsError if the folder holds no model that can be read, and
    ConfigError if the layout has fewer ids than the model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    folder = source if isinstance(source, (str, Path)) else None
    try:
        if folder is not None:
            register_own(Path(folder))
        config = (
            AutoConfig.from_pretrained(folder, local_files_only=True)
            if folder is not None
            else source
        )
        if folder is not None and weights and device != "meta":
            with no_bars():
                model = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=dtype or "auto", local_files_only=True
                ).to(device)  # type: ignore[arg-type]
        else:
            with torch.device(device):
                model = AutoModelForCausalLM.from_config(
                    config, **({"dtype": dtype} if dtype else {})
                )
            if folder is not None and (Path(folder) / GENERATION).exists():
                model.generation_config = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # damaged files make transformers raise all kinds of errors
        raise WeightsError(
            str(source)[:200],
            f"holds no causal language model that can be loaded ({error})",
            "give a folder that transformers' save_pretrained wrote",
        ) from error
    if layout is not None:
        _resize(model, layout)
    return model  # type: ignore[no-any-return]


def _resize(model: Any, layout: TokenLayout) -> None:
    """Resize a model's embedding and head to the layout's ids; existing rows and tying stay.

    Raises ConfigError if the layout has fewer ids than the model.
    """
    rows = model.get_input_embeddings().num_embeddings
    if layout.size < rows:
        raise ConfigError(
            f"a layout of {layout.size} ids",
            f"is less than the model's {rows} rows",
            "make it with TokenLayout.extend from the model's own vocabulary",
        )
    if layout.size > rows:
        # random rows, not the mean of the old ones: codes do not resemble words
        model.resize_token_embeddings(layout.size, mean_resizing=False)


def extend(
    folder: Path, specs: Any, tasks: bool = False, multiple: int = 128
) -> tuple[TokenLayout, Any]:
    """Return the token layout of a folder's model extended by codecs, and its tokenizer extended by
    the new special tokens.

    `tasks` adds the tokens that name a task. The number of ids is rounded up to a `multiple`.
    Raises WeightsError if the folder holds no tokenizer or configuration.
    """
    from transformers import AutoConfig

    tokenizer = load_tokenizer(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    return TokenLayout.extend(tokenizer, config.vocab_size, specs, tasks, multiple), tokenizer


def load_tokenizer(folder: Path, alone: bool = False) -> Any:
    """Return the tokenizer of a model's folder, or, if it may be `alone`, of a folder without a
    model. Raises WeightsError if there is none."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        register_own(folder)
        if not alone:
            AutoConfig.from_pretrained(folder, local_files_only=True)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise WeightsError(
            str(folder),
            f"holds no tokenizer {'' if alone else 'or configuration '}that can be read ({error})",
            f"give a folder of transformers with {'one' if alone else 'both'}",
        ) from error


@torch.no_grad()
def has_plain_head(model: nn.Module) -> bool:
    """Return whether a model's logits equal its hidden states times its output embeddings, so that
    a loss may compute them in chunks.

    The answer comes from a forward pass over four ids, since classes cap and scale their logits by
    settings of many names.
    """
    whole: Any = model
    training = model.training
    model.eval()
    ids = torch.arange(4, device=next(model.parameters()).device)[None]
    head = whole.get_output_embeddings()
    plain = False
    if head is not None and getattr(head, "bias", None) is None:
        logits = whole(input_ids=ids, use_cache=False).logits
        hidden = whole.base_model(input_ids=ids, use_cache=False)[0]
        if hidden.shape[-1] == head.weight.shape[-1]:
            product = hidden @ head.weight.T
            error = (product - logits).abs().max() / logits.abs().max()
            plain = bool(error < 8 * torch.finfo(logits.dtype).eps * math.sqrt(hidden.shape[-1]))
    model.train(training)
    return plain


def has_weights(folder: Path) -> bool:
    """Return whether a model's folder holds weights, and not its configuration alone."""
    return any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES)


def longest_sequence(model: nn.Module) -> int:
    """Return the longest sequence in tokens that a model supports; 2^30 if its config names
    none."""
    config: Any = model.config
    return int(getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30)


@torch.no_grad()
def reads_packed_rows(model: nn.Module) -> bool:
    """Return whether sequences that are packed into one row give the logits that the class computes
    of each alone by its own code, so that packed rows train what the class is.

    The answer comes from a forward pass over two short sequences, since classes cap attention, add
    sinks and scale logits by settings of many names.
    """
    whole: Any = model
    training, attention = model.training, whole.config._attn_implementation
    model.eval()
    ids = torch.arange(sum(TRIAL_LENGTHS), device=next(model.parameters()).device)[None]
    positions = torch.cat([torch.arange(n, device=ids.device) for n in TRIAL_LENGTHS])[None]
    try:
        whole.set_attn_implementation("eager")
        parts = ids.split(TRIAL_LENGTHS, 1)
        expected = torch.cat([whole(input_ids=part, use_cache=False).logits for part in parts], 1)
        packed = hidden_states(model, ids, positions, torch.tensor(TRIAL_LENGTHS)) @ head(model).T
    except Exception:  # a class that takes no packed rows may fail in any way
        return False
    finally:
        whole.set_attn_implementation(attention)
        model.train(training)
    layers = whole.config.get_text_config().num_hidden_layers
    eps = torch.finfo(packed.dtype).eps * math.sqrt(packed.shape[-1] * layers)
    return bool((packed - expected).abs().max() < 8 * eps * expected.abs().max())


@torch.no_grad()
def restore_dtypes(model: nn.Module, folder: Path) -> None:
    """Give each weight of a model, in place, the dtype that it has in the folder from which the
    model came: some classes keep a few in 32 bits."""
    outline = load_base(folder, device="meta").state_dict()
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(outline[name].dtype)


def save_base(model: nn.Module, tokenizer: Any, layout: TokenLayout | None, folder: Path) -> None:
    """Write a model in transformers' format and its own dtype, with tokenizer and token layout, if
    it has one; the folder appears whole or not at all.

    Raises ConfigError if the folder cannot be written.
    """
    whole: Any = model
    with whole_folder(folder) as part, no_bars():
        whole.save_pretrained(part)
        tokenizer.save_pretrained(part)
        if layout is not None:
            layout.save(part / LAYOUT)


def layout_of(folder: Path) -> TokenLayout:
    """Return the token layout that `save_base` wrote. Raises WeightsError if there is none."""
    try:
        return TokenLayout.from_json(json.loads((folder / LAYOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, ConfigError) as error:
        raise WeightsError(
            str(folder / LAYOUT), f"is no token layout ({error})", "give a folder that Onnuri wrote"
        ) from None
