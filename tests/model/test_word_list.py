"""A front end that knows the words it has learned from, with their endings."""

import json

import pytest

from onnuri.errors import WeightsError
from onnuri.model.front_end import front_end_class
from onnuri.model.word_list import WordListFrontEnd

SENTENCES = ["빨간 사과", "red apple", "draw a {n}", "그려 줘", "바나나", "watch", "box", "나무 집"]


@pytest.fixture(scope="module")
def front_end():
    return WordListFrontEnd.learn(SENTENCES)


@pytest.mark.parametrize(
    ("sentence", "unknown"),
    [
        ("  A Red\n APPLE ", ()),
        ("apples and boxes", ("and",)),
        ("two watches", ("two",)),
        ("사과를 그려줘", ()),
        ("바나나가, 사과와 나무로!", ()),
        ("사과에서만은", ()),  # three particles
        ("바다에 사과", ("바다에",)),
        ("3 apples 4you", ("you",)),
        ("한국", ("한국",)),
        ("", ()),
    ],
)
def test_words_are_known_with_their_endings(front_end, sentence, unknown):
    reading = front_end.read(sentence)
    assert reading.unknown == unknown
    assert reading.text == " ".join(sentence.lower().split())


def test_a_notice_names_unknown_words_once_in_the_language_asked(front_end):
    readings = [front_end.read("a zebra and a zebra"), front_end.read("얼룩말")]
    (notice,) = front_end.notices(readings, [], {}, "en")
    assert notice.code == "unknown_words" and notice.details == ("zebra", "and", "얼룩말")
    assert "never read 'zebra'" in notice.message
    (notice,) = front_end.notices(readings, [], {}, "ko")
    assert "배운 적 없는 말" in notice.message
    assert front_end.notices([front_end.read("red box")], [], {}, "en") == []


def test_an_answer_is_improbable_below_its_own_threshold():
    front_end = WordListFrontEnd((), {"text": -1.0})
    assert front_end.unsure({"text": [-0.5, -1.4]}, "en") == []
    (notice,) = front_end.unsure({"text": [-0.5, -1.6]}, "en")
    assert notice.code == "improbable" and "not sure" in notice.message
    assert front_end.unsure({"image": [-9.0], "text": []}, "en") == []


def test_it_is_saved_whole(tmp_path, front_end):
    (tmp_path / "text").mkdir()
    WordListFrontEnd(front_end.words, {"text": -2.5}).save(tmp_path)
    loaded = front_end_class("words").load(tmp_path)
    assert loaded.words == front_end.words and loaded.least == {"text": -2.5}
    path = tmp_path / "text/words.json"
    for damaged in ("{", "[]", json.dumps({"words": ["a"]}), None):
        if damaged is None:
            path.unlink()
        else:
            path.write_text(damaged)
        with pytest.raises(WeightsError, match="holds no list of words"):
            WordListFrontEnd.load(tmp_path)
