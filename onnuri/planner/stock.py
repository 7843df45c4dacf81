"""A stock model's configuration read as an `Architecture`. Knows fields by their names, and no
class of transformers.

Recipes give their values, which name every field; a built config gives its own (`from_config`). A
test holds the counts of both against the model on the meta device. A family that is not here is one
line in `_FAMILIES`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner.architecture import Architecture, Attention, Block, Experts

Values = Mapping[str, Any]


def from_config(config: Any, name: str = "") -> Architecture:
    """Of a config of transformers."""
    return architecture(name or config.model_type, config.model_type, config.to_dict())


def architecture(name: str, family: str, values: Values) -> Architecture:
    """Of a family's values. Raises ConfigError for an unknown family or a missing value."""
    if family not in _FAMILIES:
        raise ConfigError(
            Phrase("family {!r}", family),
            "is not known",
            Phrase("use one of {}", ", ".join(_FAMILIES)),
        )
    try:
        layers = [_FAMILIES[family](values, k) for k in range(values["num_hidden_layers"])]
        blocks = tuple(
            block.replace(count=len(list(alike))) for block, alike in itertools.groupby(layers)
        )
        return Architecture(
            name=name,
            vocabulary=values["vocab_size"],
            hidden=values["hidden_size"],
            blocks=blocks,
            tied=values["tie_word_embeddings"],
            context=values["max_position_embeddings"],
        )
    except KeyError as missing:
        raise ConfigError(
            f"{name}",
            Phrase("has no {}", missing),
            Phrase("give every value of the family {}", family),
        ) from None


def _dense(v: Values, k: int) -> Block:
    """Llama's layer."""
    return Block(
        count=1,
        attention=_grouped(v, bias=v["attention_bias"]),
        mlp=v["intermediate_size"],
        mlp_bias=v["mlp_bias"],
    )


def _hyperclovax(v: Values, k: int) -> Block:
    """With a norm behind each part too (peri-layer normalisation)."""
    return _dense(v, k).replace(norms=2 + 2 * v["use_post_norm"])


def _solar_open(v: Values, k: int) -> Block:
    return Block(
        count=1,
        attention=_grouped(v, bias=v["attention_bias"]),
        experts=_experts(v, v["n_routed_experts"], v["n_shared_experts"], corrected=True),
    )


def _exaone_moe(v: Values, k: int) -> Block:
    """Sliding windows by layer, queries and keys normed."""
    window = v["sliding_window"] if v["layer_types"][k] == "sliding_attention" else None
    return _either(
        v,
        k,
        Block(count=1, attention=_grouped(v, window=window, qk_norm=True)),
        _experts(v, v["num_experts"], v["num_shared_experts"], corrected=True),
    )


def _axk1(v: Values, k: int) -> Block:
    """A third norm, behind the experts."""
    block = _either(
        v,
        k,
        Block(count=1, attention=_latent(v)),
        _experts(v, v["n_routed_experts"], v["n_shared_experts"], corrected=True),
    )
    return block.replace(norms=2 + bool(block.experts))


def _axk2(v: Values, k: int) -> Block:
    """Attention's output is gated, and so is every norm but the one before a dense feed-forward."""
    block = _either(
        v,
        k,
        Block(count=1, attention=_latent(v).replace(gated=True), gate_rank=v["gated_norm_rank"]),
        _experts(v, v["n_routed_experts"], v["n_shared_experts"], corrected=True),
    )
    return block.replace(gated_norms=1 + bool(block.experts))


def _vaetki(v: Values, k: int) -> Block:
    window = v["sliding_window"] if v["layer_types"][k] == "sliding_attention" else None
    return _either(
        v,
        k,
        Block(count=1, attention=_latent(v, window), norms=4, centred=True),
        _experts(v, v["n_routed_experts"], v["n_shared_experts"], corrected=False),
    )


_FAMILIES: dict[str, Callable[[Values, int], Block]] = {
    "llama": _dense,
    "hyperclovax": _hyperclovax,
    "solar_open": _solar_open,
    "exaone_moe": _exaone_moe,
    "axk1": _axk1,
    "axk2": _axk2,
    "vaetki": _vaetki,
}


FAMILIES = tuple(_FAMILIES)
"""that Onnuri's own trainer builds (`model/backbone.py`)"""


def _either(v: Values, k: int, block: Block, experts: Experts) -> Block:
    """A block with experts or, where the layer is said to be dense, with a feed-forward."""
    return (
        block.replace(experts=experts)
        if v["mlp_layer_types"][k] == "sparse"
        else block.replace(mlp=v["intermediate_size"])
    )


def _grouped(
    v: Values, window: int | None = None, qk_norm: bool = False, bias: bool = False
) -> Attention:
    size = v.get("head_dim") or v["hidden_size"] // v["num_attention_heads"]
    return Attention(
        heads=v["num_attention_heads"],
        kv_heads=v["num_key_value_heads"],
        head_dim=size,
        window=window,
        qk_norm=qk_norm,
        bias=bias,
    )


def _latent(v: Values, window: int | None = None) -> Attention:
    return Attention(
        heads=v["num_attention_heads"],
        kv_heads=v["num_attention_heads"],
        head_dim=v["qk_nope_head_dim"],
        value_dim=v["v_head_dim"],
        window=window,
        query_rank=v["q_lora_rank"],
        kv_rank=v["kv_lora_rank"],
        rope_dim=v["qk_rope_head_dim"],
    )


def _experts(v: Values, routed: int, shared: int, corrected: bool) -> Experts:
    return Experts(
        routed=routed,
        topk=v["num_experts_per_tok"],
        width=v["moe_intermediate_size"],
        shared=shared,
        router_bias=routed * corrected,
    )
