"""Greetings, questions, and requests that have the form of the other."""

import pytest

from onnuri.toyworld.front_end.questions import is_greeting, is_question


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
