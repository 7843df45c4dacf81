"""Make architectures by rule for a size alone: what `onnuri plan 70B`, `300B-A15B` and the ladder
of `onnuri plan budget` are.

Knows no published model. A rule is no model: a plan with one says so.
"""

from __future__ import annotations

import re

from onnuri.errors import ConfigError
from onnuri.planner.architecture import Architecture, Attention, Block, Experts

ASPECT = 128
"""hidden width per layer, as of Llama 3's 8B and 405B; heads of 128, 8 groups of keys and values"""
VOCABULARY = 131_072
DEPTHS = (4, 8, 12, *range(16, 1025, 8))
"""numbers of layers, and as many heads: multiples that tensor parallelism and pipelines divide"""
SMALLEST, LARGEST = 1e8, 1e14
"""parameters for which the rule is meant"""
TIED = 1.5e9
"""parameters below which embedding and head are one matrix, as of Llama 3.2's 1B and Qwen's small
ones"""
SPARSITY = 12.0
"""total over active parameters where only the total is known: assumed. The median of the 23
mixtures in `shapes.json` is 8.8, of old and new ones; those of 2025 and later are sparser"""
UNIT = {"M": 1e6, "B": 1e9, "T": 1e12}
SIZE = re.compile(r"(\d+(?:\.\d+)?)([MBT])(?:-?A(\d+(?:\.\d+)?)([MBT]))?", re.I)


def dense(layers: int) -> Architecture:
    """Return a dense architecture of so many layers: a gated feed-forward of 3.5 times the width,
    as of Llama 3."""
    width = ASPECT * layers
    return Architecture(
        name=f"dense-{layers}",
        vocabulary=VOCABULARY,
        hidden=width,
        blocks=(Block(count=layers, attention=_attention(width), mlp=width * 7 // 2),),
    )


def sparse(layers: int) -> Architecture:
    """Return a mixture-of-experts architecture of so many layers: 128 experts of 0.3 times the
    width, 8 chosen and one shared, between Solar Open, K-EXAONE and A.X K1."""
    width = ASPECT * layers
    experts = Experts(routed=128, topk=8, width=round(width * 0.3 / 128) * 128, shared=1)
    return Architecture(
        name=f"sparse-{layers}",
        vocabulary=VOCABULARY,
        hidden=width,
        blocks=(Block(count=layers, attention=_attention(width), experts=experts),),
    )


def _attention(width: int) -> Attention:
    """Return grouped-query attention for a hidden width, with heads of 128 and 8 groups at most."""
    return Attention(heads=width // 128, kv_heads=min(8, width // 128), head_dim=128)


def parse(text: str) -> tuple[float, float | None] | None:
    """Return the total and active parameters that `70B`, `1.5B`, `500M` or `300B-A15B` say; None
    for what is no size."""
    match = SIZE.fullmatch(text.strip())
    if not match:
        return None
    total = float(match[1]) * UNIT[match[2].upper()]
    return total, float(match[3]) * UNIT[match[4].upper()] if match[3] else None


def in_name(name: str) -> tuple[float, float | None] | None:
    """Return the size that a model's name says, such as that of Mistral-Large-123B or Foo-30B-A3B;
    None without one."""
    matches = [
        m for m in re.finditer(rf"(?<![A-Za-z0-9.]){SIZE.pattern}(?![A-Za-z0-9])", name, re.I)
    ]
    return parse(matches[0][0]) if len(matches) == 1 else None


def of(total: float, active: float | None = None, name: str = "") -> Architecture:
    """Return an architecture of so many parameters. Raises ConfigError for sizes that the rule does
    not reach."""
    label = name or _size_label(total, active)
    if not SMALLEST <= total <= LARGEST:
        raise ConfigError(
            f"size {label}", "is not from 100M to 100T parameters", "give such as 70B or 300B-A15B"
        )
    if active is None:
        return _dense_of(total).replace(name=label)
    if not 0 < active < total:
        raise ConfigError(
            f"size {label}", "has no fewer active parameters than in all", "give such as 300B-A15B"
        )
    return _sparse_of(total, active, label).replace(name=label)


def mixture(total: float, name: str = "") -> Architecture:
    """Return a mixture-of-experts architecture of which the total alone is known."""
    return of(total, total / SPARSITY, name)


def _size_label(total: float, active: float | None) -> str:
    """Return a size as it is written, such as `300B-A15B`."""
    return f"{total / 1e9:g}B" + (f"-A{active / 1e9:g}B" if active else "")


def _dense_of(total: float) -> Architecture:
    """Return a dense architecture of about `total` parameters: the depth by `dense`'s rule, the
    feed-forward as wide as the total requires."""
    tied = total < TIED

    def shape(layers: int) -> Architecture:
        """Return a dense architecture of so many layers, with embedding and head tied for small
        models."""
        return dense(layers).replace(tied=tied)

    layers = min(DEPTHS, key=lambda n: abs(shape(n).num_params() - total))
    a = shape(layers)
    block = a.blocks[0]
    rest = a.num_params() - layers * block.mlp_params(a.hidden, block.mlp)
    width = (total - rest) / (3 * a.hidden * layers)
    return a.replace(blocks=(block.replace(mlp=max(64, round(width / 256) * 256 or 128)),))


def _sparse_of(total: float, active: float, label: str) -> Architecture:
    """Return a mixture of about these total and active parameters: the depth by `sparse`'s rule for
    the active ones, as many experts as the total requires, in multiples of 8. Raises ConfigError,
    with the size's `label`, where none comes near."""
    tied = active < TIED

    def shape(layers: int) -> Architecture:
        """Return a mixture of so many layers, with embedding and head tied for small models."""
        return sparse(layers).replace(tied=tied)

    layers = min(DEPTHS, key=lambda n: abs(shape(n).num_active_params() - active))
    a = shape(layers)
    block = a.blocks[0]
    e = block.experts
    assert e
    fixed = a.num_active_params() - layers * (e.topk + e.shared) * block.mlp_params(
        a.hidden, e.width
    )
    best: tuple[float, Architecture] | None = None
    for topk, shared in ((8, 1), (4, 0), (2, 0), (1, 0)):
        each = (active - fixed) / layers / (topk + shared)  # weights of an expert
        width = max(64, round(each / (3 * a.hidden) / 64) * 64)
        expert = block.mlp_params(a.hidden, width)
        routed = (total - fixed - layers * shared * expert) / (layers * (expert + a.hidden))
        routed = max(topk + 1, round(routed / 8) * 8 if routed > 16 else round(routed))
        experts = Experts(routed=int(routed), topk=topk, width=width, shared=shared)
        shape_of_experts = a.replace(blocks=(block.replace(experts=experts),))
        error = abs(shape_of_experts.num_params() / total - 1) + abs(
            shape_of_experts.num_active_params() / active - 1
        )
        if best is None or error < best[0] - 0.02:
            best = error, shape_of_experts
    assert best
    if best[0] > 0.15:
        raise ConfigError(
            f"size {label}",
            "is no mixture that the rule makes",
            "give more total or fewer active parameters",
        )
    return best[1]
