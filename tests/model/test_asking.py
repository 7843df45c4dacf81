"""What is asked, by words: task, language, greeting."""

import pytest

from onnuri.model.asking import (
    is_greeting,
    is_question,
    language_asked,
    language_spoken,
    task_of,
    wish_of,
)


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


def test_greetings_and_questions():
    assert all(map(is_greeting, ["hello", "Hi there!", "안녕하세요", "고마워요", "who are you?"]))
    assert not any(map(is_greeting, ["a red ball", "빨간 공", "history of a cube"]))
    assert all(
        map(
            is_question,
            [
                "what is the capital of France?",
                "how many?",
                "몇 개인가요",
                "프랑스의 수도는 어디야?",
            ],
        )
    )
    assert not any(
        map(
            is_question,
            [
                "can you draw a red ball?",
                "빨간 공을 그려줄래?",
                "a red ball is here",
                "can I have a red ball?",
                "빨간 공이 있어",
                "빨간 공이 있다고 말해줘",
            ],
        )
    )


@pytest.mark.parametrize(
    "words",
    [
        "could we try a cylinder in black?",
        "what about a red ball?",
        "would you mind drawing a cyan box?",
        "good morning, can i get a star?",
        "can the green ball be left of the yellow box?",
        "my kid wants a pink cone, can you do that?",
        "is it possible to see a cube?",
        "큰 빨간 공 하나요",
        "빨간 아치 옆에 하얀 큐브 놓아줄 수 있어?",
        "별 하나만 렌더링해 주시겠어요?",
        "파란 공 보고 싶은데 가능할까요?",
        "작은 별 필요해 알았지?",
    ],
)
def test_a_request_that_is_put_as_a_question_is_no_question(words):
    assert not is_question(words)


@pytest.mark.parametrize(
    "words",
    [
        "could you tell me the time?",
        "can we know how many people live in Paris?",
        "would you say it is big?",
        "can you count to ten?",
        "개수를 세어 줄 수 있어?",
        "수도가 어디인지 알려줄래?",
        "이름이 뭐예요?",
        "몇 개가 필요해?",
    ],
)
def test_a_question_that_is_put_as_a_request_is_one(words):
    assert is_question(words)
