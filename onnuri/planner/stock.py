"""Read a stock model's configuration as an `Architecture`. Knows fields by their names, and no
class of transformers.

Recipes give their values, which name every field; a built config gives its own (`from_config`). A
test holds the counts of both against the model on the meta device. A family that is not here is one
line in `_FAMILIES`; any other class is read by `meta_model.py`, which needs torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner.architecture import Architecture, Attention, Block, Experts

Values = Mapping[str, Any]


class _Family(NamedTuple):
    """What a model class has that no value of its config says, and which of its values say the
    rest."""

    latent: bool = False
    """whether attention is multi-head latent, else it has grouped queries"""
    windows: bool = False
    """whether `layer_types` says which layers have a sliding window"""
    qk_norm: bool = False
    attention_bias: bool = False
    """whether a value says if attention has biases"""
    mlp_bias: bool = False
    """whether a value says if the feed-forward has biases"""
    experts: tuple[str, str] | None = None
    """the names of the values that count routed and shared experts"""
    leading_dense: bool = True
    """whether `mlp_layer_types` says which layers have experts, else all do"""
    router_bias: bool = True
    """whether the router's scores are corrected by a bias for each expert"""
    norms: int = 2
    post_norm: bool = False
    """whether a value says if a norm stands behind each part too (peri-layer normalisation)"""
    expert_norm: bool = False
    """whether another norm stands behind the experts"""
    centred: bool = False
    gated: bool = False
    """whether attention's output and every norm but the one before a dense feed-forward are
    gated"""


_ROUTED = ("n_routed_experts", "n_shared_experts")
_FAMILIES = {
    "llama": _Family(attention_bias=True, mlp_bias=True),
    "hyperclovax": _Family(attention_bias=True, mlp_bias=True, post_norm=True),
    "solar_open": _Family(attention_bias=True, experts=_ROUTED, leading_dense=False),
    "exaone_moe": _Family(
        windows=True, qk_norm=True, experts=("num_experts", "num_shared_experts")
    ),
    "axk1": _Family(latent=True, experts=_ROUTED, expert_norm=True),
    "axk2": _Family(latent=True, experts=_ROUTED, gated=True),
    "vaetki": _Family(
        latent=True, windows=True, experts=_ROUTED, router_bias=False, norms=4, centred=True
    ),
}
FAMILIES = tuple(_FAMILIES)
"""the families that Onnuri's own trainer builds (`model/backbone.py`)"""


def from_config(config: Any, name: str = "") -> Architecture:
    """Return the architecture of a config object of transformers whose family is known here."""
    return architecture(name or config.model_type, config.model_type, config.to_dict())


def architecture(name: str, family: str, values: Values) -> Architecture:
    """Return the architecture that a family's configuration values describe. Raises ConfigError for
    an unknown family or a missing value."""
    if family not in _FAMILIES:
        raise ConfigError(
            Phrase("family {!r}", family),
            "is not known",
            Phrase("use one of {}", ", ".join(_FAMILIES)),
        )
    try:
        layers = [_block(_FAMILIES[family], values, k) for k in range(values["num_hidden_layers"])]
        return Architecture(
            name=name,
            vocabulary=values["vocab_size"],
            hidden=values["hidden_size"],
            blocks=merged(layers),
            tied=values["tie_word_embeddings"],
            context=values["max_position_embeddings"],
        )
    except KeyError as missing:
        raise ConfigError(
            name, Phrase("has no {}", missing), Phrase("give every value of the family {}", family)
        ) from None


def merged(layers: list[Block]) -> tuple[Block, ...]:
    """Return single layers as blocks, with equal neighbours joined and counted."""
    return tuple(
        block.replace(count=len(list(alike))) for block, alike in itertools.groupby(layers)
    )


def _block(f: _Family, v: Values, k: int) -> Block:
    """Return layer `k` of a family as a block of one layer, by the values `v` of its
    configuration."""
    sliding = f.windows and v["layer_types"][k] == "sliding_attention"
    window = v["sliding_window"] if sliding else None
    sparse = f.experts and (not f.leading_dense or v["mlp_layer_types"][k] == "sparse")
    return Block(
        count=1,
        attention=_latent(f, v, window) if f.latent else _grouped(f, v, window),
        mlp=0 if sparse else v["intermediate_size"],
        mlp_bias=f.mlp_bias and v["mlp_bias"],
        experts=_experts(f, f.experts, v) if f.experts and sparse else None,
        norms=f.norms + 2 * (f.post_norm and v["use_post_norm"]) + bool(f.expert_norm and sparse),
        centred=f.centred,
        gate_rank=v["gated_norm_rank"] if f.gated else 0,
        gated_norms=1 + bool(sparse) if f.gated else 0,
    )


def _grouped(f: _Family, v: Values, window: int | None) -> Attention:
    """Return grouped-query attention by the configuration's values."""
    return Attention(
        heads=v["num_attention_heads"],
        kv_heads=v["num_key_value_heads"],
        head_dim=v.get("head_dim") or v["hidden_size"] // v["num_attention_heads"],
        window=window,
        qk_norm=f.qk_norm,
        bias=f.attention_bias and v["attention_bias"],
    )


def _latent(f: _Family, v: Values, window: int | None) -> Attention:
    """Return multi-head latent attention by the configuration's values."""
    return Attention(
        heads=v["num_attention_heads"],
        kv_heads=v["num_attention_heads"],
        head_dim=v["qk_nope_head_dim"],
        value_dim=v["v_head_dim"],
        window=window,
        query_rank=v["q_lora_rank"],
        kv_rank=v["kv_lora_rank"],
        rope_dim=v["qk_rope_head_dim"],
        gated=f.gated,
    )


def _experts(f: _Family, names: tuple[str, str], v: Values) -> Experts:
    """Return a layer's experts; `names` are the values that count routed and shared ones."""
    routed, shared = (v[name] for name in names)
    return Experts(
        routed=routed,
        topk=v["num_experts_per_tok"],
        width=v["moe_intermediate_size"],
        shared=shared,
        router_bias=routed * f.router_bias,
    )
