"""This module finds the layers of a language model, tells which of them are alike, and copies a
model with few of them. It names no model family.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

_SKIPPED = ("layer_idx", "training")
"""a module's settings in which layers that are alike differ"""


def layers_of(network: nn.Module) -> nn.ModuleList:
    """Return the layers of a network: its longest ModuleList."""
    return max((m for m in network.modules() if isinstance(m, nn.ModuleList)), key=len)


def layer_signature(layer: nn.Module) -> Any:
    """Return a value that is equal for two layers if their steps are: the modules with their types
    and plain settings, and the shapes and dtypes of the parameters."""
    modules = tuple(
        (
            name,
            type(m),
            tuple(
                sorted(
                    (k, v)
                    for k, v in vars(m).items()
                    if k not in _SKIPPED
                    and not k.startswith("_")
                    and isinstance(v, int | float | str | None)
                )
            ),
        )
        for name, m in layer.named_modules()
    )
    return modules, tuple(
        (name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in layer.named_parameters()
    )


def with_layers(network: Any, indices: Sequence[int]) -> Any:
    """Return a copy of a network on the meta device that has only the layers of some indices, in
    its modules and in its config."""
    layers = layers_of(network)
    parent, name = next(
        (m, n) for m in network.modules() for n, child in m.named_children() if child is layers
    )
    try:
        setattr(parent, name, nn.ModuleList(layers[k] for k in indices))
        shorter = copy.deepcopy(network)
    finally:
        setattr(parent, name, layers)
    config = shorter.config.get_text_config()
    for field, value in list(vars(config).items()):
        if isinstance(value, (list, tuple)) and len(value) == len(layers):
            setattr(config, field, [value[k] for k in indices])
    config.num_hidden_layers = len(indices)
    for number, layer in enumerate(layers_of(shorter)):
        for module in layer.modules():
            if "layer_idx" in vars(module):
                vars(module)["layer_idx"] = number
    return shorter
