"""This module copies the weights of a sharded model into a whole one.

It needs memory for the whole model and for one gathered tensor. It knows no file.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def copy_weights(sharded: nn.Module, whole: nn.Module) -> None:
    """Copy every weight and buffer of a sharded module into its whole twin, in place.

    Every rank must call it, since all of them send their shards.
    """
    whole_tensors = dict(_state(whole))
    for name, tensor in _state(sharded):
        whole_tensors[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every tensor of a module's state, a weight with two names once."""
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.detach()
