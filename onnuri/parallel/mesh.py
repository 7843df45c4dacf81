"""This module arranges ranks in device meshes. Two meshes view the same ranks, innermost axis last:

    dense     replicate, fsdp, tp      attention, dense feed-forwards, embedding, head
    experts   replicate, efsdp, ep     routed experts; efsdp = fsdp x tp / ep

It knows no model.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from onnuri.errors import ConfigError
from onnuri.planner.parallel import ParallelConfig


@dataclasses.dataclass(frozen=True)
class Meshes:
    """Meshes holds the two device meshes of the same ranks."""

    dense: DeviceMesh
    experts: DeviceMesh

    @property
    def data_ranks(self) -> int:
        """Return the number of ranks that read different rows; tensor-parallel ranks share rows."""
        return self.dense["replicate"].size() * self.dense["fsdp"].size()

    @property
    def data_rank(self) -> int:
        """Return this rank's number among the data ranks."""
        shard_rank = self.dense.get_local_rank("fsdp")
        return self.dense.get_local_rank("replicate") * self.dense["fsdp"].size() + shard_rank

    def sum_over_data(self, value: Tensor) -> Tensor:
        """Return a tensor summed over the data ranks."""
        total = value.clone()
        for axis in ("replicate", "fsdp"):
            if self.dense[axis].size() > 1:
                dist.all_reduce(total, group=self.dense.get_group(axis))
        return total


def build_meshes(layout: ParallelConfig, device: str) -> Meshes:
    """Return the meshes of a layout over the initialised process group.

    Raises ConfigError if expert parallelism does not fit within one replica's ranks.
    """
    shard = layout.shards
    replicas, replica_ranks = layout.dp // shard, shard * layout.tp
    if replica_ranks % layout.ep:
        raise ConfigError(
            f"ep {layout.ep}",
            f"does not divide the {replica_ranks} ranks that share one copy",
            "choose ep that divides shard x tp",
        )
    return Meshes(
        init_device_mesh(
            device, (replicas, shard, layout.tp), mesh_dim_names=("replicate", "fsdp", "tp")
        ),
        init_device_mesh(
            device,
            (replicas, replica_ranks // layout.ep, layout.ep),
            mesh_dim_names=("replicate", "efsdp", "ep"),
        ),
    )


def mesh_of(parameter: DTensor, meshes: Meshes) -> DeviceMesh:
    """Return the mesh of all ranks of whose axes a parameter's mesh has some."""
    names = set(parameter.device_mesh.mesh_dim_names or ())
    return meshes.experts if {"efsdp", "ep"} & names else meshes.dense


def local_sizes(parameter: Tensor, meshes: Meshes) -> Tensor:
    """Return the number of a parameter's elements that each rank holds, int64 [world], computed
    from its placements alone."""
    world = meshes.dense.size()
    if not isinstance(parameter, DTensor):
        return torch.full((world,), parameter.numel())
    names, mesh = parameter.device_mesh.mesh_dim_names or (), mesh_of(parameter, meshes)
    coordinates = torch.unravel_index(torch.arange(world), mesh.shape)
    coordinate_of = dict(zip(mesh.mesh_dim_names or (), coordinates, strict=True))
    sizes = {d: torch.full((world,), n) for d, n in enumerate(parameter.shape)}
    # where two axes shard one dimension, the inner one cuts first and the outer one cuts the rest
    for name, placement in reversed(list(zip(names, parameter.placements, strict=True))):
        if hasattr(placement, "dim"):
            dim = placement.dim % parameter.ndim
            chunk = -(-sizes[dim] // mesh[name].size())
            sizes[dim] = (sizes[dim] - coordinate_of[name] * chunk).clamp(min=0).minimum(chunk)
    return torch.stack(list(sizes.values())).prod(0)
