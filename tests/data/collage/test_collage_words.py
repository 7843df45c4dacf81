"""Sentences about collages say what stands where, and are read again as the same scenes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnuri.data.collage.scene import (
    KINDS,
    PLACES,
    RELATIONS,
    SIZES,
    TINTS,
    CollageScene,
    CollageThing,
)
from onnuri.data.collage.scene import sample_scene as sample
from onnuri.data.collage.words import PHRASINGS, article, names_to_tell, plural, read, tell, write
from onnuri.modality import LANGUAGES

NAMES = {
    "cat": {"ko": "고양이", "en": "cat"},
    "dog": {"ko": "개", "en": "dog"},
    "owl": {"ko": "부엉이", "en": "owl"},
    "fox": {"ko": "여우 얼굴", "en": "fox"},
    "bell": {"ko": "종", "en": "bell"},
    "fly": {"ko": "파리", "en": "fly"},
}
CAT, DOG = CollageThing("cat"), CollageThing("dog")
things = st.builds(
    CollageThing,
    st.sampled_from(sorted(NAMES)),
    st.sampled_from((None, *SIZES)),
    st.sampled_from((None, *TINTS)),
)


@st.composite
def scenes(draw):
    kind = draw(st.sampled_from(KINDS))
    count = {"one": 1, "two": 2, "count": 1, "many": draw(st.integers(3, 4))}[kind]
    place = {"one": (None, *PLACES), "two": RELATIONS}.get(kind, (None,))
    return CollageScene(
        kind,
        tuple(draw(things) for _ in range(count)),
        draw(st.sampled_from(place)),
        draw(st.integers(2, 4)) if kind == "count" else 1,
    )


@given(scenes())
def test_every_way_of_telling_a_scene_is_read_as_that_scene(scene):
    ways = [p for p in PHRASINGS if (p.kind, p.place) == (scene.kind, scene.place)]
    assert len({(way.language, way.is_held) for way in ways}) == 4
    for way in ways:
        sentence = write(way.pattern, scene, NAMES, way.language)
        assert read(sentence, NAMES, way.language) == scene, sentence


@pytest.mark.parametrize(
    ("scene", "ko", "en"),
    [
        (
            CollageScene("one", (CollageThing("owl", "small", "red"),)),
            "작은 빨간 부엉이",
            "a small red owl",
        ),
        (
            CollageScene("one", (CollageThing("owl"),), "left"),
            "왼쪽에 부엉이",
            "an owl on the left",
        ),
        (
            CollageScene("two", (CAT, CollageThing("dog", None, "blue")), "top"),
            "파란 개 위에 고양이",
            "a cat above a blue dog",
        ),
        (CollageScene("count", (CollageThing("fly"),), None, 3), "파리 셋", "three flies"),
        (
            CollageScene("many", (CAT, DOG, CollageThing("bell"))),
            "고양이, 개 그리고 종",
            "a cat, a dog and a bell",
        ),
    ],
)
def test_scenes_are_told_in_plain_words(scene, ko, en):
    patterns = {
        language: next(
            p.pattern
            for p in PHRASINGS
            if (p.kind, p.place, p.language) == (scene.kind, scene.place, language)
        )
        for language in LANGUAGES
    }
    assert write(patterns["ko"], scene, NAMES, "ko") == ko
    assert write(patterns["en"], scene, NAMES, "en") == en


@pytest.mark.parametrize(
    ("sentence", "language", "scene"),
    [
        ("A dog below a cat.", "en", CollageScene("two", (CAT, DOG), "top")),
        ("a dog to the right of a cat", "en", CollageScene("two", (CAT, DOG), "left")),
        ("개가 고양이 아래에 있다", "ko", CollageScene("two", (CAT, DOG), "top")),
        ("고양이 오른쪽에 개", "ko", CollageScene("two", (CAT, DOG), "left")),
        ("종이 있다", "ko", CollageScene("one", (CollageThing("bell"),))),
        (
            "고양이, 개 그리고 종이 있다",
            "ko",
            CollageScene("many", (CAT, DOG, CollageThing("bell"))),
        ),
        ("a horse", "en", None),
        ("cat", "en", None),
        ("a cat and a dog", "en", None),
        ("five cats", "en", None),
        ("two cat", "en", None),
        ("a cat beside a dog", "en", None),
        ("", "ko", None),
    ],
)
def test_sentences_are_read_by_what_they_say(sentence, language, scene):
    assert read(sentence, NAMES, language) == scene


def test_held_out_wordings_are_not_trained_on():
    rng = np.random.default_rng(0)
    concepts = sorted(NAMES)
    trained, held = set(), set()
    for _ in range(600):
        scene = sample(concepts, rng)
        for language in LANGUAGES:
            words = ("보인다", "sees", "위쪽에", "at the top a", "왼쪽에", "on the left a")
            sentence = tell(scene, NAMES, language, rng)
            if scene.kind == "two":
                assert not sentence.startswith(words[2:]), sentence
            assert not any(word in sentence for word in words[:2])
            trained.add(sentence)
            held.add(tell(scene, NAMES, language, rng, held=True))
    assert not trained & held and len(held) > 100


def test_scenes_show_different_things_of_every_kind():
    rng = np.random.default_rng(1)
    drawn = [sample(sorted(NAMES), rng) for _ in range(500)]
    assert {scene.kind for scene in drawn} == set(KINDS)
    assert all(len({t.concept for t in scene.things}) == len(scene.things) for scene in drawn)
    assert {scene.place for scene in drawn if scene.kind == "two"} == set(RELATIONS)
    assert {scene.place for scene in drawn if scene.kind == "one"} == {None, *PLACES}
    assert {scene.number for scene in drawn if scene.kind == "count"} == {2, 3, 4}


def test_names_that_sentences_could_not_be_read_of_are_left_out():
    names = {
        "a": {"ko": "고양이", "en": "cat"},
        "b": {"ko": "고양이", "en": "kitten"},  # one Korean name of two things
        "c": {"ko": "빨간 사과", "en": "apple"},  # a tint
        "d": {"ko": "왼쪽 화살표", "en": "arrow"},  # a place
        "e": {"ko": "큰곰", "en": "big bear"},  # two words
        "f": {"ko": "개"},
        "g": {"ko": "개들", "en": "dogs"},
        "h": {"ko": "강아지", "en": "dog"},  # whose plural is that
        "i": {"ko": "종", "en": "bell"},
        "j": {"ko": "가위", "en": "scissors"},
        "k": {"ko": "나침반", "en": "compass"},
    }
    assert set(names_to_tell(names)) == {"i", "k"}


def test_articles():
    words = ["owl", "unicorn", "umbrella", "euro", "ice", "one", "onion", "bell"]
    assert [article(word) for word in words] == ["an", "a", "an", "a", "an", "a", "an", "a"]


def test_plurals():
    said = {
        "cat": "cats",
        "fox": "foxes",
        "fly": "flies",
        "key": "keys",
        "bus": "buses",
        "brush": "brushes",
        "watch": "watches",
    }
    assert {name: plural(name) for name in said} == said
