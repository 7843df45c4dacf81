"""This module applies a planner's `ParallelConfig` to a model: tensor, sequence and expert
parallelism, activation checkpointing, FSDP.

It knows no loss, no optimizer and no figures. PyTorch's `fully_shard` and the plans that
transformers ships with every class do the work, on the meshes of `mesh.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Shard
from torch.nn.modules.dropout import _DropoutNd

from onnuri.errors import ConfigError
from onnuri.model import attention_dropout
from onnuri.parallel.mesh import Meshes, build_meshes
from onnuri.parallel.recompute import checkpoint_activations
from onnuri.parallel.sequence_parallel import plan_tokens, share_tokens
from onnuri.planner.parallel import ParallelConfig

EXPERT_COUNTS = ("n_routed_experts", "num_experts", "num_local_experts")
"""names by which transformers' configurations give the number of routed experts"""
Placement = Literal["even", "first"]
"""even: the dimension that `shard_dim` returns; first: always dimension 0, PyTorch's default, there
to show what it costs"""


def parallelize(
    network: Any,
    layout: ParallelConfig,
    root: nn.Module | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = torch.bfloat16,
    dispatch: str = "auto",
    placement: Placement = "even",
    compiled: bool = False,
) -> Meshes:
    """Shard a causal language model in place over the ranks of a layout and return its meshes.

    `root` is the module whose forward is called, if it is not the network itself (ModelWithLoss).
    `dtype` is that of matrix products and gathered weights; shards, reduced gradients and optimizer
    state keep the parameters' dtype. `dispatch` says how tokens reach experts, by a name of
    transformers' `EPImplementationInterface`. With `compiled`, `torch.compile` compiles every
    layer. Raises ConfigError for a layout that needs another engine.
    """
    if layout.other_engine:
        raise ConfigError(
            f"layout of pp {layout.pp}, cp {layout.cp}, {layout.sharding}, {layout.precision}",
            f"needs {layout.other_engine}",
            "use dp, tp and ep with fsdp, hsdp or ddp in bf16",
        )
    check_divides(network.config, layout)
    _check_dropout(network, layout)
    from transformers.distributed.expert_parallel import apply_expert_parallelism
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    meshes, tied = build_meshes(layout, device), _has_tied_embeddings(network)
    ep_plan = _expand(network, network.ep_plan) if layout.ep > 1 else {}
    if layout.tp > 1:
        tp_plan = _expand(network, network.tp_plan)
        tp_plan = {name: style for name, style in tp_plan.items() if name not in ep_plan}
        table, head = network.get_input_embeddings(), network.get_output_embeddings()
        # a tied weight would be cut under one of its names only: untie, cut both alike, tie again
        if tied:
            head.weight = nn.Parameter(table.weight.detach())
        if layout.sequence_parallel:
            tp_plan = plan_tokens(network, tp_plan)
        apply_tensor_parallelism(network, meshes.dense["tp"], tp_plan)
        if layout.sequence_parallel:
            share_tokens(network, meshes.dense["tp"], tp_plan)
        attention_dropout.tell_part(network, meshes.dense["tp"].get_local_rank())
        if tied:
            head.weight = table.weight
    if ep_plan:
        apply_expert_parallelism(
            network, meshes.experts["ep"], meshes.dense["tp"], ep_plan, ep_implementation=dispatch
        )
    prepare_layers(network, layout, compiled)
    routed = {id(p) for n, p in network.named_parameters() if n in ep_plan}
    _apply_fsdp(network, root or network, meshes, layout, routed, dtype, placement)
    return meshes


def prepare_layers(network: Any, layout: ParallelConfig | None, compiled: bool) -> None:
    """Set how every layer of a network is computed, in place: with activation checkpointing as a
    layout says, and compiled by `torch.compile` at its first call.

    Raises ConfigError for compiled layers with collectives within.
    """
    recompute = layout.recompute if layout else "none"
    # the compiler itself computes again what selective checkpointing would: all but products and
    # attention (torch/_functorch/partitioners.py)
    if recompute == "full" or (recompute == "selective" and not compiled):
        checkpoint_activations(network, recompute)
    if not compiled:
        return
    if layout:
        check_compiles(layout)
    for layer in network.model.layers:
        layer.compile()


def check_compiles(layout: ParallelConfig) -> None:
    """Raise ConfigError if the layers of a layout have collectives within, and so are not
    compiled."""
    if layout.tp > 1 or layout.ep > 1:
        raise ConfigError(
            f"compiled layers with tp {layout.tp} and ep {layout.ep}",
            "are not supported: a layer's collectives are not compiled",
            "use dp alone, or layers that are not compiled",
        )


def experts_of(config: Any) -> int:
    """Return the routed experts of a transformers configuration, 0 for a dense model's."""
    counts = (getattr(config, name, None) for name in EXPERT_COUNTS)
    return next((count for count in counts if count), 0)


def check_divides(config: Any, layout: ParallelConfig) -> None:
    """Raise ConfigError if tensor parallelism would cut an attention head, or expert parallelism
    leave experts over, in a model of a transformers configuration."""
    divided = []
    if not getattr(config, "kv_lora_rank", None):  # latent attention is not cut
        heads = config.num_attention_heads
        divided.append(("tp", layout.tp, "heads", heads))
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        divided.append(("tp", layout.tp, "key/value heads", kv_heads))
    experts = experts_of(config)
    if layout.ep > 1 and not experts:
        raise ConfigError(
            f"ep {layout.ep}", "needs experts, and the model has none", "leave it out"
        )
    divided.append(("ep", layout.ep, "experts", experts))
    for degree, ranks, name, count in divided:
        if count % ranks:
            raise ConfigError(
                f"{degree} {ranks}", f"does not divide {count} {name}", f"choose {degree} that does"
            )


def _check_dropout(network: nn.Module, layout: ParallelConfig) -> None:
    """Raise ConfigError if tensor parallelism would draw other dropout masks than one process:
    those of modules are drawn for a rank's part, and only that of attention for the whole."""
    if layout.tp == 1:
        return
    for name, module in network.named_modules():
        if isinstance(module, _DropoutNd) and module.p:
            raise ConfigError(
                f"dropout {module.p:g} in {name}",
                f"would differ between the ranks of tp {layout.tp}",
                "use tp=1, or no dropout but that of attention",
            )


def _apply_fsdp(
    network: Any,
    root: nn.Module,
    meshes: Meshes,
    layout: ParallelConfig,
    routed: set[int],
    dtype: torch.dtype | None,
    placement: Placement,
) -> None:
    """Wrap each layer, the embedding unless it is tied to the head, and the root as FSDP groups.

    `routed` holds the ids of the routed experts' parameters, which shard over the experts' mesh.
    """
    mesh = meshes.dense["replicate", "fsdp"] if layout.dp > layout.shards else meshes.dense["fsdp"]
    reduce_dtype = torch.float32 if dtype else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduce_dtype)
    offload = OffloadPolicy()
    if layout.offload:
        offload = CPUOffloadPolicy(pin_memory=meshes.dense.device_type == "cuda")
    place = _placement_function(meshes, mesh.size(mesh.ndim - 1), layout, routed, placement)
    embeddings = [] if _has_tied_embeddings(network) else [network.get_input_embeddings()]
    groups = [(module, mesh) for module in (*network.model.layers, *embeddings, root)]
    if routed and _placement_result() is None:
        # experts have FSDP groups of their own, which are gathered once more under recomputation,
        # for their backward hooks come too late (read from its hooks: 3 gathers per step, not 2)
        owners = [m for m in network.modules() if any(id(p) in routed for p in m.parameters(False))]
        groups = [*((owner, _expert_mesh(meshes, layout)) for owner in owners), *groups]
    for module, group_mesh in groups:
        fully_shard(
            module,
            mesh=group_mesh,
            shard_placement_fn=place,
            mp_policy=policy,
            offload_policy=offload,
        )
        # a rank's loss is divided before its backward pass (`step.backward`), so that experts,
        # whose gradients come from other ranks' tokens too, are summed like all others; gloo knows
        # no other reduction than a sum
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    for module in embeddings:
        module.set_unshard_in_backward(False)  # a lookup's gradient does not need its table


def _has_tied_embeddings(network: Any) -> bool:
    """Return whether the input embedding and the head are one matrix."""
    return network.get_input_embeddings().weight is network.get_output_embeddings().weight


def _placement_result() -> Any:
    """Return the class by which a placement function names a mesh, None where torch has none.

    torch 2.13 has it, 2.11 not; it is not exported, though `fully_shard`'s documentation names it.
    """
    from torch.distributed.fsdp._fully_shard import _fsdp_common

    return getattr(_fsdp_common, "ShardPlacementResult", None)


def _placement_function(
    meshes: Meshes, ranks: int, layout: ParallelConfig, routed: set[int], placement: Placement
) -> Callable[[nn.Parameter], Any]:
    """Return the function that tells `fully_shard` a parameter's shard dimension and, for routed
    experts in a layer's own group, their mesh; `ranks` is the size of the dense mesh's fsdp
    axis."""
    from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, HSDPMeshInfo

    info: Any
    expert_mesh, result = _expert_mesh(meshes, layout), _placement_result()
    if layout.dp > layout.shards:
        info = HSDPMeshInfo(expert_mesh, shard_mesh_dim=1, replicate_mesh_dim=0)
    else:
        info = FSDPMeshInfo(expert_mesh, shard_mesh_dim=0)

    def place(parameter: nn.Parameter) -> Any:
        """Return a parameter's shard dimension, for a routed expert's with the experts' mesh."""
        is_expert = id(parameter) in routed
        shape = parameter.to_local().shape if isinstance(parameter, DTensor) else parameter.shape
        count = expert_mesh.size(expert_mesh.ndim - 1) if is_expert else ranks
        shard = Shard(shard_dim(shape, count) if placement == "even" else 0)
        return result(shard, info) if is_expert and result else shard

    return place


def _expert_mesh(meshes: Meshes, layout: ParallelConfig) -> DeviceMesh:
    """Return the mesh over which a routed expert's parameters are sharded."""
    if layout.dp > layout.shards:
        return meshes.experts["replicate", "efsdp"]
    return meshes.experts["efsdp"]


def shard_dim(shape: Sequence[int], ranks: int) -> int:
    """Return the dimension along which a parameter is sharded over some ranks.

    For experts' weights [experts, out, in] it is the first that the ranks divide, for all others 0.
    Dimension 0 of 192 experts over 1,024 ranks would give some ranks a whole expert and most none;
    of a matrix it gives a row more or less, and another dimension would cost a copy.
    """
    even = [d for d, size in enumerate(shape) if size % ranks == 0]
    return even[0] if len(shape) > 2 and even else 0


def _expand(network: nn.Module, plan: dict[str, str]) -> dict[str, str]:
    """Return a plan's style for the full name of every module and parameter that it covers.

    The plan has `*` for layer numbers, and a module's style holds for its parameters. Parameters
    come before their module: experts must be sharded before the module's hooks dispatch tokens.
    """
    styles = {}
    for name, module in network.named_modules():
        module_style = plan.get(_pattern(name))
        for parameter, _ in module.named_parameters(recurse=False):
            full_name = f"{name}.{parameter}".removeprefix(".")
            if style := plan.get(_pattern(full_name), module_style):
                styles[full_name] = style
        if module_style:
            styles[name] = module_style
    return styles


def _pattern(name: str) -> str:
    """Return a name with `*` for every layer number."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
