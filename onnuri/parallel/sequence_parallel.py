"""This module shares the tokens of the hidden states out over the tensor-parallel ranks wherever no
product is cut: between attention and feed-forward, in the residual sum and in the norms
(Korthikanti et al. 2022, arXiv 2205.05198). Without it every rank of them keeps whole sequences
there.

A block (attention or feed-forward) gathers the tokens before it computes. What follows depends on
the block:

    cut     every product in it is cut by the class's plan: its last product's partial sums are
            reduced and scattered, in place of an all-reduce, and backward its input's gradient
    whole   its ranks end with equal outputs (mixtures, latent attention): each keeps its own part

Routers therefore see whole rows. Where the ranks do not divide a row's tokens, the last ones have
fewer. It knows no family by name, and changes no weight: a state fits with it and without.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from onnuri.errors import ConfigError

SCATTERED = "onnuri_rowwise_scattered"
"""name in transformers' plans of a product cut along its rows, whose output has a rank's tokens"""
SUMMED = "replicated_with_grad_allreduce"
"""transformers' name of a whole weight that ranks use on different numbers, as on tokens here"""
CUT_STYLES = {"colwise", "rowwise", SUMMED}
"""styles of the parameters of a block that the plan cuts"""


def plan_tokens(network: Any, plan: dict[str, str]) -> dict[str, str]:
    """Return a tensor-parallel plan (full names to styles) for tokens that are shared out: blocks'
    last products scatter their sums, and norms' gradients are summed over the ranks.

    Raises ConfigError for a class whose layers this module does not know.
    """
    _register()
    styles = dict(plan)
    for name, block in _blocks(network).items():
        if _is_cut(block, name, plan):
            inner = _within(plan, name).items()
            styles |= {product: SCATTERED for product, style in inner if style == "rowwise"}
    return styles | dict.fromkeys(_norms(network), SUMMED)


def share_tokens(network: Any, mesh: DeviceMesh, plan: dict[str, str]) -> None:
    """Share the tokens of the hidden states out over the ranks of a mesh, in place, in a network to
    which a plan of `plan_tokens` has been applied."""
    tokens = Tokens(mesh)
    network.model.layers[0].register_forward_pre_hook(tokens.enter)
    network.model.norm.register_forward_hook(tokens.leave)
    for name, block in _blocks(network).items():
        if SCATTERED in _within(plan, name).values():
            block.register_forward_pre_hook(tokens.before_cut, with_kwargs=True)
        else:
            block.register_forward_pre_hook(tokens.before_whole, with_kwargs=True)
            block.register_forward_hook(tokens.after_whole)


class Tokens:
    """A Tokens cuts hidden states [B, T, C] along their tokens, a part per rank, and joins them.

    Its methods but `cut` and `join` are hooks of modules.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        """Share tokens out over the ranks of a mesh of one axis."""
        self.mesh = mesh
        self.count = 0
        """T of the rows that are computed now, also where a layer is computed again"""

    def cut(self, whole: Tensor) -> Tensor:
        """Return this rank's part of hidden states that all ranks have; their gradient is
        gathered."""
        replicated = DTensor.from_local(whole, self.mesh, [Replicate()], run_check=False)
        return replicated.redistribute(placements=[Shard(1)]).to_local()

    def join(self, part: Tensor) -> DTensor:
        """Return whole hidden states of every rank's part. Their gradient is a part again: of
        partial sums where products are cut, else of equal gradients."""
        rows, _, channels = part.shape
        sharded = DTensor.from_local(
            part,
            self.mesh,
            [Shard(1)],
            run_check=False,
            shape=torch.Size((rows, self.count, channels)),  # ranks' parts may differ
            stride=(self.count * channels, channels, 1),
        )
        return sharded.redistribute(placements=[Replicate()])

    def enter(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Cut the input of the first layer, which comes from the embedding."""
        self.count = args[0].shape[1]
        return self.cut(args[0]), *args[1:]

    def leave(self, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Return the last norm's output whole: every rank computes the same loss."""
        return self.join(output).to_local()

    def before_cut(self, block: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Give a block whose products are cut all tokens, as a DTensor: plans then leave its
        gradient in partial sums, which `join` scatters, instead of summing one per product."""
        return self._with_hidden(args, kwargs, whole=False)

    def before_whole(self, block: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Give a block all tokens."""
        return self._with_hidden(args, kwargs, whole=True)

    def after_whole(self, block: nn.Module, args: Any, output: Any) -> Any:
        """Return this rank's part of a block's output, which may be the first of several."""
        hidden, *rest = output if isinstance(output, tuple) else (output,)
        if hidden.ndim != 3 or hidden.shape[1] != self.count:
            raise ConfigError(
                f"{type(block).__name__} of {list(hidden.shape)}",
                f"is no output of {self.count} tokens, which sequence parallelism would share out",
                "add sp=off to the layout",
            )
        return (self.cut(hidden), *rest) if isinstance(output, tuple) else self.cut(hidden)

    def _with_hidden(self, args: Any, kwargs: Any, whole: bool) -> tuple[Any, Any]:
        """Return a block's arguments with all tokens of its hidden states."""
        hidden = self.join(args[0] if args else kwargs["hidden_states"])
        value = hidden.to_local() if whole else hidden
        return ((value, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": value})


@functools.cache
def _register() -> None:
    """Register the style of SCATTERED in transformers; plans of others are not affected."""
    from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
    from transformers.distributed.tensor_parallel import RowwiseParallel

    styles: Any = ALL_PARALLEL_STYLES
    styles.register(SCATTERED, RowwiseParallel(output_layouts=Shard(1)))


def _parts(network: Any) -> dict[str, nn.Module]:
    """Return the modules of all layers that have weights, by their full names.

    Raises ConfigError for weights that a layer has itself: nothing says what tokens they see.
    """
    names = {module: name for name, module in network.named_modules()}
    parts = {}
    for layer in network.model.layers:
        if own := [name for name, _ in layer.named_parameters(recurse=False)]:
            raise _unknown(layer, f"with {own[0]} of its own")
        for child in layer.children():
            if any(True for _ in child.parameters()):
                parts[names[child]] = child
    return parts


def _blocks(network: Any) -> dict[str, nn.Module]:
    """Return attention and feed-forward of all layers, by their full names."""
    return {name: part for name, part in _parts(network).items() if _has_matrix(part)}


def _norms(network: Any) -> list[str]:
    """Return the full names of the norms between blocks and of the last one, which see a rank's
    tokens only. Raises ConfigError without a last norm."""
    if not hasattr(network.model, "norm"):
        raise _unknown(network.model, "without a norm after its layers")
    norms = [part for part in _parts(network).values() if not _has_matrix(part)]
    inner = {module for norm in (*norms, network.model.norm) for module in norm.modules()}
    return [name for name, module in network.named_modules() if module in inner]


def _has_matrix(part: nn.Module) -> bool:
    """Return whether a module has weights of more than one dimension, as no norm has."""
    return any(p.ndim > 1 for p in part.parameters())


def _unknown(module: nn.Module, what: str) -> ConfigError:
    """Return the error for a class whose hidden states cannot be followed."""
    return ConfigError(
        f"{type(module).__name__} {what}",
        "is not known to sequence parallelism",
        "add sp=off to the layout",
    )


def _within(plan: dict[str, str], name: str) -> dict[str, str]:
    """Return the entries of a plan for the modules and parameters within a module."""
    return {inner: style for inner, style in plan.items() if inner.startswith(f"{name}.")}


def _is_cut(block: nn.Module, name: str, plan: dict[str, str]) -> bool:
    """Return whether a plan cuts all products of a block, the last one alone along its rows."""
    styles = _within(plan, name)
    if any(styles.get(f"{name}.{p}") not in CUT_STYLES for p, _ in block.named_parameters()):
        return False
    modules = (f"{name}.{inner}" for inner, _ in block.named_modules())
    return [styles.get(module) for module in modules].count("rowwise") == 1
