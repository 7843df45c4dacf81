"""A training step of the real model at full size, on a CPU, in seconds: nothing is computed,
everything is counted.

The network, the loss, the parallel plan and the optimizer are those that train; tensors are fake
(shapes without values) and the process group is one rank of many that do not exist. What no CPU can
trace stands in `fake_ops.py`. Of many equal layers a few are traced and the others follow exactly,
or all are traced (`depth.py`).

    run(recipe, 1024, rank=0) -> DryRun
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.model.backbone import build_hf_model
from onnuri.model.loss import next_token_loss
from onnuri.planner.memory import GIB
from onnuri.planner.parallel import ParallelConfig, to_string
from onnuri.planner.recipe import Recipe
from onnuri.profile import depth, fake_ops
from onnuri.profile.trace import KINDS, Trace, TracedCollective, calls
from onnuri.training.layout import Meshes, Placement, local_sizes, parallelize
from onnuri.training.optim import Optimizers
from onnuri.training.step import ModelWithLoss, backward_and_step


class DryRun(Config):
    """One rank's step: a forward and a backward pass of a micro-batch, and the optimizer's
    update."""

    name: str
    gpus: int
    rank: int
    layout: ParallelConfig
    tokens: int
    """a sequence"""
    total_params: int
    local_params: int
    """that this rank holds"""
    imbalance: float
    """most parameters that a rank holds over the mean of all ranks"""
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    saved_bytes: int
    """activations that live when the backward pass begins"""
    activation_bytes: int
    """most of them at any time, unsharded gradients counted"""
    gathered_bytes: int
    """most of whole weights and of what collectives read and write"""
    peak_bytes: int
    at_peak: dict[str, int]
    """what lives at the peak, by kind"""
    flops: int
    collectives: tuple[TracedCollective, ...]
    layers: int
    traced_layers: int
    """in all steps; fewer than `layers` where each further one adds the same, more where that
    turned out not to hold"""
    seconds: float
    """that the dry run took"""

    @property
    def collective_bytes(self) -> int:
        """Return the bytes of all calls of all collectives."""
        return sum(c.bytes * c.calls for c in self.collectives)

    def __str__(self) -> str:
        lines = [
            f"{self.name} on {self.gpus} GPUs, rank {self.rank}: {to_string(self.layout)}",
            f"parameters {self.local_params / 1e6:,.1f}M of {self.total_params / 1e9:,.2f}B, "
            f"fullest rank {self.imbalance:.2f}x the mean",
            f"peak {self.peak_bytes / GIB:,.2f} GiB: "
            + ", ".join(f"{kind} {size / GIB:,.2f}" for kind, size in self.at_peak.items()),
            f"activations {self.activation_bytes / GIB:,.2f} GiB at most, {self.saved_bytes / GIB:,.2f} kept for the "
            f"backward pass",
            f"{self.flops / 1e12:,.1f} TFLOP",
        ]
        lines += [
            f"{c.name:<15} {c.group:<10} {c.ranks:>5} ranks {c.calls:>6} x {c.bytes / 2**20:>10,.2f} MiB"
            for c in sorted(self.collectives, key=lambda c: -c.bytes * c.calls)
            if c.bytes * c.calls > 2**20
        ]
        how = (
            "all"
            if self.traced_layers >= self.layers
            else f"{self.traced_layers}, from which the others follow,"
        )
        return "\n".join([*lines, f"{how} of {self.layers} layers traced in {self.seconds:.1f} s"])


@contextmanager
def ranks(rank: int, count: int) -> Iterator[None]:
    """Enter a process group of ranks that do not exist. Raises ConfigError for a rank outside."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if not 0 <= rank < count:
        raise ConfigError(f"rank {rank}", f"is outside 0 to {count - 1}", "give one of the ranks")
    if dist.is_initialized():
        raise ConfigError(
            "dry run", "cannot share a process that trains", "run it in a process of its own"
        )
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)
    try:
        yield
    finally:
        dist.destroy_process_group()


def run(
    recipe: Recipe,
    gpus: int,
    layout: ParallelConfig | None = None,
    rank: int = 0,
    tokens: int | None = None,
    placement: Placement = "even",
    whole: bool = False,
) -> DryRun:
    """Trace the step of a recipe with the ids that its media add, by its own layout unless another
    is given; `whole`: every layer of it.

    Raises ConfigError for a layout that does not divide, needs another engine or has no such rank.
    """
    layout = layout or recipe.layout.replace(dp=gpus // (recipe.layout.gpus // recipe.layout.dp))
    tokens = tokens or recipe.stages[0].tokens_per_sequence
    layout.check(recipe.omni, gpus, tokens, tokens * layout.dp * layout.micro_batch)
    values = recipe.values | {"vocab_size": recipe.omni.vocabulary}
    return trace(
        lambda: build_hf_model(recipe.family, values),
        recipe.name,
        layout,
        rank,
        tokens,
        placement,
        whole=whole,
    )


def trace(
    build: Callable[[], Any],
    name: str,
    layout: ParallelConfig,
    rank: int = 0,
    tokens: int = 4096,
    placement: Placement = "even",
    fused: bool = True,
    whole: bool = False,
) -> DryRun:
    """Trace the step of the causal language model of transformers that `build` makes; without
    `fused`, with its attention of a CPU."""
    began = time.perf_counter()
    with torch.device("meta"):
        network = build()
    total, layers = sum(p.numel() for p in network.parameters()), len(depth.layers_of(network))
    row, traced, counted = None if whole else depth.row_of(depth.layers_of(network)), 0, None

    def step(network: Any) -> depth.Counted:
        return _counted(network, layout, rank, tokens, placement, fused)

    if row:
        each = [_cut(network, row.kept(repeats)) for repeats in depth.REPEATS]
        traced = sum(len(depth.layers_of(n)) for n in each)
        with contextlib.suppress(depth.NotAffine):
            counted = depth.extend(row, [step(n) for n in each])
    if counted is None:
        counted, traced = step(network), traced + layers
    sizes = counted.sizes
    return DryRun(
        name=name,
        gpus=layout.gpus,
        rank=rank,
        layout=layout,
        tokens=tokens,
        total_params=total,
        local_params=int(sizes[rank]),
        imbalance=round(float(sizes.max() / sizes.double().mean()), 4),
        parameter_bytes=counted.living["parameters"],
        gradient_bytes=counted.most("gradients"),
        optimizer_bytes=counted.living["optimizer"],
        saved_bytes=counted.saved,
        activation_bytes=counted.most("activations"),
        gathered_bytes=counted.most("gathered"),
        peak_bytes=counted.peak.peak,
        at_peak={k: counted.peak.at_peak[k] for k in KINDS},
        flops=counted.flops,
        collectives=calls(counted.calls),
        layers=layers,
        traced_layers=traced,
        seconds=round(time.perf_counter() - began, 2),
    )


def _cut(network: Any, indices: list[int]) -> Any:
    """A copy of a network on the meta device with some of its layers."""
    layers = depth.layers_of(network)
    inside, name = next(
        (m, n) for m in network.modules() for n, child in m.named_children() if child is layers
    )
    try:
        setattr(inside, name, nn.ModuleList(layers[k] for k in indices))
        shorter = copy.deepcopy(network)
    finally:
        setattr(inside, name, layers)
    shorter.config.num_hidden_layers = len(indices)
    return shorter


def _counted(
    network: Any, layout: ParallelConfig, rank: int, tokens: int, placement: Placement, fused: bool
) -> depth.Counted:
    """What a rank's step counts of a network on the meta device, which is sharded in place."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with ranks(rank, layout.gpus), fake_ops.lazy_pieces():
        trainee = ready(network, fused)
        views = parallelize(
            network, layout, trainee, dispatch=fake_ops.BALANCED, placement=placement
        )
        with FakeTensorMode(allow_non_fake_inputs=True):  # weights come from the meta device
            trainee.to_empty(device="cpu")
            optimizer = started(trainee)
            batch = torch.zeros(layout.micro_batch, tokens, dtype=torch.long)
            counted, saved = count(trainee, optimizer, batch, layout, views)
        sizes = sum(
            (local_sizes(p, views) for p in trainee.parameters()), torch.zeros((), dtype=torch.long)
        )
    return depth.Counted(
        living=Counter({k: counted.living[k] for k in ("parameters", "optimizer")}),
        saved=saved,
        flops=counted.flops,
        calls=counted.calls,
        sizes=sizes,
        windows=counted.windows,
    )


def ready(network: Any, fused: bool) -> ModelWithLoss:
    """Return a network with its loss, its experts' products grouped and, in a trace, attention that
    a GPU would fuse."""
    fake_ops.register()
    if fused:
        network.set_attn_implementation(fake_ops.FUSED)
    network.config._experts_implementation = "grouped_mm"
    return ModelWithLoss(network, next_token_loss)


def started(module: nn.Module) -> Optimizers:
    """Return AdamW with its state made: a first step's peak would be without it."""
    optimizer = Optimizers(module, False, 1e-4, 0.1, (0.9, 0.95))
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(1e-4)
    module.zero_grad(set_to_none=True)
    return optimizer


def count(
    module: nn.Module, optimizer: Optimizers, batch: Tensor, layout: ParallelConfig, views: Meshes
) -> tuple[Trace, int]:
    """Return what a step counts, on tensors fake or real, and the bytes of activations kept for the
    backward pass."""
    counted = Trace(axes(views))
    counted.hold(module.parameters(), "parameters")
    counted.hold(
        (t for o in optimizer.each for state in o.state.values() for t in state.values()),
        "optimizer",
    )
    for p in module.parameters():
        p.register_post_accumulate_grad_hook(lambda p: counted.hold([p.grad], "gradients"))
    for each in optimizer.each:
        each.register_step_pre_hook(lambda *_: counted.begin(("update", 0)))
    with counted, depth.marked(depth.layers_of(module), counted.begin):
        loss = module(batch)
        saved = counted.living["activations"]
        assert isinstance(loss.weight, float)
        backward_and_step(module, loss, optimizer, 1e-4, 1.0, loss.weight * layout.dp)
    return counted, saved


def axes(views: Meshes) -> dict[str, str]:
    """Return the axis of each process group, by its name."""
    return {
        mesh.get_group(axis).group_name: axis
        for mesh in (views.experts, views.dense)
        for axis in mesh.mesh_dim_names or ()
    }
