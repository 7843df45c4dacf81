"""This module traces a training step of a real model at full size on a CPU, in seconds: nothing is
computed, and bytes, FLOPs and collectives are counted.

The network, the loss, the parallel plan and the optimizer are those that train; tensors are fake
(shapes without values), and the process group is one rank of many that do not exist. What no CPU
can trace is replaced in `fake_ops.py`. Of many equal layers a few are traced and the others follow
exactly, or all are traced (`depth.py`).

    run(recipe, 1024, rank=0) -> DryRun
"""

from __future__ import annotations

import contextlib
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
from onnuri.model.layers import layers_of, with_layers
from onnuri.model.loss import next_token_loss
from onnuri.parallel.apply import Placement, parallelize, prepare_layers
from onnuri.parallel.mesh import Meshes, local_sizes
from onnuri.parallel.model import ModelWithLoss
from onnuri.parallel.working_weights import WorkingWeights
from onnuri.planner.memory import GIB
from onnuri.planner.parallel import ParallelConfig, to_string
from onnuri.planner.recipe import Recipe
from onnuri.profile import depth, fake_ops
from onnuri.profile.trace import KINDS, Trace, TracedCollective, calls
from onnuri.training.optim import Optimizers
from onnuri.training.step import update_weights


class DryRun(Config):
    """A DryRun holds what one rank's step counts: a forward and a backward pass of one micro-batch,
    and the optimizer's update."""

    name: str
    gpus: int
    rank: int
    layout: ParallelConfig
    tokens: int
    """tokens per sequence"""
    total_params: int
    local_params: int
    """parameters that this rank holds"""
    imbalance: float
    """most parameters that a rank holds over the mean of all ranks"""
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    saved_bytes: int
    """activations that live when the backward pass begins"""
    activation_bytes: int
    """most bytes of activations at any time; unsharded gradients count among them"""
    gathered_bytes: int
    """most bytes at any time of gathered weights and of collectives' buffers"""
    peak_bytes: int
    at_peak: dict[str, int]
    """bytes that live at the peak, by kind"""
    flops: int
    collectives: tuple[TracedCollective, ...]
    layers: int
    traced_layers: int
    """layers traced in all steps together: fewer than `layers` if each further one adds the same,
    more if that turned out not to hold"""
    seconds: float
    """seconds that the dry run took"""

    @property
    def collective_bytes(self) -> int:
        """Return the bytes of all collectives of the step together."""
        return sum(c.bytes * c.calls for c in self.collectives)

    def __str__(self) -> str:
        """Return the figures as lines of text, collectives of less than 1 MiB left out."""
        lines = [
            f"{self.name} on {self.gpus} GPUs, rank {self.rank}: {to_string(self.layout)}",
            f"parameters {self.local_params / 1e6:,.1f}M of {self.total_params / 1e9:,.2f}B, "
            f"fullest rank {self.imbalance:.2f}x the mean",
            f"peak {self.peak_bytes / GIB:,.2f} GiB: "
            + ", ".join(f"{kind} {size / GIB:,.2f}" for kind, size in self.at_peak.items()),
            f"activations {self.activation_bytes / GIB:,.2f} GiB at most, "
            f"{self.saved_bytes / GIB:,.2f} kept for the backward pass",
            f"{self.flops / 1e12:,.1f} TFLOP",
        ]
        lines += [
            f"{c.name:<15} {c.group:<10} {c.ranks:>5} ranks "
            f"{c.calls:>6} x {c.bytes / 2**20:>10,.2f} MiB"
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
def fake_process_group(rank: int, count: int) -> Iterator[None]:
    """Enter a process group of `count` ranks of which none but this one exists, for a trace.

    Raises ConfigError for a rank outside and in a process that already has a process group.
    """
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
    """Return the traced step of one rank of a recipe's model, with the ids of its media, over some
    GPUs.

    `layout` defaults to the recipe's own and `tokens` per sequence to its first stage's; with
    `whole` every layer is traced. Raises ConfigError for a layout that does not divide, that needs
    another engine or that has no such rank.
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
    """Return the traced step of one rank of the causal language model of transformers that `build`
    returns.

    Without `fused`, attention is that of a CPU; with `whole` every layer is traced.
    """
    start = time.perf_counter()
    with torch.device("meta"):
        network = build()
    total, layers = sum(p.numel() for p in network.parameters()), len(layers_of(network))
    pattern = None if whole else depth.find_pattern(layers_of(network))
    traced_layers, counts = 0, None

    def step(network: Any) -> depth.StepCounts:
        """Return what this rank's step of a network counts."""
        return _trace_rank(network, layout, rank, tokens, placement, fused)

    if pattern:
        cut_networks = [with_layers(network, pattern.layers_of_cut(r)) for r in depth.REPEATS]
        traced_layers = sum(len(layers_of(n)) for n in cut_networks)
        with contextlib.suppress(depth.NotAffine):
            counts = depth.extrapolate(pattern, [step(n) for n in cut_networks])
    if counts is None:
        counts, traced_layers = step(network), traced_layers + layers
    sizes = counts.sizes
    return DryRun(
        name=name,
        gpus=layout.gpus,
        rank=rank,
        layout=layout,
        tokens=tokens,
        total_params=total,
        local_params=int(sizes[rank]),
        imbalance=round(float(sizes.max() / sizes.double().mean()), 4),
        parameter_bytes=counts.living["parameters"],
        gradient_bytes=counts.most("gradients"),
        optimizer_bytes=counts.living["optimizer"],
        saved_bytes=counts.saved,
        activation_bytes=counts.most("activations"),
        gathered_bytes=counts.most("gathered"),
        peak_bytes=counts.peak.peak,
        at_peak={k: counts.peak.at_peak[k] for k in KINDS},
        flops=counts.flops,
        collectives=calls(counts.calls),
        layers=layers,
        traced_layers=traced_layers,
        seconds=round(time.perf_counter() - start, 2),
    )


def _trace_rank(
    network: Any, layout: ParallelConfig, rank: int, tokens: int, placement: Placement, fused: bool
) -> depth.StepCounts:
    """Return what one rank's step counts; the network, on the meta device, is sharded in place."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with fake_process_group(rank, layout.gpus), fake_ops.lazy_pieces():
        model_with_loss = prepare_for_trace(network, fused)
        meshes = None
        if layout.gpus > 1:
            meshes = parallelize(
                network, layout, model_with_loss, dispatch=fake_ops.BALANCED, placement=placement
            )
        else:
            prepare_layers(network, layout, compiled=False)
        with FakeTensorMode(allow_non_fake_inputs=True):  # weights come from the meta device
            model_with_loss.to_empty(device="cpu")
            if not meshes and network.config.tie_word_embeddings:
                network.tie_weights()  # which `to_empty` has parted
            optimizer = adamw_with_state(model_with_loss)
            batch = torch.zeros(layout.micro_batch, tokens, dtype=torch.long)
            copies = None if meshes else WorkingWeights(model_with_loss, torch.bfloat16)
            step_trace, saved = trace_step(
                model_with_loss, optimizer, batch, layout, meshes, copies
            )
        parameters = list(model_with_loss.parameters())
        if meshes:
            sizes = sum(
                (local_sizes(p, meshes) for p in parameters), torch.zeros((), dtype=torch.long)
            )
        else:
            sizes = torch.tensor([sum(p.numel() for p in parameters)])
    return depth.StepCounts(
        living=Counter({k: step_trace.living[k] for k in ("parameters", "optimizer")}),
        saved=saved,
        flops=step_trace.flops,
        calls=step_trace.calls,
        sizes=sizes,
        windows=step_trace.windows,
    )


def prepare_for_trace(network: Any, fused: bool) -> ModelWithLoss:
    """Return a network with its next-token loss as one module, its experts' products grouped; with
    `fused`, its attention counts as a GPU's fused kernel."""
    fake_ops.register()
    if fused:
        network.set_attn_implementation(fake_ops.FUSED)
    network.config._experts_implementation = "grouped_mm"
    return ModelWithLoss(network, next_token_loss)


def adamw_with_state(module: nn.Module) -> Optimizers:
    """Return a module's AdamW after one step on zero gradients, so that its state exists and counts
    in the peak of the step that is traced."""
    optimizer = Optimizers(module, False, 1e-4, 0.1, (0.9, 0.95))
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(1e-4)
    module.zero_grad(set_to_none=True)
    return optimizer


def trace_step(
    module: nn.Module,
    optimizer: Optimizers,
    batch: Tensor,
    layout: ParallelConfig,
    meshes: Meshes | None,
    copies: WorkingWeights | None = None,
) -> tuple[Trace, int]:
    """Run one step of `module` (a ModelWithLoss) and return its trace, and the bytes of activations
    that live when the backward pass begins.

    `batch` holds ids [B, T]; tensors may be fake or real. On one rank, without meshes, `copies` are
    the weights that the step computes with.
    """
    step_trace = Trace(axis_by_group(meshes) if meshes else {})
    step_trace.hold(module.parameters(), "parameters")
    if copies:
        step_trace.hold((copy for _, copy in copies.pairs), "parameters")
        for weight, copy in copies.pairs:
            copy.register_post_accumulate_grad_hook(
                lambda _, weight=weight: step_trace.hold([weight.grad], "gradients")
            )
    step_trace.hold(
        (t for o in optimizer.each for state in o.state.values() for t in state.values()),
        "optimizer",
    )
    for p in module.parameters():
        p.register_post_accumulate_grad_hook(lambda p: step_trace.hold([p.grad], "gradients"))
    for each in optimizer.each:
        each.register_step_pre_hook(lambda *_: step_trace.begin(("update", 0)))
    with step_trace, depth.mark_layers(layers_of(module), step_trace.begin):
        with copies.in_place() if copies else contextlib.nullcontext():
            loss = module(batch)
            saved = step_trace.living["activations"]
            assert isinstance(loss.weight, float)
            (loss.sum / (loss.weight * layout.dp)).backward()
        update_weights(module, optimizer, 1e-4, 1.0)
    return step_trace, saved


def axis_by_group(meshes: Meshes) -> dict[str, str]:
    """Return the mesh axis ("fsdp", "ep", …) of each process group by the group's name."""
    return {
        mesh.get_group(axis).group_name: axis
        for mesh in (meshes.experts, meshes.dense)
        for axis in mesh.mesh_dim_names or ()
    }
