"""Which source gives which row: held against a simulation that knows no closed form."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.data.schedule import MixtureStage, RowSchedule
from onnuri.errors import ConfigError

WEIGHTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 50), min_size=1, max_size=6)


def simulated(weights, rows):
    """The due times of every source's rows, sorted: rows in their order."""
    due = [
        (Fraction(2 * j + 1, 2 * w), k, name, j)
        for k, (name, w) in enumerate(weights.items())
        for j in range(rows)
    ]
    return [(name, j) for _, _, name, j in sorted(due)][:rows]


@settings(max_examples=12, deadline=None)
@given(WEIGHTS)
def test_rows_come_as_they_are_due(weights):
    # weights in millionths are exact where they sum to a divisor of a million
    total = sum(weights.values())
    rest = next(n for n in (1000, 10**6) if n >= total) - total
    if rest:
        weights = {**weights, "z": rest}
    schedule = RowSchedule([MixtureStage(weights={k: float(w) for k, w in weights.items()})])
    assert [tuple(schedule.source_of(i)) for i in range(50)] == simulated(weights, 50)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), WEIGHTS), min_size=1, max_size=4))
def test_each_source_is_read_in_order_over_all_stages_and_none_twice(stages):
    """And after any number of rows each has its share of the stage to within one row."""
    schedule = RowSchedule(
        [MixtureStage(rows=rows, weights=dict(weights)) for rows, weights in stages]
    )
    read, row = {}, 0
    for rows, weights in stages:
        own = dict.fromkeys(weights, 0)
        for k in range(rows):
            name, index = schedule.source_of(row)
            assert index == read.get(name, 0)
            read[name], own[name], row = index + 1, own[name] + 1, row + 1
            for each, weight in weights.items():
                assert abs(own[each] - (k + 1) * weight / sum(weights.values())) < len(weights)
    assert schedule.rows == row


def test_a_far_row_needs_no_walk():
    schedule = RowSchedule([MixtureStage(weights={"a": 0.7, "b": 0.3})])
    name, index = schedule.source_of(10**15)
    assert (name, index) in (("a", 7 * 10**14), ("b", 3 * 10**14))


def test_a_longer_run_stays_in_the_last_stage():
    schedule = RowSchedule(
        [MixtureStage(weights={"a": 1}, rows=3), MixtureStage(weights={"b": 1}, rows=2)]
    )
    assert [tuple(schedule.source_of(i)) for i in range(7)] == [
        *(("a", k) for k in range(3)),
        *(("b", k) for k in range(4)),
    ]


@pytest.mark.parametrize(
    "stages, words",
    [
        ([], "has no stage"),
        ([MixtureStage(weights={})], "no source with a weight"),
        ([MixtureStage(weights={"a": 0.0})], "no source with a weight"),
        ([MixtureStage(weights={"a": -1.0})], "is no weight"),
        ([MixtureStage(weights={"a": float("nan")})], "is no weight"),
        ([MixtureStage(weights={"a": 1.0, "b": 1e-8})], "less than a millionth"),
        ([MixtureStage(weights={"a": 1}), MixtureStage(weights={"a": 1})], "has no number of rows"),
        ([MixtureStage(weights={"a": 1}, rows=0)], "has 0 rows"),
    ],
)
def test_bad_mixtures_are_one_line(stages, words):
    with pytest.raises(ConfigError, match=words) as caught:
        RowSchedule(stages)
    assert "\n" not in str(caught.value)
