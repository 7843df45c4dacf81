"""People's wordings: many, a fifth never in training, names of nothing that is held out, and true
of the scene."""

import re
from pathlib import Path

import numpy as np
import pytest

from onnuri.modality import LANGUAGES
from onnuri.toyworld import synonyms, wordings, wordings_tables
from onnuri.toyworld.grammar import parse
from onnuri.toyworld.scene import HELD_OUT, SOLIDS, Scene, Thing, sample_edit, sample_scene
from onnuri.toyworld.tasks import answer, kind_of, question
from onnuri.toyworld.wordings_en import English, plural_of
from onnuri.toyworld.wordings_ko import Korean, in_frame
from onnuri.toyworld.wordings_speaker import other_colors
from onnuri.toyworld.wordings_tables import HELD_FRAMES, WORDINGS
from onnuri.toyworld.words import COLOR


def test_there_are_many_wordings_and_a_fifth_is_held_out():
    total, held = wordings.templates()
    assert total >= 400 and 0.18 <= held / total <= 0.22
    names = [
        n
        for t in (synonyms.SOLIDS, synonyms.COLORS, synonyms.SIZES, synonyms.PLACES)
        for x in t.values()
        for n in x.values()
    ]
    verbs = [pair for t in (synonyms.KO_MOTIONS, synonyms.EN_MOTIONS) for pair in t.values()]
    known = sum(len(n.known) - 1 for n in names) + sum(len(k) - 1 for k, _ in verbs)
    held = sum(len(n.held) for n in names) + sum(len(h) for _, h in verbs)
    assert 0.18 <= held / (known + held) <= 0.22
    assert set(synonyms.SOLIDS["en"]) == set(synonyms.SOLIDS["ko"]) == set(SOLIDS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_training_never_says_what_is_held_out(language):
    held = {w for w in synonyms.held_out_synonyms(language)}
    frames = [
        w.frame for w in WORDINGS if w.language == language and (language, w.frame) in HELD_FRAMES
    ]
    starts = {
        f.split("{")[0].strip() for f in frames if len(f.split("{")[0].strip()) > 8 and "{" in f
    }
    for seed in range(80):
        sentence = wordings.say(sample_scene(seed), language, np.random.default_rng(seed))
        words = set(re.findall(r"[\w가-힣-]+", sentence))
        assert not held & words and not any(sentence.startswith(f"{s} ") for s in starts), sentence
    some = [
        wordings.say(sample_scene(s), language, np.random.default_rng(s), held_names=True)
        for s in range(24)
    ]
    assert sum(any(h in s for h in held) for s in some) >= 18


def test_the_same_random_numbers_say_the_same():
    scene = sample_scene(3)
    assert wordings.say(scene, "ko", np.random.default_rng(1)) == wordings.say(
        scene, "ko", np.random.default_rng(1)
    )


def test_what_it_is_not_names_no_held_out_color():
    for seed in range(60):
        for thing in sample_scene(seed).things:
            assert all(
                ("color", thing.solid, c) not in HELD_OUT and c != thing.color
                for c in other_colors(thing)
            )


def test_plain_names_of_one_thing_are_what_the_grammar_reads():
    """Where a wording is nothing but the world's own noun phrase, the oracle's grammar reads the
    scene in it."""
    read = 0
    for seed in range(300):
        scene = sample_scene(seed, objects=1)
        for language in LANGUAGES:
            found = parse(wordings.say(scene, language, np.random.default_rng(seed), motion=False))
            if found and len(found.things) == 1 and found.things[0].size:
                read += 1
                thing = scene.things[0]
                seen = found.things[0]
                assert (seen.solid, seen.color, seen.size) == (thing.solid, thing.color, thing.size)
    assert read >= 4


def test_questions_have_the_answer_of_our_own_question():
    for seed in range(40):
        scene = sample_scene(seed)
        for language in LANGUAGES:
            asked, told = wordings.inquire(scene, language, np.random.default_rng(seed))
            own, expected = question(scene, language, np.random.default_rng(seed))
            kind, groups = kind_of(own)
            assert told == expected == answer(scene.description(), own) and asked
            assert kind != "relation" or len(groups) == 3


def test_instructions_name_the_thing_and_the_value():
    for seed in range(40):
        scene = sample_scene(seed)
        edit = sample_edit(np.random.default_rng(seed), scene, allow_motion=True)
        said = wordings.instruct(scene, edit, "en", np.random.default_rng(seed))
        names = synonyms.SOLIDS["en"][scene.things[edit.index].solid].known
        assert any(n in said for n in names), said
        if edit.attribute == "color":
            assert any(n in said for n in synonyms.COLORS["en"][edit.value].known), said


@pytest.mark.parametrize(
    ("objects", "numbers", "others"),
    [
        (2, r"two|2|pair|couple|another|one more|두|둘|하나 더", r"three|3|trio|세 |셋"),
        (3, r"three|3|trio|세 |셋", r"two|2|pair|couple|another|one more|두 |둘|하나 더"),
    ],
)
def test_things_that_are_alike_are_counted(objects, numbers, others):
    """By how many they are, or by a plural without a number, "balls" and "공들"; never by another
    number."""
    plurals = 0
    for seed in range(40):
        for language in LANGUAGES:
            scene = sample_scene(seed, objects=objects)
            said = wordings.doubled(scene, language, np.random.default_rng(seed))
            names = synonyms.SOLIDS[language][scene.things[0].solid].known
            single = language == "ko" or re.search("another|one more", said)
            assert any((n if single else plural_of(n)) in said for n in names), said
            assert not re.search(others, said), said
            plural = (
                re.search("들", said)
                if language == "ko"
                else any(plural_of(n) in said for n in names)
            )
            assert re.search(numbers, said) or plural, said
            plurals += not re.search(numbers, said)
    assert 0 < plurals < 25


def test_a_colour_may_be_left_out_and_a_solid_never():
    """Only where no other thing is of that solid, so that it stays clear which is meant."""
    left_out = 0
    for seed in range(300):
        scene = sample_scene(seed, objects=1 + seed % 3)
        for language in LANGUAGES:
            said = wordings.say(scene, language, np.random.default_rng(seed), full=False)
            known = synonyms.COLORS[language][scene.things[0].color].known
            words = [
                *known,
                *synonyms.COLORS["en"][scene.things[0].color].known,
                COLOR["ko"][scene.things[0].color],
            ]
            left_out += not any(w in said for w in words)
            assert any(n in said for n in synonyms.SOLIDS[language][scene.things[0].solid].known), (
                said
            )
    assert 30 < left_out < 240


class Dice:
    """Stands for a random generator: the same option of every list, the same share."""

    def __init__(self, option: int, share: float) -> None:
        self.option, self.share = option, share

    def integers(self, end: int) -> int:
        return self.option % int(end)

    def random(self) -> float:
        return self.share

    def permutation(self, count: int) -> list[int]:
        return list(range(count))


def placed(solid: str, color: str, size: str, x: float, z: float) -> Thing:
    return Thing(solid=solid, color=color, size=size, motion="still", x=x, z=z)


RED = placed("sphere", "red", "small", 0.0, 0.5)
SCENES = {
    "attributes_later": Scene(
        things=(RED, placed("cube", "blue", "large", 0.0, -0.5)), stated=((0, "above", 1),)
    ),
    "two_of_a_kind": Scene(
        things=(
            placed("sphere", "red", "small", -0.5, 0.0),
            placed("sphere", "blue", "large", 0.5, 0.0),
        ),
        stated=((0, "left_of", 1),),
    ),
    "one_later": Scene(things=(RED,)),
}
SCENES |= {
    "placing": SCENES["attributes_later"],
    "without_a_place": SCENES["two_of_a_kind"],
    "alike": SCENES["two_of_a_kind"],
}
"""a small red sphere above a large blue cube, or left of a large blue sphere; or alone"""
SELDOM, BODIES = (
    [
        line.split("|")
        for line in Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    ]
    for name in ("seldom.txt", "bodies.txt")
)


@pytest.mark.parametrize(("language", "kind", "share", "option", "sentence"), SELDOM)
def test_kinds_of_some_scenes_are_true_of_them(language, kind, share, option, sentence):
    """Against sentences that were read one by one."""
    speaker = English if language == "en" else Korean
    speaks = speaker(SCENES[kind], Dice(int(option), float(share)), kind != "alike", True, False)
    speaks.article = "a"
    assert getattr(speaks, "attributes_later" if kind == "one_later" else kind)() == sentence


MOVING = Scene(
    things=(RED, Thing(solid="cube", color="blue", size="large", motion="rise", x=0.0, z=-0.5)),
    stated=((0, "above", 1),),
)


@pytest.mark.parametrize(
    ("scene", "full", "motion", "kinds"),
    [
        (SCENES["placing"], True, True, {"attributes_later", "placing"}),
        (SCENES["placing"], False, True, {"attributes_later", "placing", "without_a_place"}),
        (SCENES["two_of_a_kind"], True, True, {"two_of_a_kind"}),
        (SCENES["one_later"], True, True, {"attributes_later"}),
        (
            MOVING,
            True,
            True,
            {"placing"},
        ),  # a motion that the sentence does not say would be anyone's guess
        (MOVING, True, False, {"attributes_later", "placing"}),
    ],
)
def test_a_kind_is_said_only_of_scenes_that_it_says_whole(monkeypatch, scene, full, motion, kinds):
    every = {"two_of_a_kind", "attributes_later", "without_a_place", "placing"}
    for speaker in (English, Korean):
        for kind in every:
            monkeypatch.setattr(speaker, kind, lambda self, kind=kind: kind)
        sentences = {
            speaker(scene, np.random.default_rng(seed), full, motion, False).sentence(False)
            for seed in range(300)
        }
        assert sentences & every == kinds
        held = {
            speaker(scene, np.random.default_rng(seed), full, motion, False).sentence(True)
            for seed in range(100)
        }
        assert not held & every


@pytest.mark.parametrize(("language", "kind", "body", "sentence"), BODIES)
def test_every_body_is_true_of_its_scene(language, kind, body, sentence):
    """Against sentences that were read one by one: a small red sphere above a large blue cube."""
    speaks = (English if language == "en" else Korean)(
        SCENES["placing"], Dice(0, 0.4), True, True, False
    )
    speaks.article = "a"
    if language == "en":
        assert speaks.body(body, 0, "above", 1) == sentence
    else:
        assert speaks.filled(body, 0, "above", 1, "있다" if "{v}" in body else "") == sentence


def test_no_body_is_without_a_sentence_that_was_read():
    assert {(language, kind, body) for language, kind, body, _ in BODIES} == {
        (language, kind, body)
        for language, kinds in wordings_tables.BODIES.items()
        for kind, bodies in kinds.items()
        for body in bodies
    }


def test_a_name_that_ends_in_parentheses_takes_no_particle():
    """The front end makes a comma of them: "별, 노란색 그려줘"."""
    assert in_frame("{을} 그려줘", "별(노란색)") == "별(노란색) 그려줘"
    assert in_frame("{을} 그려줘", "노란 별") == "노란 별을 그려줘"
