"""Sequences about named pictures: what is asked, shown and answered belong together, and are asked
in training as they are when the model is used."""

import re

import numpy as np
import pytest

from onnuri.codecs.text import TextCodec
from onnuri.data.collage.scene import CollageScene, CollageThing
from onnuri.data.collage.words import read
from onnuri.data.picture_store import PictureItem
from onnuri.data.picture_tasks import (
    KINDS,
    ItemNames,
    PictureMixture,
    PictureTasks,
    names_of,
    sentences,
)
from onnuri.errors import ConfigError
from onnuri.modality import fold
from onnuri.model.asking import language_asked, task_of

WORDS = {"round": {"ko": "동글", "en": "round"}, "flat": {"ko": "납작", "en": "flat"}}


class Store:
    """Pictures without pixels: an apple and a bell in two styles, a map in one, in English."""

    items = (
        PictureItem(concept="a", style="round", names=("사과", "red apple", "과일", "fruit")),
        PictureItem(concept="a", style="flat", names=("사과", "Red  Apple", "과일", "fruit")),
        PictureItem(concept="b", style="round", names=("종", "bell")),
        PictureItem(concept="b", style="flat", names=("종", "bell"), split="dev"),
        PictureItem(concept="m", style="old", names=("Map", "paper")),
        PictureItem(concept="n", style="old"),
    )

    def of_split(self, split):
        return np.array([k for k, item in enumerate(self.items) if item.split == split])


class Scenes:
    """Two collages, with codes that tell which."""

    names = {"a": {"ko": "사과", "en": "apple"}, "b": {"ko": "종", "en": "bell"}}
    scenes = [
        CollageScene("two", (CollageThing("a"), CollageThing("b")), "top"),
        CollageScene("one", (CollageThing("b", "small", "red"),)),
    ]
    codes = np.array([[0, 2], [1, 2]])


class Codes:
    """Codes that tell which picture they are of, and whether it is to be drawn."""

    def drawn(self, number, rng):
        return np.array([number, 1])

    def seen(self, number, rng):
        return np.array([number, 0])


@pytest.fixture(scope="module")
def text():
    tasks = PictureTasks(PictureMixture(), Store(), Codes(), None, WORDS, None, Scenes())
    return TextCodec.learn(sentences(tasks))


def only(kind, **more):
    return PictureMixture(**{each: float(each == kind) for each in KINDS}, **more)


def samples(kind, text, count=200, **more):
    tasks = PictureTasks(only(kind, **more), Store(), Codes(), text, WORDS, None, Scenes())
    return [tasks.sample(np.random.default_rng([5, k])) for k in range(count)]


def test_names_are_by_language_in_small_letters_and_the_first_is_the_name():
    assert names_of(Store.items[1]) == {
        "en": ItemNames("red apple", ("fruit",)),
        "ko": ItemNames("사과", ("과일",)),
    }
    assert names_of(PictureItem(concept="x", names=("A", "a ", "B"))) == {
        "en": ItemNames("a", ("b",))
    }
    assert names_of(Store.items[5]) == {} and fold(" A  b\n") == "a b"


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_asked_as_it_was_trained(kind, text):
    """What is told before an answer is what `Answers` puts before one to the same inputs."""
    for sequence in samples(kind, text, both=0.0, answered=0.0):
        *inputs, answer = sequence
        told = [(s.codec, text.decode(s.codes) if s.codec == "text" else "") for s in inputs]
        same = [s.language for s in inputs if s.codec == "text"] == [answer.language]
        assert answer.task == task_of(answer.codec, told, same and len(inputs) == 1)
        assert answer.codec in ("text", "image") and (answer.codec == "text") == bool(
            answer.language
        )
        for (codec, words), segment in zip(told, inputs, strict=True):
            if codec == "text":
                assert language_asked(words) == segment.language, words


def test_drawings_are_asked_for_by_name_tags_and_style(text):
    asked = {}
    for request, picture in samples("draw", text, 600):
        assert picture.codes[1] == 1 and picture.weight == 1
        number = int(picture.codes[0])
        asked.setdefault(number, []).append(text.decode(request.codes))
        named = names_of(Store.items[number])[request.language]
        words = (named.name, *named.tags)
        assert any(word in asked[number][-1] for word in words), asked[number][-1]
        assert request.weight == pytest.approx(5 * 0.1)
    assert sorted(asked) == [0, 1, 2, 4]  # none of dev, none without a name
    flat = [sentence for sentence in asked[1] if re.search("납작|flat", sentence)]
    assert 0.6 < len(flat) / len(asked[1]) < 0.9
    assert not any(re.search("동글|round", sentence) for sentence in asked[1])
    assert not any(re.search("동글|round|납작|flat", sentence) for sentence in asked[4])


def test_names_follow_views_that_the_model_is_shown(text):
    with_question = 0
    for picture, *asked, answer in samples("name", text, both=0.0, pictured=0.0):
        assert picture.codes[1] == 0 and answer.weight == 5
        named = names_of(Store.items[int(picture.codes[0])])
        assert text.decode(answer.codes) == named[answer.language].name
        with_question += len(asked)
    assert 0.2 < with_question / 200 < 0.4


def test_some_pictures_that_are_named_are_learned_too(text):
    learned = 0
    for picture, *_, answer in samples("name", text, 400, pictured=0.25):
        is_drawn = picture.codes[1] == 1
        assert (picture.weight == 1) == is_drawn and answer.weight == 5
        learned += is_drawn
    assert 0.2 < learned / 400 < 0.3


def test_a_name_in_the_other_language_may_follow(text):
    with_both = 0
    for picture, *more in samples("name", text, 400, asked=0.0, both=0.4):
        named = names_of(Store.items[int(picture.codes[0])])
        assert all(s.task == "describe" and s.weight == 5 for s in more)
        assert [text.decode(s.codes) for s in more] == [named[s.language].name for s in more]
        assert len({s.language for s in more}) == len(more) <= len(named)
        with_both += len(more) - 1
    assert 0.2 < with_both / 400 < 0.4  # one of four pictures has a name in English alone


def test_another_style_is_of_the_same_thing(text):
    pairs = set()
    for *inputs, picture in samples("restyle", text):
        if inputs[0].codec == "text":
            continue  # a drawing: there is no other style
        first, asked = int(inputs[0].codes[0]), text.decode(inputs[1].codes)
        pairs.add((first, int(picture.codes[0])))
        word = WORDS[Store.items[int(picture.codes[0])].style][inputs[1].language]
        assert word in asked and picture.codes[1] == 1
    assert pairs == {(0, 1), (1, 0)}


@pytest.mark.parametrize("kind", ["compose", "caption"])
def test_collages_go_with_sentences_about_them(kind, text):
    seen = set()
    for segments in samples(kind, text):
        told, shown = segments if kind == "compose" else segments[::-1]
        scene = Scenes.scenes[int(shown.codes[0])]
        assert read(text.decode(told.codes), Scenes.names, told.language) == scene
        assert (told.weight > 1, shown.weight == 1) == (kind == "caption", kind == "compose")
        seen.add((int(shown.codes[0]), told.language))
    assert len(seen) == 4


def test_without_collages_there_are_no_sequences_about_them(text):
    tasks = PictureTasks(PictureMixture(compose=9.0), Store(), Codes(), text, WORDS)
    assert tasks.shares[[KINDS.index("compose"), KINDS.index("caption")]].tolist() == [0, 0]
    assert tasks.shares.sum() == pytest.approx(1)


def test_names_are_translated_both_ways(text):
    told = set()
    for first, second in samples("translate", text, same=0.0, requested=0.0):
        if second.codec == "text":
            told.add((text.decode(first.codes), text.decode(second.codes)))
    assert told == {("사과", "red apple"), ("red apple", "사과"), ("종", "bell"), ("bell", "종")}


def test_a_request_in_words_is_answered_by_the_name(text):
    told, same = set(), 0
    for first, second in samples("translate", text, 400, same=0.5, requested=1.0):
        if second.codec == "text":
            told.add((text.decode(first.codes), text.decode(second.codes), second.task))
            same += first.language == second.language
    assert ("사과를 그려 줘", "사과", "describe") in told
    assert ("draw bell", "종", "translate") in told
    assert not any(
        answer == "사과" and "사과" in said and task == "translate" for said, answer, task in told
    )
    assert 0.35 < same / 400 < 0.5  # one of six pictures has a name in English alone


def test_any_question_about_a_picture_may_be_answered_by_its_name(text):
    tasks = [
        (len(asked), answer.task)
        for _, *asked, answer in samples("name", text, 400, both=0.0, answered=0.5)
    ]
    assert {task for count, task in tasks if not count} == {"describe"}
    assert 0.35 < np.mean([task == "answer" for count, task in tasks if count]) < 0.65


def test_styles_are_drawn_by_their_weights(text):
    numbers = [
        int(s.codes[0]) for (s,) in samples("unconditional", text, 900, styles={"round": 0.25})
    ]
    counts = np.bincount(numbers, minlength=5) / 900
    assert np.allclose(counts, [0.1, 0.4, 0.1, 0, 0.4], atol=0.05)


def test_pictures_without_names_are_one_line(text):
    with pytest.raises(ConfigError, match="have no names to learn"):
        PictureTasks(PictureMixture(), Store(), Codes(), text, WORDS, [5])
