"""Tables of published runs: predicted without their values, by printed rules, with one line for a bad table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from onnuri.errors import ConfigError
from onnuri.planner import constants, fit, runs, validate

ROWS = runs.read(fit.PUBLISHED)


def row(**changes: str) -> runs.Row:
    base = next(r for r in ROWS if r["id"].startswith("mb-llama3.1-405b-h100-1024-fp8") and r["id"].endswith("26.06"))
    return {**base, **changes}


def write(path: Path, rows: list[runs.Row], columns: list[str] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_values_are_not_looked_at() -> None:
    for one in ROWS[::40]:
        other = {**one, "value": "123456", "note": one["note"].replace("Model TFLOP/s/GPU", "Model TFLOP/s/GPU 9")}
        assert validate.predict(one) == validate.predict(other)


def test_published_runs_are_predicted_as_well_as_the_constants_promise() -> None:
    """In sample, so a guard against breakage; `benchmarks/planner_cv.py` holds out."""
    rows = fit.usable(ROWS)
    found = validate.compare(rows, "value", None, validate.predict)["summary"]["kind"]
    assert found["dense"]["median_error"] < 0.07 and found["moe"]["median_error"] < 0.15


def test_fit_and_validation_say_the_same() -> None:
    rows = fit.usable(ROWS)[::30]
    fitted = np.exp(fit.log_speed(fit.stack(rows), constants.values()))
    for one, speed in zip(rows, fitted, strict=True):
        found = validate.predict(one)
        assert found and found.value == pytest.approx(runs.in_metric(one, runs.meanings(one)[0].job, speed), rel=1e-6)


def test_priors_pull_where_no_row_speaks() -> None:
    e = fit.stack(fit.usable(ROWS)[:8])
    nothing = fit.fit(e, np.ones(8, bool))
    assert all(nothing[c.name] == pytest.approx(c.prior, rel=1e-3) for c in constants.load() if c.name in nothing)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"gpu": "Cerebras"}, "not listed"), ({"gpu": ""}, "gpu is empty"), ({"metric": "vibes"}, "not one of"),
    ({"metric": "gpu_hours", "tokens_trained_B": ""}, "tokens_trained_B"),
    ({"model": "unheard-of", "total_params_B": "", "layers": ""}, "size")])
def test_null_only_by_a_printed_rule_and_counts_as_all_wrong(changes: dict[str, str], reason: str) -> None:
    one = row(**changes)
    assert reason in (runs.why_null(one) or "")
    found = validate.compare([one], "value", None, validate.predict)
    assert found["rows"][0]["predicted"] is None and found["summary"]["all"]["median_error"] == 1.0


def test_every_listed_gpu_and_open_cell_has_a_prediction() -> None:
    bare = dict.fromkeys(("dp", "tp", "pp", "cp", "ep", "recompute", "zero_or_fsdp", "global_batch_tokens", "note"), "")
    for gpu in ("A100-80", "H200", "MI300X", "GB300", "TPUv5p"):
        assert validate.predict(row(gpu=gpu, **bare))
    assert validate.predict(row(model="unheard-of", total_params_B="33", active_params_B="33", layers="", hidden="", ffn="",
                                heads="", kv_heads="", **bare))


def test_hardware_flops_count_recomputation_and_old_figures_full_attention() -> None:
    told = row(id="a", metric="tflops_per_gpu", recompute="full", note="hardware flops; 2023-05")
    model = row(id="a", metric="tflops_per_gpu", recompute="full", note="2023-05")
    job = runs.meanings(model)[0].job
    assert runs.flops_per_token(told, job) == pytest.approx(runs.flops_per_token(model, job) * 4 / 3)
    causal = runs.flops_per_token(row(note="causal attention; 2023-05"), job)
    assert runs.flops_per_token(model, job) > causal


def test_notes_say_micro_batch_chunks_release_and_wires() -> None:
    one = runs.meanings(row(note="Megatron-Bridge NeMo 25.11; label 'MXFP8'; MBS 2; VP 8; 4x100 Gb RoCE per node"))
    assert len(one) == 1
    job = one[0].job
    assert (job.layout.micro_batch, job.layout.virtual_stages, job.layout.precision) == (2, 8, "mxfp8")
    assert job.release == pytest.approx(2025.875) and job.cluster.nic == pytest.approx(6.25)


def test_local_batch_with_stages_is_the_sum_of_micro_batches() -> None:
    alone, staged = (runs.meanings(row(note="local batch size 8", pp=pp, tp="8", cp="1", dp="")) for pp in ("1", "8"))
    assert {m.job.layout.micro_batch for m in alone} == {8} and {m.job.layout.micro_batch for m in staged} == {1}


def test_run_writes_what_the_issue_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write(tmp_path / "runs.csv", ROWS[::60])
    validate.run(table, json_file=tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found) == {"rows", "summary"} and len(found["rows"]) == len(ROWS[::60])
    assert {"id", "metric", "published", "predicted", "low", "high", "error"} <= found["rows"][0].keys()
    assert {"all", "kind", "gpu", "source", "metric"} == found["summary"].keys()
    printed = capsys.readouterr().out
    assert runs.RULE in printed and ROWS[0]["id"][:40] in printed


def test_memory_is_validated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validate.run(fit.PUBLISHED.parent / "published_memory.csv", memory=True)
    assert "real_mem_GiB" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "message"), [
    ({"gpus": "many"}, "not a number above 0"), ({"value": "-3"}, "not a number above 0"), ({"seq_len": "0"}, "not a number"),
    ({"layers": "nan"}, "not a number"), ({"hidden": "inf"}, "not a number")])
def test_bad_cells_are_one_line(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        validate.run(write(tmp_path / "runs.csv", [row(**change)]))
    assert "\n" not in str(raised.value) and "line 2" in str(raised.value)


def test_bad_tables_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no column gpu"):
        validate.run(write(tmp_path / "a.csv", [row()], [c for c in row() if c != "gpu"]))
    with pytest.raises(ConfigError, match="cannot be read"):
        validate.run(tmp_path / "nowhere.csv")
    with pytest.raises(ConfigError, match="has no rows"):
        validate.run(_header_only(tmp_path / "b.csv"))


def _header_only(path: Path) -> Path:
    path.write_text(",".join(row()) + "\n", encoding="utf-8")
    return path
