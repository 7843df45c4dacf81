"""Runs over real processes that are killed at any moment, or that go on over other numbers of ranks:
they end as a run that nothing interrupted."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
import kills

STEPS, ROWS = kills.DEFAULTS["steps"], kills.DEFAULTS["rows"]


def note(attempt, step, row, content="c"):
    return f'{{"attempt": {attempt}, "step": {step}, "row": {row}, "content": "{content}"}}\n'


def counted(folder):
    return [(each["step"], each["row"]) for each in kills.rows_that_count(folder, 3)]


def test_rows_after_the_last_state_count_when_they_are_read_again(tmp_path):
    """The check itself: two ranks, the first sitting's step 1 was never stored."""
    for rank in range(2):
        first = "".join(note(0, step, 2 * step + rank) for step in range(2))
        second = "".join(note(1, step, 2 * step + rank) for step in (1, 2))
        (tmp_path / f"rows-{rank}.jsonl").write_text(first + '{"attempt": 0, "st\n' + second)
    assert counted(tmp_path) == [(k // 2, k) for k in range(6)]
    (tmp_path / "rows-1.jsonl").write_text(first + note(1, 2, 5))
    assert (1, 3) not in counted(tmp_path)  # rank 1 left a row out


def test_kills_are_spread_over_ranks_moments_and_places():
    drawn = kills.random_kills(100, 10.0, 1)
    moments = sorted(kill.seconds for kill in drawn if kill.place is None)
    assert len(moments) == 80 and moments[0] < 1 and moments[-1] > 9
    assert {kill.rank for kill in drawn} == {0, 1}
    assert {kill.place for kill in drawn if kill.place} == set(kills.SAVE_PLACES)


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path):
    straight = tmp_path / "straight"
    assert kills.attempt(straight, 2).statuses == [0, 0], kills.texts(straight)
    again = kills.attempt(tmp_path / "again", 2)
    kills.check_equal(tmp_path / "again", straight, STEPS, ROWS)
    for k, kill in enumerate(kills.random_kills(5, again.seconds, seed=7)):
        out = tmp_path / f"killed-{k}"
        kills.run_killed(out, kill)
        kills.check_equal(out, straight, STEPS, ROWS)


ROADS = {
    "more and fewer ranks": [(None, 1), ("dp=2,fsdp", 2), ("dp=4,fsdp", 4), ("dp=2,fsdp", 2)],
    "tensor parallelism": [("dp=4,fsdp", 4), ("dp=2,tp=2,fsdp", 4), ("tp=2,recompute=full", 2)],
}


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_a_run_with_dropout_goes_on_in_another_layout(tmp_path, road):
    """Each sitting is stopped by a SIGTERM to all ranks; losses are equal in 64 bits."""
    steps, rows = 12, 4
    options = {"steps": steps, "rows": rows, "save_seconds": 100.0, "pause": 0.0}
    alone, dry, out = tmp_path / "alone", tmp_path / "dry", tmp_path / "run"
    for folder, dropout in ((alone, 0.1), (dry, 0.0)):
        run = kills.attempt(folder, 1, dropout=dropout, layout=None, **options)
        assert run.statuses == [0], kills.texts(folder)
    sittings = ROADS[road]
    for k, (layout, ranks) in enumerate(sittings):
        last = k == len(sittings) - 1
        stop_after = None if last else steps * (k + 1) // len(sittings)
        run = kills.attempt(
            out, ranks, layout=layout, dropout=0.1, stop_after=stop_after, **options
        )
        assert run.statuses == [0 if last else kills.STOPPED] * ranks, kills.texts(out)
    assert [each["row"] for each in kills.rows_that_count(out, steps)] == list(range(steps * rows))
    losses, expected, without = (
        [float.fromhex(each["loss"]) for each in kills.rows_that_count(folder, steps)]
        for folder in (out, alone, dry)
    )
    assert losses == pytest.approx(expected, rel=1e-10)
    assert losses != pytest.approx(without, rel=1e-3)


@pytest.mark.slow
def test_all_ranks_leave_out_the_rows_of_a_step_that_one_rank_finds_bad(tmp_path):
    """States before every step, so that the run goes back by the bad step alone."""
    options = {"steps": 6, "save_seconds": 0.0, "pause": 0.0, "nan_row": 7}  # of step 3, rank 1
    for name, ranks, layout in (("two", 2, "dp=2,fsdp"), ("one", 1, None)):
        run = kills.attempt(tmp_path / name, ranks, layout=layout, **options)
        assert run.statuses == [0] * ranks, kills.texts(tmp_path / name)
        (line,) = [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").open()]
        assert (line["rewound_from"], line["rewound_to"], line["rewinds"]) == (4, 3, 1)
        notes = [json.loads(x)["row"] for f in (tmp_path / name).glob("rows-*") for x in f.open()]
        assert sorted(notes) == list(range(14))
    two, one = (load_file(tmp_path / name / "model/model.safetensors") for name in ("two", "one"))
    for name, weight in one.items():
        assert weight.isfinite().all()
        torch.testing.assert_close(two[name], weight, rtol=1e-8, atol=1e-10)
