"""This module turns on activation checkpointing: what a layer keeps for its backward pass, and
what it computes again.

It knows no rank and no mesh.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def checkpoint_activations(network: Any, how: Literal["selective", "full"]) -> None:
    """Turn on activation checkpointing in every layer of a network.

    selective: matrix products, attention and dispatched tokens are saved, the rest is recomputed in
    the backward pass; full: everything but a layer's input is recomputed.
    """
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    # a layer that is computed again must draw the same numbers
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": draws(network)}
    if how == "selective":
        settings["context_fn"] = lambda: create_selective_checkpoint_contexts(_policy)
    network.activation_checkpointing_enable(settings)


def draws(network: nn.Module) -> bool:
    """Return whether a network's layers draw random numbers in training."""
    for module in network.modules():
        if isinstance(module, _DropoutNd) and module.p:
            return True
        if getattr(module, "attention_dropout", 0) or getattr(module, "jitter_noise", 0):
            return True
    return False


def _policy(context: Any, operator: Any, *args: Any, **named: Any) -> Any:
    """Return whether selective checkpointing saves an operator's output or recomputes it."""
    from torch.utils.checkpoint import CheckpointPolicy

    if operator.name().split(".")[0] in SAVED_OPERATORS:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


SAVED_OPERATORS = {
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
"""operators whose outputs selective activation checkpointing saves"""
