"""The text front end: case, Unicode, spaces and slips are mended, meaning is left alone, what is
unknown is told."""

import functools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnuri
from onnuri.toyworld.front_end.notice import default_words
from onnuri.toyworld.front_end.spelling import COMMON, Spelling, distance, jamo, plain
from onnuri.toyworld.front_end.toy import ToyFrontEnd

WORDS = default_words()
SHIPPED = ToyFrontEnd.load(onnuri.WEIGHTS / "laptop" / "codecs")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("A RED BALL ABOVE A BLUE CUBE", "a red ball above a blue cube"),
        ("  There   is a “large”  sphere. ", "there is a large sphere"),
        (unicodedata.normalize("NFD", "빨간 구가 있다"), "빨간 구가 있다"),
        ("aredballaboveabluecube", "a red ball above a blue cube"),
        ("작은빨간구가파란정육면체왼쪽에서돈다", "작은 빨간 구가 파란 정육면체 왼쪽에서 돈다"),
        ("빨 간 공", "빨간 공"),
        ("a rde spher above a bleu cube", "a red sphere above a blue cube"),
        ("빨깐 공과 파란 정유면체", "빨간 공과 파란 정육면체"),
        ("빨간 공ㅎㅎ ^^", "빨간 공"),
        ("A red ball :)", "a red ball"),
        ("a red ball (large), a (blue) cube", "a red ball, large, a, blue cube"),
        ("a red ball. a blue cube!! it is large.", "a red ball. a blue cube.. it is large"),
        ("a red ball + a blue cube & a star", "a red ball + a blue cube & a star"),
    ],
)
def test_what_only_looks_different_is_read_alike(written, read):
    assert WORDS.read(written).text == read and not WORDS.read(written).unknown


@pytest.mark.parametrize(
    ("written", "unknown"),
    [
        ("a dog on a bicycle", ("dog", "bicycle")),
        ("information technology", ("information", "technology")),
        ("큰 강아지 그려줘", ("강아지",)),
        ("what nice weather", ("weather",)),
        ("a red ball", ()),
        ("빨간 공 두 개", ()),
        ("a red bell", ("bell",)),
        ("귀여운 고양이를 그려줘", ("귀여운", "고양이를")),
    ],
)
def test_what_is_not_known_is_told_and_left_as_it_was(written, unknown):
    assert WORDS.read(written).unknown == unknown and WORDS.read(written).text == written


@pytest.mark.parametrize("particle", ["보다", "인데", "들", "이랑", "하고", "은", "에서"])
def test_a_noun_is_known_before_a_particle(particle):
    assert Spelling({"공": 2}).read(f"공{particle}").unknown == ()


def test_no_common_word_is_taken_for_a_slip():
    assert all(WORDS.word(word) == word for word in COMMON)


@given(st.text(alphabet="abcdef", max_size=7), st.text(alphabet="abcdef", max_size=7))
@settings(max_examples=200, deadline=None)
def test_distance_is_a_symmetric_count_of_slips(a, b):
    assert distance(a, b) == distance(b, a) and (distance(a, b) == 0) == (a == b)
    assert distance(a, a + b) == len(b) and abs(len(a) - len(b)) <= distance(a, b) <= max(
        len(a), len(b)
    )


def test_every_swap_of_neighbours_in_a_long_word_is_mended_to_a_word_one_slip_away_or_is_a_real_word():
    long_words = [
        word for word in WORDS.counts if len(word) >= 6 and word.isascii() and word.isalpha()
    ]
    swaps = {
        w[:at] + w[at + 1] + w[at] + w[at + 2 :] for w in long_words for at in range(len(w) - 1)
    }
    real = swaps & WORDS.real - WORDS.counts.keys() - COMMON
    assert len(swaps) > 700 and len(real) < 5  # such as "pulses", which is no slip for "pluses"
    assert all(WORDS.word(swap) is None for swap in real)
    for swap in swaps - real:
        read = WORDS.word(swap)
        assert read is not None and (
            read == swap or distance(jamo(swap), jamo(read)) <= 1 or " " in read
        ), swap


def test_what_one_rule_leaves_another_reads():
    assert plain("ㅎ(") == plain("ㅎ") == ""


@given(st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_text_is_read_and_reading_twice_changes_nothing(text):
    once = plain(text)
    assert plain(once) == once
    WORDS.read(text)


def test_the_list_is_saved_with_the_tokenizer_and_a_model_without_one_meets_text_as_it_is(tmp_path):
    assert ToyFrontEnd.load(tmp_path).read("A RED Ball.").text == "A RED Ball."
    ToyFrontEnd().save(tmp_path)
    assert ToyFrontEnd.load(tmp_path).spelling is None
    (tmp_path / "text").mkdir()
    ToyFrontEnd(Spelling({"red": 2, "ball": 1})).save(tmp_path)
    again = ToyFrontEnd.load(tmp_path)
    assert again.spelling is not None and again.spelling.counts == {"red": 2, "ball": 1}
    assert again.read("A RED Ball.").text == "a red ball"


@pytest.mark.parametrize(
    "word",
    [
        "a" * 100_000,
        "가" * 100_000,
        "redball" * 10_000,
        "." * 100_000 + "a",
        "\u202e" * 100_000 + "a",
    ],
)
def test_a_word_without_end_is_unknown_at_once(word):
    assert WORDS.read(word).corrected == () and len(WORDS.read(word).unknown) <= 1


@pytest.mark.parametrize(
    ("alone", "after"),
    [
        ("cube", "draw cube"),
        ("star left of a cube", "big star left of a cube"),
        ("공 그려줘", "빨간 공 그려줘"),
        ("별이 튄다", "큰 별이 튄다"),
    ],
)
def test_a_first_word_that_seldom_begins_a_sentence_is_read_as_in_the_middle_of_one(
    codecs, alone, after
):
    """Alone it would be other codes, "c" and "ube", which the model has hardly read."""
    text = codecs["text"]
    given = SHIPPED.encode(alone, text).tolist()
    assert given == text.encode(after)[-len(given) :].tolist() != text.encode(alone).tolist()
    assert ToyFrontEnd().encode(alone, text).tolist() == text.encode(alone).tolist()


@pytest.mark.parametrize(
    "sentence",
    [
        "a red ball",
        "draw a cube",
        "빨간 공",
        "큰 별 그려줘",
        "a",
        "",
        "xyzzy cube",
        ".",
        "is there a cube",
    ],
)
def test_other_sentences_are_given_as_they_are(codecs, sentence):
    text = codecs["text"]
    assert SHIPPED.encode(sentence, text).tolist() == text.encode(sentence).tolist()


def test_a_list_knows_how_often_its_words_begin_a_sentence(tmp_path):
    made = Spelling.learn(
        [*["a cube is a cube"] * 300, *["is it a ball"] * 20, "ball", "draw a ball"]
    )
    assert made.starts == {"a": 300, "is": 20, "ball": 1, "draw": 1}
    assert (
        made.seldom_first("cube.") and made.seldom_first("ball a") and not made.seldom_first("a it")
    )
    assert not made.seldom_first(
        "is it"
    )  # 20 of its 320 are first words, but 20 of all 322 sentences begin with it
    assert not made.seldom_first(
        "draw it"
    )  # one sentence of 322 begins with it, and it is nowhere else
    assert not Spelling(made.counts).seldom_first("cube")
    made.save(tmp_path)
    again = Spelling.load(tmp_path)
    assert (again.counts, again.starts) == (made.counts, made.starts)


@functools.cache
def slips(a, b):
    """Insertions, deletions, other letters and swaps of neighbours (optimal string alignment), by
    its definition."""
    if not a or not b:
        return len(a) + len(b)
    ways = [slips(a[1:], b) + 1, slips(a, b[1:]) + 1, slips(a[1:], b[1:]) + (a[0] != b[0])]
    if len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0]:
        ways.append(slips(a[2:], b[2:]) + 1)
    return min(ways)


@given(st.text(alphabet="abc", max_size=6), st.text(alphabet="abc", max_size=6))
@settings(max_examples=300, deadline=None)
def test_distance_is_that_of_its_definition(a, b):
    assert distance(a, b) == slips(a, b)
