"""Tables of published runs: predicted without their values, by printed rules, with one line for a
bad table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from onnuri.calibration import fit, runs, validate
from onnuri.errors import ConfigError
from onnuri.planner import constants

ROWS = runs.read(fit.PUBLISHED)


def row(**changes: str) -> runs.Row:
    base = next(
        r
        for r in ROWS
        if r["id"].startswith("mb-llama3.1-405b-h100-1024-fp8") and r["id"].endswith("26.06")
    )
    return {**base, **changes}


def write(path: Path, rows: list[runs.Row], columns: list[str] | None = None) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_values_are_not_looked_at() -> None:
    for one in ROWS[::40]:
        other = {
            **one,
            "value": "123456",
            "note": one["note"].replace("Model TFLOP/s/GPU", "Model TFLOP/s/GPU 9"),
        }
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
        assert found and found.value == pytest.approx(
            runs.in_metric(one, runs.candidate_jobs(one)[0].job, speed), rel=1e-6
        )


def test_priors_pull_where_no_row_speaks() -> None:
    e = fit.stack(fit.usable(ROWS)[:8])
    nothing = fit.fit(e, np.ones(8, bool))
    assert all(
        nothing[c.name] == pytest.approx(c.prior, rel=1e-3)
        for c in constants.fitted()
        if c.name in nothing
    )


def test_a_null_counts_as_all_wrong() -> None:
    found = validate.compare([row(gpu="Cerebras")], "value", None, validate.predict)
    assert found["rows"][0]["predicted"] is None and found["summary"]["all"]["median_error"] == 1.0


def test_every_listed_gpu_and_open_cell_has_a_prediction() -> None:
    bare = dict.fromkeys(
        ("dp", "tp", "pp", "cp", "ep", "recompute", "zero_or_fsdp", "global_batch_tokens", "note"),
        "",
    )
    for gpu in ("A100-80", "H200", "MI300X", "GB300", "TPUv5p"):
        assert validate.predict(row(gpu=gpu, **bare))
    assert validate.predict(
        row(
            model="unheard-of",
            total_params_B="33",
            active_params_B="33",
            layers="",
            hidden="",
            ffn="",
            heads="",
            kv_heads="",
            **bare,
        )
    )


def test_run_writes_what_the_issue_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "runs.csv", ROWS[::60])
    validate.run(table, json_file=tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found) == {"rows", "summary"} and len(found["rows"]) == len(ROWS[::60])
    assert {"id", "metric", "published", "predicted", "low", "high", "error"} <= found["rows"][
        0
    ].keys()
    assert {"all", "kind", "gpu", "source", "metric", "in_sample"} == found["summary"].keys()
    printed = capsys.readouterr().out
    assert runs.RULE in printed and ROWS[0]["id"][:40] in printed


def test_rows_that_the_constants_saw_are_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, new = row(id="renamed"), row(value="1")
    assert validate.in_sample([seen, new]) == 1 and validate.in_sample(ROWS) == sum(
        map(runs.steady, ROWS)
    )
    validate.run(write(tmp_path / "seen.csv", [seen, new]), json_file=tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["summary"]["in_sample"] == 1
    assert (
        "1 of these rows" in (said := capsys.readouterr().out)
        and "in sample" in said
        and "docs/planner-speed.md" in said
    )
    validate.run(write(tmp_path / "new.csv", [new]))
    assert "in sample" not in capsys.readouterr().out


def test_hours_of_a_whole_training_are_more_than_its_steps() -> None:
    hours = row(metric="gpu_hours", tokens_trained_B="1000")
    found, steady = validate.predict(hours), validate.predict(row(metric="tokens_per_s_per_gpu"))
    assert (
        found.value > 1e12 / steady.value / 3600
        and found.high / found.low > steady.high / steady.low
    )


def test_memory_is_validated_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    validate.run(fit.PUBLISHED.parent / "published_memory.csv", memory=True)
    assert "real_mem_GiB" in capsys.readouterr().out


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
