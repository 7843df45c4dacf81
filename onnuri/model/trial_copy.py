"""This module makes a small copy of a folder's model on which one can try how its class computes,
where the whole model would not fit in memory.

The copy has one layer of each kind, few ids and narrow feed-forwards, but the attention, the norms
and the settings of the class. Its weights are random and so large that scores and logits are of the
order of 1: an effect of a cap or a scale is no smaller than that of trained weights.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onnuri.model.backbone import register_own
from onnuri.model.initial_weights import InitialWeights
from onnuri.model.layers import layer_signature, layers_of, with_layers
from onnuri.model.written_weights import whole_part

IDS = 64
CHANNELS = 16
"""within a feed-forward, of which a mixture has hundreds"""
NOISE = 0.1
"""standard deviation of what is added to vectors, such as norms' scales"""


@torch.no_grad()
def trial_copy(folder: Path) -> nn.Module | None:
    """Return a small copy of a folder's model with random weights, in 32 bits on the CPU; None for a
    class of which no such copy computes."""
    try:
        outline = _narrow(folder)
        kinds = _kinds(outline)
        network = with_layers(outline, [kinds.index(kind) for kind in dict.fromkeys(kinds)])
        initial = InitialWeights(network, seed=0)
        if set(initial.unknown) & {name for name, _ in network.named_buffers()}:
            return None
        network.to_empty(device="cpu")
        network.tie_weights()
        _fill(network, initial)
        network.eval()(input_ids=torch.arange(8)[None], use_cache=False)
    except Exception:  # a class that is built otherwise may fail in any way
        return None
    return network  # type: ignore[no-any-return]


def _narrow(folder: Path) -> Any:
    """Return a folder's model on the meta device with all its layers, but few ids and narrow
    feed-forwards."""
    from transformers import AutoConfig, AutoModelForCausalLM

    register_own(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    text = config.get_text_config()
    text.vocab_size = min(text.vocab_size, IDS)
    for field, value in list(vars(text).items()):
        if field.endswith("intermediate_size") and isinstance(value, int):
            setattr(text, field, min(value, CHANNELS))
    text.bos_token_id = text.eos_token_id = text.pad_token_id = None  # may be ids that are cut off
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _kinds(network: Any) -> list[Any]:
    """Return what tells each layer of a network from others: its modules and their settings, and
    what the config says of its place."""
    config, layers = network.config.get_text_config(), layers_of(network)
    lists = [
        value
        for value in vars(config).values()
        if isinstance(value, (list, tuple)) and len(value) == len(layers)
    ]
    return [
        (layer_signature(layer), tuple(repr(value[k]) for value in lists))
        for k, layer in enumerate(layers)
    ]


def _fill(network: nn.Module, initial: InitialWeights) -> None:
    """Give buffers their first values, matrices numbers that keep the size of what they multiply,
    and vectors their first values with noise."""
    generator = torch.Generator().manual_seed(0)
    for name, buffer in network.named_buffers():
        buffer.copy_(initial.values(whole_part(name, buffer.shape)))
    unknown = set(initial.unknown)
    for name, p in network.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim > 1:
            p.copy_(noise / math.sqrt(p.shape[-1]))
            continue
        first: Tensor | float = 0.0
        if name not in unknown:
            first = initial.values(whole_part(name, p.shape))
        p.copy_(first + NOISE * noise)
