import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.modality import LANGUAGES
from onnuri.toyworld.grammar import parse
from onnuri.toyworld.scene import HELD_OUT, INVERSE, Traits, sample_edit, sample_scene
from onnuri.toyworld.tasks import answer, instruction, question
from onnuri.toyworld.text import caption
from onnuri.toyworld.words import SOLID, josa


@given(
    st.integers(0, 10**6),
    st.sampled_from(LANGUAGES),
    st.sampled_from(["train", "seen", "held_out"]),
)
@settings(max_examples=300, deadline=None)
def test_captions_are_read_back_exactly(seed, language, split):
    scene = sample_scene(seed, split)
    read = parse(caption(scene, language, np.random.default_rng(seed)))
    index = {(t.solid, t.color): k for k, t in enumerate(read.things)}
    order = [index[t.solid, t.color] for t in scene.things]
    assert [read.things[k] for k in order] == list(scene.description().things)
    stated = {(order[i], r, order[j]) for i, r, j in scene.stated}
    assert read.relations == stated | {(j, INVERSE[r], i) for i, r, j in stated}


@given(st.integers(0, 10**6), st.sampled_from(LANGUAGES))
@settings(max_examples=60, deadline=None)
def test_captions_of_stills_and_short_captions_are_read(seed, language):
    scene = sample_scene(seed)
    still = parse(caption(scene, language, np.random.default_rng(seed), motion=False))
    assert all(t.motion == "still" for t in still.things)
    short = parse(caption(scene, language, np.random.default_rng(seed), full=False))
    assert {t.size for t in short.things} <= {None, *(t.size for t in scene.things)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "작은 빨간 구가",
        "A red sphere is",
        "There is",
        "구 빨간 작은",
        "빨간 구가 왼쪽에",
        "a red sphere circles to the left of",
        "the the sphere",
        "있다",
        "a red and a blue",
    ],
)
def test_what_is_not_of_the_grammar_is_not_read(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    ("text", "traits"),
    [
        ("빨간 공", Traits(solid="sphere", color="red")),
        ("a big red ball", Traits(solid="sphere", color="red", size="large")),
        ("큰 파란 상자가 돈다", Traits(solid="cube", color="blue", size="large", motion="circle")),
    ],
)
def test_prompts_of_users_are_read(text, traits):
    assert parse(text).things == (traits,)


def test_particles_follow_the_last_syllable():
    # an independent table, by hand
    after = {
        "구": "가",
        "정육면체": "가",
        "원기둥": "이",
        "원뿔": "이",
        "도넛": "이",
        "별": "이",
        "십자가": "가",
        "캡슐": "이",
        "팔면체": "가",
        "아치": "가",
    }
    assert set(after) == set(SOLID["ko"].values())
    assert all(josa(w, "이/가") == w + p for w, p in after.items())
    assert (
        josa("별", "으로/로") == "별로"
        and josa("캡슐", "으로/로") == "캡슐로"
        and josa("도넛", "으로/로") == "도넛으로"
    )
    assert (
        josa("구", "으로/로") == "구로"
        and josa("별", "와/과") == "별과"
        and josa("구", "와/과") == "구와"
    )


@given(st.integers(0, 10**6), st.sampled_from(LANGUAGES))
@settings(max_examples=150, deadline=None)
def test_answers_follow_from_the_question_alone_and_name_nothing_held_out(seed, language):
    scene = sample_scene(seed)
    asked, told = question(scene, language, np.random.default_rng(seed))
    assert answer(scene.description(), asked) == told
    colors = {t.color for t in scene.things}
    assert not any(
        kind == "color"
        and SOLID[language][a] in asked.split()
        and b in asked.split()
        and b not in colors
        for kind, a, b, *_ in HELD_OUT
    )


@given(st.integers(0, 10**6), st.sampled_from(LANGUAGES))
@settings(max_examples=60, deadline=None)
def test_instructions_name_the_thing_they_change(seed, language):
    scene = sample_scene(seed)
    edit = sample_edit(np.random.default_rng(seed), scene, allow_motion=True)
    if edit:
        said = instruction(scene, edit, language, np.random.default_rng(0))
        assert SOLID[language][scene.things[edit.index].solid] in said
