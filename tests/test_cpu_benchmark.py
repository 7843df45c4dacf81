"""The benchmark of training on a CPU runs from start to end on small models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks/cpu.py"


@pytest.mark.slow
def test_the_trial_measures_every_part(tmp_path):
    out = tmp_path / "cpu.json"
    command = [sys.executable, str(BENCHMARK), "--tiny", "--threads", "1", "--out", str(out)]
    run = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    assert found["litgpt"]["not run"].startswith("needs litgpt's environment")
    for rows in ("packed", "documents"):
        own, beside = (
            found[f"trainer-{rows}"]["onnuri"],
            found[f"trainer-{rows}"]["trainer"]["beside onnuri"],
        )
        assert beside["passes"]["losses"], beside["loss_off"]
        assert own["losses"][0] > own["losses"][-1] and own["peak_mib"] > 0 and beside["speed"] > 0
    assert 0 < found["gemm"]["onnuri"]["percent"] < 100
    assert found["loader"]["rows_per_s"] > 0 and found["loader"]["store_gib"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cpu.json"]  # nothing is left behind


def test_a_part_that_is_not_there_is_one_line():
    run = subprocess.run(
        [sys.executable, str(BENCHMARK), "--only", "speed"], capture_output=True, text=True
    )
    assert run.returncode == 2 and "--only speed is no part" in run.stderr
