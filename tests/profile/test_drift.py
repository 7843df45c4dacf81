"""Drift from a forecast, and its causes, on lines of a log with known waits."""

import pytest
from run_logs import FORECAST, log, sitting

from onnuri.profile import drift


def speed_of(lines, **changes):
    return drift.drifts(FORECAST, lines, sitting(**changes), None)[0]


def test_a_speed_in_its_range_has_no_cause():
    row = speed_of(log(loader_seconds=0.4, core_wait_share=0.3))
    assert (row.place, row.causes) == ("in the range", ())
    assert speed_of(log(step_seconds=0.5)).place == "82% above the range"


def test_rows_that_are_waited_for_are_the_cause_beyond_what_was_planned():
    """Of 2 s 1.4 are for rows; the forecast has a fifth for them."""
    row = speed_of(log(step_seconds=2.0, loader_seconds=1.4))
    assert row.place == "44% below the range" and len(row.causes) == 1
    assert row.causes[0].startswith("50% of a step waits for rows")
    assert row.causes[0].endswith("without it 1,000 tokens/s")


def test_the_largest_wait_comes_first():
    row = speed_of(log(step_seconds=2.0, loader_seconds=0.6, core_wait_share=0.4))
    assert [cause.split()[0] for cause in row.causes] == ["40%", "10%"]
    assert "no core" in row.causes[0] or "without a core" in row.causes[0]


def test_a_slow_first_step_is_a_cause_while_it_is_among_the_last_lines():
    """30 steps of 1 s, the first of 31 s."""
    lines = log()
    lines[0] |= {"steps_per_second": 10 / 40, "tokens_per_second": 250.0}
    row = speed_of(lines, first_step_seconds=31.0)
    assert row.causes[0].startswith("50% went to the first step")
    later = lines + [line | {"step": line["step"] + 30} for line in log(drift.RECENT_LINES)]
    assert speed_of(later, first_step_seconds=31.0).place == "in the range"


def test_a_sitting_is_judged_by_its_own_lines():
    lines = log(step_seconds=5.0) + [x | {"step": x["step"] + 30} for x in log()]
    assert drift.recent_speed(lines, sitting(step=30)).tokens_per_second == pytest.approx(1000)
    assert drift.recent_speed(lines, sitting(step=0)).tokens_per_second == pytest.approx(6000 / 18)
    # the new sitting has no line yet
    assert drift.recent_speed(lines, sitting(step=60)).seconds == pytest.approx(180)


def test_memory_that_is_full_is_a_cause():
    causes = speed_of(log(step_seconds=2.0, alloc_retries=3, swapped_bytes=5e6)).causes
    assert any("3 allocations" in c for c in causes) and any(
        "5 MB are swapped" in c for c in causes
    )


def test_a_drift_that_nothing_explains_says_so():
    assert "no wait that is measured explains it" in speed_of(log(step_seconds=2.0)).causes[0]


@pytest.mark.parametrize(
    "first, last, place, cause",
    [
        (90e6, 110e6, "in the range", None),
        (90e6, 150e6, "25%", "after the first line, since when it grew by 60 MB"),
        (150e6, 150e6, "25%", "by the first line, since when it grew by 0 MB"),
    ],
)
def test_memory_beyond_its_range_grew_or_was_there_at_the_first_line(first, last, place, cause):
    lines = log()
    for line, peak in zip(lines, (first, last, last), strict=True):
        line["peak_bytes"] = peak
    row = drift.drifts(FORECAST, lines, sitting(), None)[1]
    assert row.place.startswith(place)
    assert cause in row.causes[0] if cause else not row.causes


def test_minutes_are_those_of_the_whole_run():
    rows = drift.drifts(FORECAST, log(core_wait_share=0.5), sitting(), 22.0)
    assert rows[-1].place == "100% above the range" and rows[-1].causes[0].startswith("50%")


def test_saves_are_a_share_of_the_time_with_them():
    lines = log()
    lines[1]["save_seconds"] = 10.0
    assert drift.recent_speed(lines, sitting()).saves == 0.25


def test_a_run_that_grew_slower_than_itself_says_why():
    lines = log(60)
    assert drift.own_pace(lines, sitting()) is None
    for line in lines[-drift.RECENT_LINES :]:
        line |= {"steps_per_second": 0.5, "tokens_per_second": 500.0, "loader_seconds": 1.0}
    text = drift.own_pace(lines, sitting())
    assert text.startswith("50% slower") and "50% of a step waits for rows" in text
