import copy
import pickle

import pytest

from onnuri.config import Config
from onnuri.errors import ConfigError


class Inner(Config):
    rate: float = 0.5
    names: tuple[str, ...] = ("a",)


class Outer(Config):
    width: int
    inner: Inner = Inner()
    limit: int | None = None


def test_json_round_trip_restores_nested_configs_and_tuples():
    made = Outer(width=3, inner=Inner(names=("x", "y")), limit=7)
    again = Outer.from_json(made.to_json())
    assert again == made and isinstance(again.inner.names, tuple)


def test_unknown_field_offers_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        Outer.from_json({"widht": 3})


def test_missing_field_is_named():
    with pytest.raises(ConfigError, match="needs width"):
        Outer.from_json({})


def test_configs_are_frozen_and_keyword_only():
    with pytest.raises(TypeError):
        Outer(3)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Outer(width=3).width = 4  # type: ignore[misc]


class Table(Config):
    counts: dict[str, int]


def test_dicts_of_configs_are_frozen_too_and_copy():
    given = {"a": 1}
    made = Table(counts=given)
    given["a"] = 2
    assert made.counts == {"a": 1} and Table.from_json(made.to_json()) == made
    for change in (
        lambda: made.counts.update(a=3),
        lambda: made.counts.pop("a"),
        lambda: made.counts.__setitem__("b", 1),
    ):
        with pytest.raises(TypeError, match="replace"):
            change()
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made and made.counts | {
        "b": 2
    } == {"a": 1, "b": 2}


def test_diff_names_nested_fields():
    a = Outer(width=3)
    assert a.diff(a.replace(inner=Inner(rate=1.0))) == {"inner.rate": (0.5, 1.0)}


def test_save_and_load(tmp_path):
    made = Outer(width=9)
    made.save(tmp_path / "run.json")
    assert Outer.load(tmp_path / "run.json") == made
