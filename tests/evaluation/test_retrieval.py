"""Pictures judged by the real ones they are nearest to, against counting by hand and by chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnuri.evaluation.retrieval import chance_at, nearest, right_at, share


def unit(*angles):
    return np.array([[np.cos(a), np.sin(a)] for a in angles])


def test_the_nearest_come_first():
    gallery = unit(0, 1, 2, 3)
    assert nearest(unit(1.1, 2.9), gallery, 2).tolist() == [[1, 2], [3, 2]]
    assert nearest(unit(0.1), gallery, 9).tolist() == [[0, 1, 2, 3]]


def test_one_of_the_nearest_has_the_label():
    gallery, labels = unit(0, 1, 2, 3), ["a", "b", "a", "c"]
    queries, wanted = unit(0.4, 1.6, 3), ["b", "b", "a"]
    assert right_at(queries, wanted, gallery, labels, 1).tolist() == [False, False, False]
    assert right_at(queries, wanted, gallery, labels, 2).tolist() == [True, True, True]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.integers(1, 7))
def test_chance_is_what_drawing_without_looking_gives(labels, k):
    rng = np.random.default_rng(0)
    drawn = [
        label in rng.permutation(labels)[:k] for label in labels for _ in range(3000 // len(labels))
    ]
    assert chance_at(labels, labels, k) == pytest.approx(np.mean(drawn), abs=0.04)


def test_few_items_have_a_number_and_no_share():
    assert share([True] * 29).value is None and share([True] * 29).told() == "n = 29"
    assert (
        share([True, False] * 15).told().startswith("50.0 % (")
        and "n = 30" in share([True] * 30).told()
    )
