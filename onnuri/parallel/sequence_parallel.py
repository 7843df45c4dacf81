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
from collections.abc import Iterator
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

    Raises ConfigError for a class with weights of which it is not known what tokens they see.
    """
    _register()
    styles = dict(plan)
    for block, name in _blocks(network):
        if _is_cut(block, name, plan):
            styles |= {n: SCATTERED for n, style in _within(plan, name) if style == "rowwise"}
    return styles | {name: SUMMED for name in _norms(network)}


def share_tokens(network: Any, mesh: DeviceMesh, plan: dict[str, str]) -> None:
    """Share the tokens of the hidden states out over the ranks of a mesh, in place, in a network to
    which a plan of `plan_tokens` has been applied."""
    tokens = Tokens(mesh)
    network.model.layers[0].register_forward_pre_hook(tokens.enter)
    network.model.norm.register_forward_hook(tokens.leave)
    for block, name in _blocks(network):
        if SCATTERED in dict(_within(plan, name)).values():
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
        shape = (part.shape[0], self.count, part.shape[2])
        stride = torch.empty(shape, device="meta").stride()
        sharded = DTensor.from_local(
            part, self.mesh, [Shard(1)], run_check=False, shape=torch.Size(shape), stride=stride
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

    ALL_PARALLEL_STYLES.register(SCATTERED, RowwiseParallel(output_layouts=Shard(1)))


def _blocks(network: Any) -> Iterator[tuple[nn.Module, str]]:
    """Yield every layer's blocks with their full names: its modules that have matrices."""
    names = {module: name for name, module in network.named_modules()}
    for layer in network.model.layers:
        for child in layer.children():
            if any(p.ndim > 1 for p in child.parameters()):
                yield child, names[child]


def _norms(network: Any) -> Iterator[str]:
    """Yield the full names of the modules that see a rank's tokens only: layers' modules that have
    weights but no matrix, and the last norm.

    Raises ConfigError for weights that a layer has itself, and without a last norm.
    """
    names = {module: name for name, module in network.named_modules()}
    last = getattr(network.model, "norm", None)
    if last is None:
        raise _unknown(network.model, "without a norm after its layers")
    for layer in network.model.layers:
        if own := [name for name, _ in layer.named_parameters(recurse=False)]:
            raise _unknown(layer, f"with {own[0]} of its own")
        for child in layer.children():
            parameters = list(child.parameters())
            if parameters and all(p.ndim == 1 for p in parameters):
                yield from (names[m] for m in child.modules() if m._parameters)
    yield names[last]


def _unknown(module: nn.Module, what: str) -> ConfigError:
    """Return the error for a class whose hidden states cannot be followed."""
    return ConfigError(
        f"{type(module).__name__} {what}",
        "is not known to sequence parallelism",
        "add sp=off to the layout",
    )


def _within(plan: dict[str, str], name: str) -> list[tuple[str, str]]:
    """Return the entries of a plan for the modules and parameters of a module."""
    return [entry for entry in plan.items() if entry[0].startswith(f"{name}.")]


def _is_cut(block: nn.Module, name: str, plan: dict[str, str]) -> bool:
    """Return whether a plan cuts all products of a block, the last one alone along its rows."""
    styles = dict(_within(plan, name))
    if any(
        styles.get(f"{name}.{parameter}") not in CUT_STYLES
        for parameter, _ in block.named_parameters()
    ):
        return False
    modules = [name for name in styles if styles[name] == "rowwise" and f"{name}.weight" in styles]
    return len(modules) == 1
