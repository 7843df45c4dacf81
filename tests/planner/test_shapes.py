"""Listed shapes count to their published totals; an unlisted model is inferred from what its row
says."""

from __future__ import annotations

import pytest

from onnuri.errors import ConfigError
from onnuri.planner import shapes

PUBLISHED = {
    "DeepSeek-V3": (671, 37),
    "Kimi-K2": (1026, 32.6),
    "Qwen3-235B-A22B": (235, 22),
    "GPT-OSS-120B": (116.8, 5.1),
    "Llama3.1-405B": (405.9, 405.9),
    "Mixtral-8x22B": (141, 39),
    "Nemotron-3-Super-120B-A12B": (120, 12),
    "Nemotron-4-340B": (340, 340),
    "GLM-4.5": (355, 32),
    "Gemma-2-27B": (27.2, 27.2),
    "Falcon-180B": (180, 180),
}
"""billions of parameters, total and active, of cards and papers"""


@pytest.mark.parametrize("name", PUBLISHED)
def test_listed_shape_counts_to_its_published_total(name: str) -> None:
    total, active = PUBLISHED[name]
    a = shapes.shape(name)
    assert a.num_params() / 1e9 == pytest.approx(total, rel=0.02)
    assert a.num_active_params() / 1e9 == pytest.approx(
        active, rel=0.13
    )  # cards differ in whether embeddings count


def test_every_line_of_the_list_builds_and_names_its_source() -> None:
    for spec in shapes.table().values():
        assert spec["source"]
        if not spec.get("family"):
            assert shapes.build(spec).num_params() > 1e8


@pytest.mark.parametrize(
    ("total", "columns"),
    [
        (
            32.5e9,
            {"layers": 60, "hidden": 6656, "ffn": 17920, "heads": 52},
        ),  # LLaMA-33B: gated, 32,000 ids
        (
            50.6e9,
            {"layers": 70, "hidden": 7680, "ffn": 30720, "heads": 40},
        ),  # BloombergGPT: two matrices, 131,072 ids
        (130e9, {"layers": 70, "hidden": 12288, "heads": 96}),
    ],
)  # GLM-130B, without its width
def test_unlisted_dense_model_is_inferred_within_one_percent(
    total: float, columns: dict[str, int]
) -> None:
    assert shapes.infer("unheard-of", total, None, **columns).num_params() == pytest.approx(
        total, rel=0.01
    )


def test_columns_go_before_the_list() -> None:
    assert shapes.infer("Llama3-70B", None, None, layers=12).layers == 12


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Llama3-8B"):
        shapes.shape("Lama3-8B")
    with pytest.raises(ConfigError, match="neither a listed shape nor a parameter count"):
        shapes.infer("unheard-of", None, None)
