"""This module brings boxes of a sharded model's tensors to chosen ranks, piece by piece, without
gathering a tensor on every rank.

Which elements a rank holds follows from placements and meshes alone, so every rank knows what each
will send, and one all-to-all moves the boxes of a round. It knows no file.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from onnuri.model.written_weights import Part
from onnuri.parallel import group
from onnuri.parallel.mesh import Meshes, mesh_of


class Run(NamedTuple):
    """A Run is a range of indices of a tensor's dimension that lie side by side in a shard."""

    start: int
    """first index in the whole tensor"""
    local: int
    """first index in the shard"""
    size: int


class AxisCut(NamedTuple):
    """An AxisCut is what one axis of a mesh leaves of a dimension's indices: chunk `coordinate` of
    `ranks` chunks in each of `pieces` pieces."""

    pieces: int
    ranks: int
    coordinate: int


class Piece(NamedTuple):
    """A Piece is a box of elements that one rank holds of a part."""

    local: tuple[slice, ...]
    """where it lies in the rank's shard"""
    target: tuple[slice, ...]
    """where it lies in the part"""
    shape: tuple[int, ...]


class Shards:
    """Shards holds this rank's shards of a model's tensors and knows what the other ranks hold."""

    def __init__(self, tensors: Mapping[str, Tensor], meshes: Meshes | None) -> None:
        """Take the tensors of a model's state by name; `meshes` are those over which it is
        sharded."""
        self.meshes, self._tensors = meshes, tensors
        # asked for every block; found through meshes, which takes a millisecond
        self.holders = functools.cache(self._find_holders)
        self._runs_of = functools.cache(self._find_runs)

    @property
    def names(self) -> list[str]:
        """Return the tensors' names, in the model's order."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        return tuple(self._tensors[name].shape)

    def local(self, name: str) -> Tensor:
        """Return this rank's shard of a tensor."""
        tensor = self._tensors[name]
        return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()

    def _find_holders(self, name: str, to: int) -> list[int]:
        """Return the ranks whose shards make up a tensor once, for rank `to`; of several copies,
        that of which `to` itself holds a part."""
        tensor = self._tensors[name]
        if not isinstance(tensor, DTensor):
            return [to]
        mesh, axes = self._axes(tensor)
        numbers = torch.arange(group.ranks()).view(mesh.shape)
        index = [
            slice(None) if axis in axes else place for axis, place in coordinates(mesh, to).items()
        ]
        return sorted(numbers[tuple(index)].flatten().tolist())

    def pieces(self, part: Part, rank: int) -> Iterator[Piece]:
        """Yield the boxes of a part that a rank holds."""
        per_dim = []
        for dim, (start, size) in enumerate(zip(part.starts, part.sizes, strict=True)):
            cuts = []
            for run in self._runs_of(part.source, dim, rank):
                first, stop = max(run.start, start), min(run.start + run.size, start + size)
                if first < stop:
                    local = run.local + first - run.start
                    cuts.append((local, first - start, stop - first))
            per_dim.append(cuts)
        for cut in itertools.product(*per_dim):
            yield Piece(
                tuple(slice(local, local + size) for local, _, size in cut),
                tuple(slice(target, target + size) for _, target, size in cut),
                tuple(size for _, _, size in cut),
            )

    def _axes(self, tensor: DTensor) -> tuple[DeviceMesh, dict[str, Any]]:
        """Return the mesh of all ranks over which a tensor is spread, and its placement per axis
        that shards it."""
        assert self.meshes is not None, "a sharded tensor needs the meshes of its model"
        names = tensor.device_mesh.mesh_dim_names or ()
        placements = zip(names, tensor.placements, strict=True)
        return mesh_of(tensor, self.meshes), {n: p for n, p in placements if hasattr(p, "dim")}

    def _find_runs(self, name: str, dim: int, rank: int) -> list[Run]:
        """Return the indices of a tensor's dimension that a rank holds, in the shard's order."""
        tensor = self._tensors[name]
        size = tensor.shape[dim]
        if not isinstance(tensor, DTensor):
            return [Run(0, 0, size)]
        mesh, axes = self._axes(tensor)
        place = coordinates(mesh, rank)
        sharding = [axis for axis, placement in axes.items() if placement.dim % tensor.ndim == dim]
        cuts, last_cuts = [], []
        for k, axis in enumerate(sharding):
            pieces = getattr(axes[axis], "split_factor", 1)
            later = math.prod(mesh[other].size() for other in sharding[k + 1 :])
            if pieces > 1 and later > 1:
                # FSDP over tensor or expert parallelism: the later axes cut first, and torch counts
                # their cuts among the pieces
                last_cuts.append(AxisCut(pieces // later, mesh[axis].size(), place[axis]))
            else:
                cuts.append(AxisCut(pieces, mesh[axis].size(), place[axis]))
        return _runs(size, (*cuts, *reversed(last_cuts)))


def coordinates(mesh: DeviceMesh, rank: int) -> dict[str, int]:
    """Return a rank's coordinate per axis of a mesh of all ranks."""
    place = torch.unravel_index(torch.tensor(rank), mesh.shape)
    return dict(zip(mesh.mesh_dim_names or (), map(int, place), strict=True))


@functools.cache
def _runs(size: int, cuts: tuple[AxisCut, ...]) -> list[Run]:
    """Return the indices below `size` that are left after some cuts, one after the other."""
    indices = torch.arange(size)
    for cut in cuts:
        pieces = [_chunk(indices, cut.pieces, k) for k in range(cut.pieces)]
        indices = torch.cat([_chunk(piece, cut.ranks, cut.coordinate) for piece in pieces])
    if not len(indices):
        return []
    breaks = (indices.diff() != 1).nonzero().flatten() + 1
    firsts = [0, *breaks.tolist()]
    stops = [*breaks.tolist(), len(indices)]
    return [Run(int(indices[a]), a, b - a) for a, b in zip(firsts, stops, strict=True)]


def _chunk(indices: Tensor, count: int, number: int) -> Tensor:
    """Return chunk `number` of `count` chunks of indices, cut as `torch.chunk` cuts."""
    step = -(-len(indices) // count)
    return indices[number * step : (number + 1) * step]


@torch.no_grad()
def exchange(
    shards: Shards, wanted: Mapping[int, Sequence[tuple[Part, torch.dtype]]]
) -> list[Tensor]:
    """Bring parts to the ranks that want them, in the dtypes that they want. Every rank must call
    this with the same `wanted`, parts by rank.

    Return this rank's parts as bytes on the CPU, uint8 [bytes], in the order in which they are
    written. A rank's memory grows by at most the bytes of all parts and three times those of its
    own.
    """
    rank = group.rank()
    sent = _bytes_between(shards, wanted, rank)
    device = _device(shards, wanted)
    outgoing = torch.empty(sum(sent), dtype=torch.uint8, device=device)
    place = 0
    for receiver, parts in sorted(wanted.items()):
        for part, dtype in parts:
            if rank not in shards.holders(part.source, receiver):
                continue
            local = shards.local(part.source)
            for piece in shards.pieces(part, rank):
                data = local[piece.local].to(dtype).contiguous().flatten().view(torch.uint8)
                outgoing[place : place + len(data)] = data
                place += len(data)
    own = wanted.get(rank, ())
    received = [
        sum(_bytes(shards, part, dtype, sender, rank) for part, dtype in own)
        for sender in range(group.ranks())
    ]
    incoming = torch.empty(sum(received), dtype=torch.uint8, device=device)
    if dist.is_initialized():
        dist.all_to_all_single(incoming, outgoing, received, sent)
    else:
        incoming = outgoing
    del outgoing
    return _assembled(shards, own, rank, incoming.cpu())


def _assembled(
    shards: Shards, parts: Sequence[tuple[Part, torch.dtype]], rank: int, incoming: Tensor
) -> list[Tensor]:
    """Return a rank's parts from the bytes that it received, which come sender by sender."""
    # with a last dimension for an element's bytes, since no offset need be a multiple of these
    blocks = [torch.empty((*p.sizes, d.itemsize), dtype=torch.uint8) for p, d in parts]
    place = 0
    for sender in range(group.ranks()):
        for (part, dtype), block in zip(parts, blocks, strict=True):
            if sender not in shards.holders(part.source, rank):
                continue
            for piece in shards.pieces(part, sender):
                size = math.prod(piece.shape) * dtype.itemsize
                data = incoming[place : place + size].view(*piece.shape, dtype.itemsize)
                block[piece.target] = data
                place += size
    return [
        block.permute(*part.order, len(part.order)).contiguous().flatten()
        for (part, _), block in zip(parts, blocks, strict=True)
    ]


def _bytes_between(
    shards: Shards, wanted: Mapping[int, Sequence[tuple[Part, torch.dtype]]], sender: int
) -> list[int]:
    """Return the bytes that a rank sends to each rank."""
    return [
        sum(
            _bytes(shards, part, dtype, sender, receiver)
            for part, dtype in wanted.get(receiver, ())
        )
        for receiver in range(group.ranks())
    ]


def _bytes(shards: Shards, part: Part, dtype: torch.dtype, sender: int, receiver: int) -> int:
    """Return the bytes of a part that one rank sends to another."""
    if sender not in shards.holders(part.source, receiver):
        return 0
    return sum(math.prod(piece.shape) for piece in shards.pieces(part, sender)) * dtype.itemsize


def _device(
    shards: Shards, wanted: Mapping[int, Sequence[tuple[Part, torch.dtype]]]
) -> torch.device:
    """Return the device on which this rank's shards lie."""
    part, _ = next(iter(wanted.values()))[0]
    return shards.local(part.source).device
