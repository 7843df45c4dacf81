"""Rows of models that no list has: their own columns, the size in their name, or a null with its
reason."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from onnuri.calibration import runs, validate
from onnuri.planner import constants, shapes, step_time

ROWS = {r["id"]: r for path in (runs.PUBLISHED, runs.FURTHER) for r in runs.read(path)}
BARE: runs.Row = dict.fromkeys(next(iter(ROWS.values())), "") | {
    "id": "x",
    "kind": "dense",
    "seq_len": "4096",
    "gpu": "H100",
    "gpus": "256",
    "precision": "bf16",
    "metric": "tokens_per_s_per_gpu",
    "value": "600",
}


def row(**changes: str) -> runs.Row:
    return BARE | changes


@pytest.mark.parametrize(
    "name",
    ["GPT-5", "Claude", "Gemini-2", "Mistral-Large", "Llama5", "Foo-MoE", "Qwen", "DeepSeek-X"],
)
@pytest.mark.parametrize("kind", ["dense", "moe", ""])
def test_name_without_a_size_is_null_with_its_reason(name: str, kind: str) -> None:
    one = row(model=name, kind=kind)
    assert name in (runs.why_null(one) or "")
    assert validate.predict(one) is None


@pytest.mark.parametrize(
    ("name", "billions"),
    [("Mistral-Large-123B", 123), ("Gemma-3-27B", 27), ("Zork-9B", 9), ("Foo-500M", 0.5)],
)
def test_size_in_a_name_is_that_size_and_said_to_be_assumed(name: str, billions: float) -> None:
    one = row(model=name)
    assert runs.architecture(one).num_params() == pytest.approx(billions * 1e9, rel=0.1)
    assert "by rule" in (validate.assumed(one) or "")


@pytest.mark.parametrize("name", ["Mistral-Large-123B", "Llama5", "Foo"])
def test_columns_go_before_a_name(name: str) -> None:
    a = runs.architecture(
        row(model=name, total_params_B="40", layers="48", hidden="8192", heads="64")
    )
    assert (a.layers, a.hidden, a.unsure) == (48, 8192, 0.0)
    assert a.num_params() == pytest.approx(40e9, rel=0.1)


@pytest.mark.parametrize(
    "columns",
    [
        {"total_params_B": "100", "active_params_B": "10"},
        {"total_params_B": "100"},
        {
            "total_params_B": "100",
            "active_params_B": "12",
            "layers": "48",
            "hidden": "5120",
            "heads": "40",
        },
        {
            "total_params_B": "235",
            "active_params_B": "22",
            "layers": "94",
            "hidden": "4096",
            "heads": "64",
            "topk": "8",
            "ffn": "1536",
        },
    ],
)
def test_mixture_without_experts_is_a_mixture_of_its_counts(columns: dict[str, str]) -> None:
    one = row(model="Foo-MoE", kind="moe", **columns)
    a = runs.architecture(one)
    assert a.mixture and a.unsure == 1.0
    assert a.num_params() == pytest.approx(float(columns["total_params_B"]) * 1e9, rel=0.06)
    if active := columns.get("active_params_B"):
        assert a.num_active_params() == pytest.approx(float(active) * 1e9, rel=0.15)
    assert "experts" in (validate.assumed(one) or "")


def test_depth_alone_gives_the_width_by_the_rule() -> None:
    a = runs.architecture(row(model="Zork", layers="48"))
    assert (a.hidden, a.unsure) == (48 * 128, 1.0)


def test_what_is_assumed_has_a_wider_range() -> None:
    def width(one: runs.Row) -> float:
        found = validate.predict(one)
        assert found
        return math.log(found.high / found.low)

    known = row(
        model="Foo",
        kind="moe",
        total_params_B="100",
        active_params_B="12",
        layers="48",
        hidden="5120",
        heads="40",
        kv_heads="8",
        experts="128",
        topk="8",
        ffn="1536",
    )
    assert width(known | {"experts": "", "topk": "", "ffn": ""}) > 1.5 * width(known)
    down, up = step_time.spread(True, 2.0, constants.values())
    assert down > step_time.spread(True, 0.0, constants.values())[0] and up > 0


def test_published_mixture_without_experts_is_one() -> None:
    assert runs.architecture(ROWS["megascale-moe-352b"]).mixture


def test_listed_and_family_rows_are_not_assumed() -> None:
    assert shapes.listed("Llama 3.1 8B") and not runs.architecture(row(model="Llama 3.1 8B")).unsure
    assert all(
        not runs.architecture(r).unsure
        for r in ROWS.values()
        if not runs.why_null(r) and r["id"] != "megascale-moe-352b"
    )


def test_reason_and_assumption_stand_in_table_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        row(id="none", model="GPT-5"),
        row(id="size", model="Zork-9B"),
        row(id="known", model="Llama 3.1 8B"),
    ]
    table = tmp_path / "rows.csv"
    columns = list(rows[0])
    lines = [",".join(columns), *(",".join(r[c] for c in columns) for r in rows)]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    validate.run(table)
    printed = capsys.readouterr().out
    assert "GPT-5" in printed and "by rule" in printed
    found = validate.compare(rows, "value", None, validate.predict, runs.why_null)["rows"]
    assert found[0]["why_null"] and found[0]["predicted"] is None
    assert found[1]["assumed"] and found[2]["assumed"] is None and found[2]["why_null"] is None
