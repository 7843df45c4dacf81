"""What is asked, by words: task, language."""

import pytest

from onnuri.model.asking import language_asked, language_spoken, task_of, wish_of


@pytest.mark.parametrize(
    ("said", "language"),
    [
        ("draw a red ball", "en"),
        ("빨간 공을 그려줘", "ko"),
        ("무엇이 보이나요? in English", "en"),
        ("what do you see? 한국어로", "ko"),
        ("영어로 설명해줘", "en"),
        ("please answer in Korean: what is this?", "ko"),
        ("draw a 빨간 ball please", "en"),
        ("red 공 그려줘", "ko"),
        ("영어로 된 책", "en"),
        ("", "en"),
    ],
)
def test_the_answer_is_in_the_asker_s_language_or_the_one_that_is_wished(said, language):
    assert language_asked(said) == language


def test_a_wish_is_taken_out_of_what_is_said():
    assert wish_of("what is this in English?") == ("en", "what is this?")
    assert wish_of("한국어로 설명해줘") == ("ko", "설명해줘")
    assert wish_of("a red ball in a box") == (None, "a red ball in a box")
    assert language_spoken("A medium 빨간 cylinder is here") == "en"


@pytest.mark.parametrize(
    ("to", "given", "same", "task"),
    [
        ("text", [("image", "")], False, "describe"),
        ("text", [("image", ""), ("text", "무엇이 보이나요?")], False, "describe"),
        ("text", [("image", ""), ("text", "what color is the ball?")], False, "answer"),
        ("audio", [("shape", "")], False, "describe"),
        ("image", [("text", "a red ball")], False, None),
        ("image", [("image", ""), ("text", "make it blue")], False, "edit"),
        ("text", [("text", "a red ball")], False, "translate"),
        ("text", [("text", "a red ball")], True, "describe"),
        ("text", [("text", "a red ball"), ("text", "how many?")], False, "answer"),
        ("shape", [("image", "")], False, None),
        ("text", [("image", ""), ("audio", "what color is the ball?")], False, "answer"),
        ("image", [], False, None),
    ],
)
def test_the_task_follows_from_what_was_given_and_wanted(to, given, same, task):
    assert task_of(to, given, same) == task
