"""Look up public models' architectures by name in `data/shapes.json`, each with its source; an
unlisted one is inferred from what is known.

Knows no speed. What a table's row says of an architecture goes before what the list says.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
from typing import Any

from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner import sizes
from onnuri.planner.architecture import Architecture, Attention, Block, Experts
from onnuri.planner.hardware import DATA

VOCABULARIES = (128_256, 32_000, 51_200, 102_400, 152_064, 200_064, 256_000)
"""sizes of vocabularies of public models, the commonest first, with which an unlisted model is
tried"""
Spec = dict[str, Any]


@functools.cache
def table() -> dict[str, Spec]:
    """Return the listed models by name and by alias, reduced to lower-case letters, digits and
    points."""
    listed = json.loads((DATA / "shapes.json").read_text(encoding="utf-8"))
    return {_normalized(name): spec for spec in listed for name in (spec["name"], *spec["aliases"])}


def names() -> list[str]:
    """Return the names of the listed models, sorted."""
    return sorted({spec["name"] for spec in table().values()})


def listed(name: str) -> Spec | None:
    """Return the listed traits of a model, its family's if only those are known, or None."""
    plain = _normalized(name)
    if plain in table():
        return table()[plain]
    families = [
        spec
        for key, spec in table().items()
        if spec.get("family")
        and plain.startswith(key)
        and re.fullmatch(r"[\d.]+[bt]", plain[len(key) :])
    ]
    return families[0] if families else None


def shape(name: str, **known: Any) -> Architecture:
    """Return a listed model's architecture, with some traits changed by `known`. Raises ConfigError
    for an unknown name."""
    spec = listed(name)
    if spec is None:
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.3) or names()[:5]
        raise ConfigError(
            Phrase("model {!r}", name),
            "is not in the list of shapes",
            Phrase("use {}, or give its columns", ", ".join(near)),
        )
    return build({**spec, **known, "name": name})


def infer(
    name: str, total: float | None, active: float | None, mixture: bool = False, **known: Any
) -> Architecture:
    """Return a model's architecture from its listed traits and `known` columns, or a plain
    architecture of its parameter counts.

    An unlisted model is what its own columns or the size in its name say, never another model;
    `unsure` is 1 where most of it is assumed. With `mixture`, experts are assumed where no column
    names them. Raises ConfigError where nothing tells.
    """
    known = {k: v for k, v in known.items() if v is not None}
    unsure = 0.0
    if spec := listed(name):
        merged = {**spec, **known, "name": name}
        whole = {"layers", "hidden", "heads"} <= merged.keys() and not (
            total and spec.get("family")
        )
        if whole and (merged.get("experts") or not mixture):
            return build(merged)
        known = {k: v for k, v in merged.items() if k != "tied"}  # a family's members differ in it
    if total is None and not {"layers", "hidden"} <= known.keys():
        unsure = 1.0
        if size := sizes.in_name(name):
            total, active = size[0], active or size[1]
            mixture = mixture or bool(size[1])
        elif "layers" in known:
            known["hidden"] = sizes.ASPECT * known["layers"]
        else:
            raise ConfigError(
                Phrase("model {!r}", name),
                "has neither a listed shape nor a parameter count",
                "give total_params_B, or layers, hidden and heads",
            )
    if mixture and not known.get("experts"):
        return _mixture(total, active, known).replace(name=name, unsure=1.0)
    return build({**_guess(total, known), "name": name}).replace(unsure=unsure)


def _mixture(total: float | None, active: float | None, known: Spec) -> Architecture:
    """Return a mixture of which no column names the experts: as many as the parameter counts
    require, by the rule of `sizes.py`."""
    if not {"layers", "hidden"} <= known.keys():
        if total is None:
            raise ConfigError("a mixture", "has no parameter count", "give total_params_B")
        return sizes.of(total, active) if active and active < total else sizes.mixture(total)
    spec = {"heads": max(1, known["hidden"] // 128), "vocab": VOCABULARIES[0]} | known
    rest = build({**spec, "ffn": 1}).num_params()
    width = spec.get("expert_ffn") or max(128, round(0.3 * spec["hidden"] / 128) * 128)
    layer = spec["layers"] * 3 * spec["hidden"] * width
    routed = max(2, round((total - rest) / layer)) if total else 128
    chosen = spec.get("topk") or (max(1, round((active - rest) / layer)) if active else 8)
    return build({**spec, "experts": max(routed, chosen), "topk": chosen, "expert_ffn": width})


def _guess(total: float | None, known: Spec) -> Spec:
    """Return `known` traits completed by those, among traits that public models have, whose count
    is nearest to `total` parameters."""
    spec = dict(known)
    if "hidden" not in spec:  # layers = hidden / 128 and 12 hidden^2 a layer, as GPT-3's family
        spec["hidden"] = max(1024, round(((total or 1e9) * 128 / 12) ** (1 / 3) / 256) * 256)
    spec.setdefault("layers", max(8, spec["hidden"] // 128))
    spec.setdefault("heads", max(8, spec["hidden"] // 128))
    free: dict[str, tuple[Any, ...]] = {
        "vocab": VOCABULARIES,
        "gated": (True, False),
        "tied": (False, True),
    }
    if spec.get("experts"):
        free = {
            "vocab": VOCABULARIES[:1],
            "shared": (0, 1, 2),
            "dense_layers": (0, 1, 3),
            "head_dim": (128, None),
        }
        spec.setdefault("topk", 8)
        spec.setdefault("expert_ffn", spec["hidden"] // 4)
    elif "ffn" not in spec:
        free["ffn"] = (4 * spec["hidden"], 7 * spec["hidden"] // 2, 8 * spec["hidden"] // 3)
    free = {k: v for k, v in free.items() if k not in spec}
    candidates = [
        {**spec, **dict(zip(free, values, strict=True))}
        for values in itertools.product(*free.values())
    ]
    return (
        min(candidates, key=lambda s: round(abs(build(s).num_params() / total - 1), 2))
        if total
        else candidates[0]
    )


def build(spec: Spec) -> Architecture:
    """Return the architecture that the traits of one listed model describe."""
    hidden, layers = spec["hidden"], spec["layers"]
    gated, experts = spec.get("gated", True), _experts(spec)
    dense = spec.get("dense_layers", 0) if experts else layers
    width = spec.get("ffn") or 4 * hidden
    if "mamba_layers" in spec:
        blocks = _hybrid(spec, experts)
    else:
        blocks = []
        for attention, share in _attentions(spec):
            for count, mlp, routed in (
                (round(dense * share), width, None),
                (round(layers * share) - round(dense * share), 0, experts),
            ):
                if count:
                    blocks.append(
                        Block(
                            count=count,
                            attention=attention,
                            mlp=mlp,
                            experts=routed,
                            gated=gated,
                            mlp_bias=spec.get("bias", False) and routed is None,
                        )
                    )
    mtp = _mtp(spec, experts, width) * int(spec.get("mtp", 0))
    return Architecture(
        name=spec.get("name", "unnamed"),
        vocabulary=spec.get("vocab", 128_256),
        hidden=hidden,
        blocks=tuple(blocks),
        tied=spec.get("tied", False),
        mtp=mtp,
        positions=spec.get("positions", 2048) if spec.get("learned_positions") else 0,
    )


def _attentions(spec: Spec) -> list[tuple[Attention, float]]:
    """Return the kinds of attention of a model and the share of layers that have each."""
    heads = spec["heads"]
    full = Attention(
        heads=heads,
        kv_heads=spec.get("kv_heads") or heads,
        head_dim=spec.get("head_dim") or max(1, spec["hidden"] // heads),
        query_rank=spec.get("query_rank", 0),
        kv_rank=spec.get("kv_rank", 0),
        rope_dim=spec.get("rope_dim", 0),
        qk_norm=spec.get("qk_norm", False),
        bias=spec.get("bias", False),
        sinks=spec.get("sinks", False),
    )
    if not spec.get("window"):
        return [(full, 1.0)]
    share = 1 / spec["full_every"] if "full_every" in spec else 0.0
    return [
        (a, s) for a, s in ((full.replace(window=spec["window"]), 1 - share), (full, share)) if s
    ]


def _experts(spec: Spec) -> Experts | None:
    """Return the mixture of experts of a model's layers; None for a dense model."""
    if not spec.get("experts"):
        return None
    topk = spec.get("topk") or min(
        8, spec["experts"]
    )  # a row may give experts to a model listed as dense
    width = spec.get("expert_ffn") or spec.get("ffn") or spec["hidden"] // 4
    return Experts(
        routed=spec["experts"],
        topk=topk,
        width=width,
        shared=spec.get("shared", 0),
        shared_width=spec.get("shared_ffn"),
        bias=spec.get("bias", False),
        latent=spec.get("latent", 0),
    )


def _mtp(spec: Spec, experts: Experts | None, width: int) -> tuple[Block, ...]:
    """Return the block of one multi-token prediction layer: the last kind of attention, and the
    model's experts or a feed-forward of `width`."""
    attention = _attentions(spec)[-1][0]
    return (
        Block(
            count=1,
            attention=attention,
            mlp=0 if experts else width,
            experts=experts,
            gated=spec.get("gated", True),
        ),
    )


def _hybrid(spec: Spec, experts: Experts | None) -> list[Block]:
    """Return the blocks of a model whose layers are each attention, a state-space mixer or a
    feed-forward (Nemotron-H, arXiv 2504.03624)."""
    hidden, gated = spec["hidden"], spec.get("gated", True)
    inner, state = spec["mamba_heads"] * spec["mamba_head_dim"], spec["mamba_state"]
    groups = 2 * spec["mamba_groups"] * state
    mixer = (
        hidden * (2 * inner + groups + spec["mamba_heads"])
        + inner * hidden
        + 5 * (inner + groups)
        + inner
    )
    rest = spec["layers"] - spec["attention_layers"] - spec["mamba_layers"]
    return [
        Block(count=spec["attention_layers"], attention=_attentions(spec)[0][0], norms=1),
        Block(
            count=spec["mamba_layers"],
            mixer_params=mixer,
            mixer_width=inner,
            mixer_state=state,
            norms=1,
        ),
        Block(count=rest, mlp=0 if experts else spec["ffn"], experts=experts, gated=gated, norms=1),
    ]


def _normalized(name: str) -> str:
    """Return a model's name in lower-case letters, digits and points of sizes, so that a version's
    hyphen does not count."""
    return re.sub(r"[^a-z0-9.]", "", name.lower())
