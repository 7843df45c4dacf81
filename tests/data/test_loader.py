"""Rows for ranks: the same rows per step whatever the ranks and workers, none lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.data.document_store import DocumentStore, StoreRows, write_store
from onnuri.data.loader import BatchRamp, RowLoader, RowMixture
from onnuri.data.schedule import MixtureStage
from onnuri.errors import ConfigError


class Numbers:
    """A source whose rows are their numbers."""

    def __init__(self, offset=0):
        self.offset = offset

    def row(self, index):
        return self.offset + index


RAMPS = st.builds(
    lambda first, times, steps: BatchRamp(
        rows=4 * first * times, first_rows=4 * first, steps=steps
    ),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(0, 9),
)


@settings(max_examples=60, deadline=None)
@given(RAMPS, st.sampled_from([1, 2, 4]), st.integers(0, 12))
def test_ranks_share_each_steps_rows_and_a_run_goes_on_where_it_stopped(ramp, ranks, start):
    loaders = [RowLoader(Numbers(), ramp, rank, ranks, start) for rank in range(ranks)]
    expected = sum(ramp.rows_at(k) for k in range(start))
    for step in range(start, start + 8):
        assert {loader.position for loader in loaders} == {expected}
        rows = [row for loader in loaders for row in loader.next_step()]
        assert rows == list(range(expected, expected + ramp.rows_at(step)))
        expected += len(rows)


@settings(max_examples=60, deadline=None)
@given(RAMPS)
def test_a_ramp_grows_by_multiples_to_its_end(ramp):
    rows = [ramp.rows_at(k) for k in range(ramp.steps + 2)]
    assert rows == sorted(rows) and rows[-1] == ramp.rows
    assert all(each % ramp.first_rows == 0 for each in rows)
    assert rows[0] == (ramp.first_rows if ramp.steps else ramp.rows)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_row(tmp_path, workers):
    rng = np.random.default_rng(0)
    write_store(tmp_path / "a", [rng.integers(0, 9, 20) for _ in range(30)], 10, "x")
    write_store(tmp_path / "b", [rng.integers(0, 9, 20) for _ in range(30)], 10, "x")
    sources = {n: StoreRows(DocumentStore(tmp_path / n), 32, 1) for n in "ab"}
    mixture = RowMixture(sources, [MixtureStage(weights={"a": 2.0, "b": 1.0})])
    ramp = BatchRamp(rows=4)
    alone, helped = (RowLoader(mixture, ramp, 1, 2, 5, workers=n) for n in (0, workers))
    for _ in range(6):
        for a, b in zip(alone.next_step(), helped.next_step(), strict=True):
            assert type(a) is type(b)
            assert (a.ids == b.ids).all() and (a.weights == b.weights).all()


def test_a_mixture_reads_each_source_by_its_own_numbers():
    sources = {"a": Numbers(), "b": Numbers(1000)}
    mixture = RowMixture(sources, [MixtureStage(weights={"a": 3.0, "b": 1.0})])
    rows = [mixture.row(k) for k in range(400)]
    assert sorted(rows) == [*range(300), *range(1000, 1100)]


def test_bad_input_is_one_line():
    with pytest.raises(ConfigError, match="6 rows per step: are no multiple of the 4 data ranks"):
        RowLoader(Numbers(), BatchRamp(rows=6), 0, 4)
    with pytest.raises(ConfigError, match="2 first rows per step: are no multiple"):
        RowLoader(Numbers(), BatchRamp(rows=8, first_rows=2, steps=3), 0, 4)
    with pytest.raises(ConfigError, match="source 'c': is not there; use one of a, b"):
        RowMixture({"a": Numbers(), "b": Numbers()}, [MixtureStage(weights={"c": 1.0})])
