"""Tables of runs: what their cells must satisfy whatever the planner says of them."""

import pytest

from onnuri.planner import hardware, runs

FURTHER = hardware.DATA / "further_runs.csv"


@pytest.fixture(scope="module")
def further() -> list[runs.Row]:
    return runs.read(FURTHER)


def test_further_runs_are_read_in_a_page_and_not_published_twice(further: list[runs.Row]) -> None:
    ids = [r["id"] for r in (*further, *runs.read(runs.PUBLISHED))]
    assert len(ids) == len(set(ids))
    assert all(r["source"] and not r["recalled"] and runs.steady(r) for r in further)


def test_degrees_of_further_runs_make_their_gpus_and_divide_their_batch(further: list[runs.Row]) -> None:
    for row in further:
        dp, *others = (runs.whole(row, c) for c in ("dp", "tp", "pp", "cp"))
        if dp is None:
            continue
        assert dp * (others[0] or 1) * (others[1] or 1) * (others[2] or 1) == runs.whole(row, "gpus"), row["id"]
        if batch := runs.whole(row, "global_batch_tokens"):
            assert batch % (dp * (runs.whole(row, "seq_len") or 1)) == 0, row["id"]


def test_every_further_run_has_a_shape_a_gpu_and_a_year(further: list[runs.Row]) -> None:
    for row in further:
        assert runs.why_null(row) is None, row["id"]
        assert runs.year(row, runs.architecture(row)), row["id"]
