"""Particles fit the word before them."""

import pytest

from onnuri.data.korean import particle


def test_particles_fit_the_last_syllable():
    said = {"사과": "를", "종": "을", "빵": "을", "나무": "를", "zip": "를", "": "를"}
    assert {word: particle(word, "을/를") for word in said} == said
    subjects = {"사과": "가", "종": "이", "고양이": "가"}
    assert {word: particle(word, "이/가") for word in subjects} == subjects


@pytest.mark.parametrize(
    ("pair", "after_final", "after_rieul", "after_vowel"),
    [
        ("이/가", "이", "이", "가"),
        ("은/는", "은", "은", "는"),
        ("을/를", "을", "을", "를"),
        ("와/과", "과", "과", "와"),
        ("으로/로", "으로", "로", "로"),
    ],
)
def test_each_pair_has_its_own_rule(pair, after_final, after_rieul, after_vowel):
    told = [particle(word, pair) for word in ("왼쪽", "별", "구")]
    assert told == [after_final, after_rieul, after_vowel]
