"""This module gathers the tensors of a sharded model, and lists those of any model's state.

It knows no file.
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
    whole_tensors = dict(named_state(whole))
    for name, tensor in named_state(sharded):
        whole_tensors[name].copy_(gather(tensor))


def gather(tensor: Tensor) -> Tensor:
    """Return a tensor without its shards' borders; every rank of its mesh must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def named_state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every tensor of a module's state, a weight with two names once. The
    values share memory with those that train."""
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.detach()
