"""What the planner says of published runs is what the rows say."""

from onnuri.calibration import evidence as counted
from onnuri.calibration import runs
from onnuri.planner import evidence, step_time


def test_the_summary_that_ships_is_that_of_the_rows() -> None:
    """After a change of the tables: `python -m onnuri.calibration.evidence`."""
    assert evidence.published() == counted.summary()


def test_a_plan_counts_the_rows_that_are_like_it() -> None:
    rows = [row for row in runs.published() if row["kind"] == "moe"]
    near = [row for row in rows if row["gpu"] == "H100" and row["precision"] == "fp8"]
    sentence, _ = step_time.evidence("H100", "mxfp8", moe=True)
    assert near and sentence.startswith(f"{len(near)} of {len(rows)} published mixture-of-experts")
    none, _ = step_time.evidence("V100", "nvfp4", moe=False)
    assert none.startswith("0 of ") and none.endswith(": none")
