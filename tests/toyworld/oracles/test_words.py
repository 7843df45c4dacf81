"""What is measured of words, on models whose answers are known."""

import functools

import pytest

from onnuri.toyworld import image
from onnuri.toyworld.oracles import words
from onnuri.toyworld.oracles.image import observe
from onnuri.toyworld.scene import Scene, Thing
from onnuri.toyworld.words import SOLID


class Draws:
    """Draws one thing: the solid that `of` says a sentence means."""

    def __init__(self, of):
        self.of, self.asked = of, []

    def generate_batch(self, to, inputs, *, language, seeds):
        sentences = [given[0][1] for given in inputs]
        self.asked += sentences
        assert to == "image" and len(set(seeds)) == len(seeds) and len(language) == len(sentences)
        return [drawing(self.of(s)) for s in sentences]


@functools.cache
def drawing(solid):
    thing = Thing(solid=solid, color="red", size="large", motion="still", x=0, z=0)
    return image.render(Scene(things=(thing,))).image


@pytest.fixture(autouse=True)
def each_drawing_is_looked_at_once(monkeypatch):
    """Hundreds of sentences are answered with one of few pictures; what the oracle sees in a
    picture does not change."""
    seen = {}

    def look(picture):
        key = picture.tobytes()
        if key not in seen:
            seen[key] = observe(picture)
        return seen[key]

    monkeypatch.setitem(words.OBSERVE, "image", look)


def named(sentence):
    """The solid whose name in either language, or whose other name, a sentence holds; longest names
    first."""
    names = {name: solid for names in SOLID.values() for solid, name in names.items()}
    names |= {other: names[own] for own, other in words._OTHER_NAMES.items() if own in names}
    return next(names[name] for name in sorted(names, key=len, reverse=True) if name in sentence)


def test_names_alone_are_all_names_and_right_where_the_named_thing_is_drawn():
    model = Draws(named)
    found = words.names_alone(model, "image")
    assert {language: r["scenes"] for language, r in found.items()} == {"ko": 1, "en": 1}
    assert {"cube", "draw cube", "box", "draw box", "공", "공 그려줘", "정육면체"} <= set(
        model.asked
    )
    assert (
        len(model.asked)
        == sum(r["n"] for r in found.values())
        == words.SEEDS_ALONE * len(set(model.asked))
    )


def test_one_solid_for_every_name_is_right_by_its_own_names_only():
    rows = words.names_alone(Draws(lambda sentence: "star"), "image")
    assert set(rows) == {"ko", "en"}
    for row in rows.values():
        assert (
            row["scenes"] * row["n"] == words.SEEDS_ALONE * 2
        )  # "별", "별 그려줘"; "star", "draw star"
