"""The parallel plan, applied: a planner's `ParallelConfig` becomes meshes, sharded parameters and
dispatched experts.

Holds nothing else: no loss, no optimizer, no figures. PyTorch's `fully_shard` and the plans that
transformers ships with every class do the work. Two views of the same ranks, the innermost last:

    dense     replicate, fsdp, tp      attention, dense feed-forwards, embedding, head
    experts   replicate, efsdp, ep     routed experts; `efsdp` is what is left of fsdp x tp
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from onnuri.errors import ConfigError
from onnuri.planner.parallel import ParallelConfig

Placement = Literal["even", "first"]
"""even: `shard_dim`; first: dimension 0 always, PyTorch's default, kept to show what it costs"""


@dataclasses.dataclass(frozen=True)
class Meshes:
    """Two views of the same ranks."""

    dense: DeviceMesh
    experts: DeviceMesh


def meshes(layout: ParallelConfig, device: str) -> Meshes:
    """Of a process group that is initialised. Raises ConfigError where expert parallelism leaves
    the copy's ranks."""
    shard = layout.shards
    copies, within = layout.dp // shard, shard * layout.tp
    if within % layout.ep:
        raise ConfigError(
            f"ep {layout.ep}",
            f"does not divide the {within} ranks that share one copy",
            "choose ep that divides shard x tp",
        )
    return Meshes(
        init_device_mesh(
            device, (copies, shard, layout.tp), mesh_dim_names=("replicate", "fsdp", "tp")
        ),
        init_device_mesh(
            device,
            (copies, within // layout.ep, layout.ep),
            mesh_dim_names=("replicate", "efsdp", "ep"),
        ),
    )


def place(
    network: Any,
    layout: ParallelConfig,
    root: nn.Module | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.bfloat16,
    dispatch: str = "auto",
    placement: Placement = "even",
) -> Meshes:
    """Shard a causal language model in place, `root` being what is called (the network and its loss
    around it).

    `dtype`: of products and gathered weights; shards, gradients' sums and the optimizer stay as the
    parameters are. `dispatch`: how tokens reach experts, a name of transformers'
    `EPImplementationInterface`. Raises ConfigError for a layout that needs another engine.
    """
    if layout.other_engine:
        raise ConfigError(
            f"layout of pp {layout.pp}, cp {layout.cp}, {layout.sharding}, {layout.precision}",
            f"needs {layout.other_engine}",
            "use dp, tp and ep with fsdp, hsdp or ddp in bf16",
        )
    from transformers.distributed.expert_parallel import apply_expert_parallelism
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    views, tied = meshes(layout, device), _tied(network)
    experts = _expand(network, network.ep_plan) if layout.ep > 1 else {}
    if layout.tp > 1:
        split = {
            n: style for n, style in _expand(network, network.tp_plan).items() if n not in experts
        }
        table, head = network.get_input_embeddings(), network.get_output_embeddings()
        # what is shared would be cut once, under one of its names: both are, alike, and joined
        # again
        if tied:
            head.weight = nn.Parameter(table.weight.detach())
        apply_tensor_parallelism(network, views.dense["tp"], split)
        if tied:
            head.weight = table.weight
    if experts:
        apply_expert_parallelism(
            network, views.experts["ep"], views.dense["tp"], experts, ep_implementation=dispatch
        )
    if layout.recompute != "none":
        recompute(network, layout.recompute)
    routed = {id(p) for n, p in network.named_parameters() if n in experts}
    _shard(network, root or network, views, layout, routed, dtype, placement)
    return views


def _shard(
    network: Any,
    root: nn.Module,
    views: Meshes,
    layout: ParallelConfig,
    routed: set[int],
    dtype: torch.dtype | None,
    placement: Placement,
) -> None:
    """A group a layer, one for the embedding unless it is the head too, and the root's: what no
    other took."""
    dense = views.dense["replicate", "fsdp"] if layout.dp > layout.shards else views.dense["fsdp"]
    reduce = torch.float32 if dtype else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce)
    chosen = _placer(views, dense.size(dense.ndim - 1), layout, routed, placement)
    apart = [] if _tied(network) else [network.get_input_embeddings()]
    for module in [*network.model.layers, *apart, root]:
        fully_shard(module, mesh=dense, shard_placement_fn=chosen, mp_policy=policy)
        # a rank's loss is divided before its backward pass (`step.gradients`), so that experts,
        # whose gradients come from other ranks' tokens too, are summed like all others; gloo knows
        # no other reduction than a sum
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    for module in apart:
        module.set_unshard_in_backward(False)  # a lookup's gradient does not need its table


def _tied(network: Any) -> bool:
    """One matrix for embedding and head."""
    return network.get_input_embeddings().weight is network.get_output_embeddings().weight


def _placer(
    views: Meshes, ranks: int, layout: ParallelConfig, routed: set[int], placement: Placement
) -> Callable[[nn.Parameter], Any]:
    """Where a parameter is cut, and over which ranks."""
    # not exported, though fully_shard's documentation names them; groups of their own for experts
    # would be gathered once more under recomputation, for their backward hooks come too late (read
    # from its hooks: 3 gathers a step instead of 2)
    from torch.distributed.fsdp._fully_shard._fsdp_common import (
        FSDPMeshInfo,
        HSDPMeshInfo,
        ShardPlacementResult,
    )

    over = (
        views.experts["replicate", "efsdp"] if layout.dp > layout.shards else views.experts["efsdp"]
    )
    info = (
        HSDPMeshInfo(over, shard_mesh_dim=1, replicate_mesh_dim=0)
        if over.ndim == 2
        else FSDPMeshInfo(over, shard_mesh_dim=0)
    )

    def chosen(parameter: nn.Parameter) -> Any:
        expert = id(parameter) in routed
        shape = parameter.to_local().shape if isinstance(parameter, DTensor) else parameter.shape
        count = over.size(over.ndim - 1) if expert else ranks
        cut = Shard(shard_dim(shape, count) if placement == "even" else 0)
        return ShardPlacementResult(cut, info) if expert else cut

    return chosen


def shard_dim(shape: Sequence[int], ranks: int) -> int:
    """Of experts' weights [experts, out, in] the first dimension that the ranks divide, of others
    0. Dimension 0 of 192 experts over 1,024 ranks gives some ranks a whole expert and most none; of
    a matrix it gives a row more or less, and another dimension would cost a copy."""
    even = [d for d, size in enumerate(shape) if size % ranks == 0]
    return even[0] if len(shape) > 2 and even else 0


def recompute(network: Any, how: Literal["selective", "full"]) -> None:
    """Forget what layers keep for their backward pass. selective: products, attention and
    dispatched tokens are kept, what is between them is computed again; full: everything is."""
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if how == "selective":
        settings["context_fn"] = lambda: create_selective_checkpoint_contexts(_policy)
    network.activation_checkpointing_enable(settings)


def _policy(context: Any, operator: Any, *args: Any, **named: Any) -> Any:
    from torch.utils.checkpoint import CheckpointPolicy

    return (
        CheckpointPolicy.MUST_SAVE
        if operator.name().split(".")[0] in KEPT
        else CheckpointPolicy.PREFER_RECOMPUTE
    )


KEPT = {
    f"aten::{name}"
    for name in (
        "mm",
        "addmm",
        "bmm",
        "_grouped_mm",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
} | {
    "transformers::grouped_mm_fallback",
    "onnuri::fused_attention",
    "_c10d_functional::all_to_all_single",
}
"""what selective recomputation keeps"""


def _expand(network: nn.Module, plan: dict[str, str]) -> dict[str, str]:
    """A plan with `*` for the layers' numbers and rules for modules, for every name it is about. Of
    a module its parameters come first: experts are cut before they are told where tokens come
    from."""
    found = {}
    for name, module in network.named_modules():
        rule = plan.get(_wild(name))
        for own in (
            f"{name}.{p}".removeprefix(".") for p, _ in module.named_parameters(recurse=False)
        ):
            if style := plan.get(_wild(own), rule):
                found[own] = style
        if rule:
            found[name] = rule
    return found


def _wild(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def local_sizes(parameter: Tensor, views: Meshes) -> Tensor:
    """How many of a parameter's values each rank holds [world], from its placements alone."""
    world = views.dense.size()
    if not isinstance(parameter, DTensor):
        return torch.full((world,), parameter.numel())
    names = parameter.device_mesh.mesh_dim_names or ()
    view = views.experts if {"efsdp", "ep"} & set(names) else views.dense
    where = dict(
        zip(
            view.mesh_dim_names or (),
            torch.unravel_index(torch.arange(world), view.shape),
            strict=True,
        )
    )
    sizes = {d: torch.full((world,), n) for d, n in enumerate(parameter.shape)}
    # of two cuts through one dimension the inner axis comes first: the outer one cuts what it left
    for name, cut in reversed(list(zip(names, parameter.placements, strict=True))):
        if hasattr(cut, "dim"):
            dim = cut.dim % parameter.ndim
            chunk = -(-sizes[dim] // view[name].size())
            sizes[dim] = (sizes[dim] - where[name] * chunk).clamp(min=0).minimum(chunk)
    return torch.stack(list(sizes.values())).prod(0)
