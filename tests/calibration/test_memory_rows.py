"""Measurements of memory as rows of a table: read, predicted and met."""

import csv
import itertools
import statistics

import pytest

from onnuri.calibration import DATA
from onnuri.calibration.memory_rows import models, predict_row
from onnuri.errors import ConfigError


def test_published_rows_are_met() -> None:
    """The bar, a median error of 5 %: nothing here was fitted, so leaving a model out changes
    nothing."""
    errors: dict[str, list[float]] = {}
    for row in csv.DictReader((DATA / "published_memory.csv").open(encoding="utf-8")):
        found = predict_row({k: v for k, v in row.items() if "mem_GiB" not in k})
        assert found and found.low < found.gib < found.high
        errors.setdefault(row["model"], []).append(abs(found.gib / float(row["real_mem_GiB"]) - 1))
    assert statistics.median(itertools.chain(*errors.values())) < 0.01
    assert all(statistics.median(each) < 0.02 for each in errors.values())


def test_a_row_brings_its_own_model_or_is_refused() -> None:
    row = {"model": "something new", "gpus": "8", "tp": "2", "pp": "1", "dp": "4"}
    assert predict_row(row) is None
    shape = {"layers": "12", "hidden": "8192", "ffn": "28672", "heads": "64", "kv_heads": "8"}
    named = predict_row({**row, "model": "Llama3 70B", "layers": "12"})
    assert predict_row({**row, **shape}) == named
    assert predict_row({**row, "model": "llama3_70b", "tp": ""}) is None
    for cell in ("many", "0", "-8", "1.5", "nan"):
        with pytest.raises(ConfigError, match=f"layers '{cell}'"):
            predict_row({**row, "model": "llama3_70b", "layers": cell})
    assert predict_row({**row, "model": "llama3_70b", "dp": ""}) == predict_row(
        {**row, "model": "llama3_70b"}
    )


def test_notes_are_read() -> None:
    row = {"model": "llama3_70b", "layers": "12", "gpus": "8", "tp": "2", "pp": "1", "dp": "4"}
    base, more, full = (
        predict_row({**row, "note": note}) for note in ("", "MBS 2", "full recompute")
    )
    assert base and more and full and full.gib < base.gib < more.gib
    for note in (
        "full AC",
        "AC full",
        "activation checkpointing: full",
        "full activation recomputation",
        "Full-AC",
    ):
        assert predict_row({**row, "note": note}) == full
    assert (
        predict_row({**row, "note": "local batch 2"})
        == predict_row({**row, "note": "local batch size=2"})
        == more
    )
    assert predict_row({**row, "note": "no AC"}) == base
    sharded = {**row, "zero_or_fsdp": "fsdp"}
    every, half, none = (
        predict_row({**sharded, "note": f"{how} AC"}) for how in ("full", "selective", "no")
    )
    assert every and half and none and every.gib < half.gib < none.gib
    eager = predict_row({**sharded, "note": "no AC; eager"})
    assert eager and eager.gib > none.gib


def test_a_local_batch_is_all_passes_of_a_pipeline() -> None:
    row = {
        "model": "llama3_70b",
        "gpus": "64",
        "tp": "8",
        "pp": "4",
        "dp": "2",
        "zero_or_fsdp": "fsdp",
        "recompute": "full",
    }
    assert predict_row({**row, "note": "local batch 8"}) == predict_row(
        {**row, "micro_batch": "1", "microbatches": "8"}
    )


def test_precision_is_read_from_its_column_or_the_note() -> None:
    row = {"model": "llama3_70b", "layers": "12", "gpus": "8", "tp": "2", "pp": "1", "dp": "4"}
    wide, narrow = (
        predict_row({**row, "precision": "bf16"}),
        predict_row({**row, "precision": "fp8"}),
    )
    assert wide == predict_row(row) != narrow == predict_row({**row, "note": "float8"})
    assert predict_row({**row, "precision": "bf16", "note": "float8 tried too"}) == wide


def test_listed_models_are_as_large_as_their_names_say() -> None:
    """SimuMax's have 128 layers for 126 and one dense layer for three."""
    sizes = {
        "llama370b": 70e9,
        "llama3405b": 405e9,
        "deepseekv2": 236e9,
        "deepseekv3": 671e9,
        "megatron22b": 22e9,
        "gpt3175b": 175e9,
        "turing530b": 530e9,
        "megatron1t": 1008e9,
    }
    assert {name: m.architecture.num_params() / sizes[name] for name, m in models().items()} == {
        name: pytest.approx(1, rel=0.04) for name in sizes
    }
