"""Errors reach other processes as they are."""

import pickle

import pytest

from onnuri import errors


@pytest.mark.parametrize(
    "kind", [errors.ConfigError, errors.MediaError, errors.WeightsError, errors.BusyError]
)
def test_an_error_is_the_same_in_another_rank(kind):
    error = kind("--rows 3", "is odd", "give 4", code="odd", rows=3)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) and vars(again) == vars(error)
    assert (again.value, again.code, again.about) == ("--rows 3", "odd", {"rows": 3})
