"""This module gives memory to a model that was sharded without values, on the meta device, and
fills each rank's shards with the boxes of values that they hold.

A rank's memory grows by its shards and one block. The module knows no file and no model family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onnuri.model.written_weights import Part, split, whole_part
from onnuri.parallel import group
from onnuri.parallel.pieces import Shards
from onnuri.parallel.whole import named_state

BLOCK = 1 << 23
"""most elements that are read, drawn or sent at once: 32 MiB in 32 bits"""


def give_memory(
    root: nn.Module, device: torch.device, weights_device: torch.device | None = None
) -> None:
    """Replace every tensor of a model, sharded or whole, by one of the same shape on a device,
    whose values are not set; weights, where they are kept elsewhere, on `weights_device`. Weights
    that are tied stay so.

    `root` is the outermost module that was sharded, which keeps track of its shards.
    """
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in root.modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), []).append((module, name))
    root.to_empty(device=weights_device or device)
    for module in root.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device != device:
                module._buffers[name] = torch.empty_like(buffer, device=device)
    for (first, name), *others in places.values():
        for module, other_name in others:
            module._parameters[other_name] = first._parameters[name]


def keep_weights(module: nn.Module, device: torch.device) -> None:
    """Move the weights of a module to a device, in place, and leave its buffers where it computes
    and weights without values as they are."""
    for weight in module.parameters():
        if not weight.is_meta:
            weight.data = weight.data.to(device)


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return every tensor of a network by name, a weight with two names once: those of its state,
    and the buffers that are not stored."""
    tensors = dict(named_state(network))
    stored = network.state_dict().keys()
    tensors |= {n: b for n, b in network.named_buffers() if n not in stored}
    return tensors


@torch.no_grad()
def fill(shards: Shards, parts: Iterable[Part], values: Callable[[Part], Tensor]) -> None:
    """Set this rank's elements of some parts to what `values` returns for boxes of them."""
    for part in parts:
        local = shards.local(part.source)
        for box, place in _own_boxes(shards, part):
            local[place] = values(box).to(local.device, local.dtype)


@torch.no_grad()
def fill_from_first(shards: Shards, whole: Mapping[str, Tensor]) -> None:
    """Set every tensor to that of the first rank's `whole` model, which other ranks leave empty;
    every rank must call this."""
    for name in shards.names:
        local = shards.local(name)
        for part in split(whole_part(name, shards.shape(name)), BLOCK):
            block = torch.empty(part.sizes, dtype=local.dtype)
            if group.rank() == 0:
                block.copy_(whole[name][_slices(part.starts, part.sizes)])
            if dist.is_initialized():
                dist.broadcast(block, 0)
            for piece in shards.pieces(part, group.rank()):
                local[piece.local] = block[piece.target].to(local.device)


def _own_boxes(shards: Shards, part: Part) -> Iterator[tuple[Part, tuple[slice, ...]]]:
    """Yield the boxes of at most BLOCK elements of a part that this rank holds, each with its place
    in the rank's shard."""
    for piece in shards.pieces(part, group.rank()):
        starts = [s + t.start for s, t in zip(part.starts, piece.target, strict=True)]
        own = part._replace(starts=tuple(starts), sizes=piece.shape)
        for box in split(own, BLOCK):
            moved = zip(piece.local, box.starts, own.starts, strict=True)
            yield box, _slices([local.start + b - o for local, b, o in moved], box.sizes)


def _slices(starts: Iterable[int], sizes: Iterable[int]) -> tuple[slice, ...]:
    """Return the slices of a box."""
    return tuple(slice(s, s + n) for s, n in zip(starts, sizes, strict=True))
