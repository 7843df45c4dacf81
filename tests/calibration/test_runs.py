"""What the loader of published runs promises: cells, conventions of metrics, releases, notes,
nulls."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.calibration import runs, validate
from onnuri.errors import ConfigError
from onnuri.planner import shapes

ROWS = runs.read(runs.PUBLISHED)
BARE = dict.fromkeys(
    (
        "dp",
        "tp",
        "pp",
        "cp",
        "ep",
        "recompute",
        "zero_or_fsdp",
        "global_batch_tokens",
        "note",
        "source",
    ),
    "",
)
LLAMA = {
    **dict.fromkeys(ROWS[0], ""),
    **BARE,
    "id": "llama",
    "model": "Llama 3.1 8B",
    "kind": "dense",
    "seq_len": "8192",
    "gpu": "H100",
    "gpus": "64",
    "precision": "bf16",
    "metric": "tokens_per_s_per_gpu",
    "value": "10000",
}
"""a row that says no more than it must"""


def row(**changes: str) -> runs.Row:
    return {**LLAMA, **changes}


def job(**changes: str):
    return runs.candidate_jobs(row(**changes))[0].job


def test_every_published_row_is_read_and_means_something() -> None:
    assert len(ROWS) == sum(1 for _ in csv.reader(runs.PUBLISHED.open(encoding="utf-8"))) - 1
    for one in ROWS[::7]:
        if not runs.why_null(one):
            means = runs.candidate_jobs(one)
            assert means and sum(m.weight for m in means) == pytest.approx(1)
            assert {m.job.cluster.gpu for m in means} == {one["gpu"]}
    assert all(
        r["recalled"] != "yes" and r["metric"] not in runs.CUMULATIVE for r in runs.published()
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pp": "33", "layers": "32"}, "pp 33: is more than layers 32"),
        ({"tp": "8", "pp": "16"}, "tp 8 x pp 16: is more than gpus 64"),
        ({"tp": "8", "cp": "16"}, "tp 8 x cp 16: is more than gpus 64"),
        ({"dp": "65"}, "dp 65: is more than gpus 64"),
        ({"ep": "128"}, "ep 128: is more than gpus 64"),
        ({"experts": "8", "topk": "9"}, "topk 9: is more than experts 8"),
        ({"precision": "fp7"}, "precision 'fp7'"),
        ({"precision": "fp64"}, "precision 'fp64': is not one of 32, 16, 8 or 4 bits"),
        ({"kind": "sparse"}, "kind 'sparse': is not known"),
        ({"gpus": "many"}, "gpus 'many': is not a number above 0"),
        ({"layers": "31.5"}, "layers '31.5': is not a whole number"),
        ({"value": "0"}, "value '0'"),
        ({"seq_len": "-4096"}, "seq_len '-4096'"),
        ({"hidden": "nan"}, "hidden 'nan'"),
        ({"tokens_trained_B": "inf"}, "tokens_trained_B 'inf'"),
        ({"value": "1e-300"}, "value '1e-300'"),
    ],
)
def test_a_cell_that_cannot_be_is_one_line_with_its_row(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    table = write(tmp_path / "runs.csv", [row(), row(id="odd", **changes)])
    with pytest.raises(ConfigError) as raised:
        runs.read(table)
    assert f"line 3 (odd): {says}" in str(raised.value) and "\n" not in str(raised.value)


def write(path: Path, rows: list[runs.Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(LLAMA))
        writer.writeheader()
        writer.writerows(rows)
    return path


CELLS = st.one_of(
    st.text(max_size=12),
    st.integers(-9, 10**13).map(str),
    st.floats().map(str),
    st.sampled_from(
        (
            "",
            " ",
            "0",
            "1",
            "2",
            "7",
            "64",
            "1e3",
            "４",
            "DeepSeek-V3",
            "Nemotron-3 Nano 30B-A3B",
            "GPT-OSS-120B",
            "moe",
            "fp8",
            "full",
            "fsdp8",
            "within 0",
            "MBS 0",
            "VP 0",
            "grad accum 0",
            "local batch 0",
            "0x100 Gb",
            "1.2.3 TB/s",
            "..Gb/s per GPU",
            "2020-99",
        )
    ),
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(LLAMA)), CELLS, min_size=1, max_size=5),
    st.sampled_from((LLAMA, ROWS[0], ROWS[-1])),
)
def test_a_broken_cell_is_a_mistake_a_null_or_a_finite_prediction(
    changes: dict[str, str], base: runs.Row
) -> None:
    one = {**base, **changes}
    if list(runs.mistakes(one)):
        return
    found = validate.predict(one)
    assert (found is None) == (runs.why_null(one) is not None)
    assert found is None or (
        0 < found.low <= found.value <= found.high and math.isfinite(found.high)
    )


@pytest.mark.parametrize("column", sorted(runs.NUMBERS))
@given(cell=st.one_of(st.text(min_size=1, max_size=8), st.floats().map(str)))
def test_a_number_is_positive_and_finite_or_refused(column: str, cell: str) -> None:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    fine = not cell.strip() or (
        1e-9 <= value <= 1e12 and (column not in runs.WHOLE or value == int(value))
    )
    said = [m for m in runs.mistakes({column: cell}) if m[0].startswith(column)]
    assert bool(said) == (not fine)


def test_metrics_follow_their_definitions() -> None:
    """1,000 tokens/s a GPU of a model of 8.03B parameters, by hand: 6 a parameter outside the
    embedding, and attention."""
    one = job(note="2025-06")
    params, heads = (
        8.03e9 - 128_256 * 4096,
        12 * 32 * 4096 * 8192,
    )  # 12 · layers · width · sequence, in full
    causal, full = (1000 * (6 * params + heads * half) for half in (0.5, 1))
    for metric, scale in (("tflops_per_gpu", 1e-12), ("mfu", 100 / 989e12)):
        assert runs.in_metric(row(metric=metric, note="2025-06"), one, 1000) == pytest.approx(
            causal * scale, rel=0.01
        )
        old = row(metric=metric, note="2023-06")
        assert runs.in_metric(old, job(note="2023-06"), 1000) == pytest.approx(
            full * scale, rel=0.01
        )
    trained = row(metric="gpu_hours", tokens_trained_B="36")
    assert runs.in_metric(trained, one, 1000) == pytest.approx(36e9 / 1000 / 3600)
    assert runs.in_metric({**trained, "metric": "days"}, one, 1000) == pytest.approx(
        36e9 / 1000 / 86_400 / 64
    )
    assert runs.in_metric(row(), one, 1000) == 1000


def test_hardware_flops_count_a_full_recomputation() -> None:
    plain, told = (
        row(metric="tflops_per_gpu", recompute="full", note=f"{word} 2025-06")
        for word in ("", "hardware FLOPs")
    )
    one = runs.candidate_jobs(plain)[0].job
    assert runs.flops_per_token(told, one) == pytest.approx(
        4 / 3 * runs.flops_per_token(plain, one)
    )


def test_notes_say_wires_boards_and_vocabularies() -> None:
    said = job(note="4x100 Gb RoCE per node; 500 W; 2.4 TB/s; vocab 32000; captured graphs")
    assert (said.cluster.nic, said.cluster.power_w, said.cluster.memory_tb_per_s) == (
        pytest.approx(6.25),
        500,
        2.4,
    )
    assert said.architecture.vocabulary == 32_000 and (said.engine.graphs, job().engine.graphs) == (
        1.0,
        0.5,
    )
    assert job(note="400 Gb/s per GPU").cluster.nic == 50


@pytest.mark.parametrize(
    ("note", "source", "month"),
    [
        ("Megatron-Bridge NeMo 26.06; synthetic", "", "2026-06"),
        ("measured 2024-03-01", "https://arxiv.org/abs/2407.21783", "2024-03"),
        ("", "https://arxiv.org/abs/2407.21783 Table 4", "2024-07"),
        ("", "arXiv:2302.13971", "2023-02"),
    ],
)
def test_the_year_of_the_software(note: str, source: str, month: str) -> None:
    assert job(note=note, source=source).software_year == pytest.approx(
        int(month[:4]) + (int(month[5:]) - 0.5) / 12
    )


def test_software_of_an_unknown_year_is_a_little_younger_than_the_model() -> None:
    assert 0 < job().software_year - shapes.listed("Llama 3.1 8B")["year"] < 1
    assert job(model="unheard-of", total_params_B="8").software_year is None


@pytest.mark.parametrize(
    ("note", "changes", "micro_batch", "virtual"),
    [
        ("MBS 4", {"pp": "1"}, 4, 1),
        ("microbatch=2; VP 5", {"tp": "2", "pp": "4"}, 2, 5),
        ("local batch size 8", {"pp": "1"}, 8, 1),
        ("local batch size 8", {"tp": "2", "pp": "4"}, 1, None),
        ("grad accum 4", {"global_batch_tokens": str(64 * 8192 * 8), "tp": "1", "pp": "1"}, 2, 1),
    ],
)
def test_notes_say_passes_and_chunks(
    note: str, changes: dict[str, str], micro_batch: int, virtual: int | None
) -> None:
    layouts = [m.job.layout for m in runs.candidate_jobs(row(note=note, **changes))]
    assert {x.micro_batch for x in layouts} == {micro_batch}
    assert virtual is None or {x.virtual_stages for x in layouts} == {virtual}


@pytest.mark.parametrize(
    ("cell", "note", "precision"),
    [
        ("bf16", "", "bf16"),
        ("fp16", "", "bf16"),
        ("FP8", "", "fp8"),
        ("int8", "", "fp8"),
        ("fp8", "label 'MXFP8'", "mxfp8"),
        ("fp4", "", "nvfp4"),
        ("bf16", "label 'NVFP4'", "nvfp4"),
    ],
)
def test_precisions(cell: str, note: str, precision: str) -> None:
    assert runs.precision(row(precision=cell, note=note)) == precision and not list(
        runs.mistakes(row(precision=cell))
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": ""}, "gpu is empty"),
        ({"metric": ""}, "metric is empty"),
        ({"model": " "}, "model is empty"),
        ({"gpu": "Cerebras"}, "not listed"),
        ({"metric": "samples"}, "not one of"),
        ({"metric": "gpu_hours"}, "tokens_trained_B"),
        ({"metric": "days", "tokens_trained_B": "9", "gpus": ""}, "gpus is empty"),
        ({"model": "unheard-of"}, "size"),
    ],
)
def test_a_null_has_a_reason_that_the_printed_rule_names(
    changes: dict[str, str], reason: str
) -> None:
    assert reason in (runs.why_null(row(**changes)) or "")
    for word in (*runs.METRICS, "model", "gpu", "tokens_trained_B", "gpus", "size", "listed"):
        assert word in runs.RULE


def test_what_is_not_said_is_several_layouts_and_what_is_said_one() -> None:
    open_, said = (
        runs.candidate_jobs(row()),
        runs.candidate_jobs(row(tp="2", pp="1", cp="1", dp="32", note="MBS 1")),
    )
    assert len({(m.job.layout.tp, m.job.layout.pp) for m in open_}) > 1 and len(said) == 1
    assert {m.job.layout.gpus for m in (*open_, *said)} == {64}


# ---- rows that no constant was fitted to


@pytest.fixture(scope="module")
def further() -> list[runs.Row]:
    return runs.read(runs.FURTHER)


def test_further_runs_are_read_in_a_page_and_not_published_twice(further: list[runs.Row]) -> None:
    ids = [r["id"] for r in (*further, *runs.read(runs.PUBLISHED))]
    assert len(ids) == len(set(ids))
    assert all(r["source"] and not r["recalled"] and runs.steady(r) for r in further)


def test_degrees_of_further_runs_make_their_gpus_and_divide_their_batch(
    further: list[runs.Row],
) -> None:
    for row in further:
        dp, *others = (runs.whole(row, c) for c in ("dp", "tp", "pp", "cp"))
        if dp is None:
            continue
        assert dp * (others[0] or 1) * (others[1] or 1) * (others[2] or 1) == runs.whole(
            row, "gpus"
        ), row["id"]
        if batch := runs.whole(row, "global_batch_tokens"):
            assert batch % (dp * (runs.whole(row, "seq_len") or 1)) == 0, row["id"]


def test_every_further_run_has_a_shape_a_gpu_and_a_year(further: list[runs.Row]) -> None:
    for row in further:
        assert runs.why_null(row) is None, row["id"]
        assert runs.year(row, runs.architecture(row)), row["id"]
