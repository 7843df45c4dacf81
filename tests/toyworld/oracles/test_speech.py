"""Speech is judged by the words that a stranger hears in it."""

import json

import numpy as np
import pytest

import onnuri
from onnuri.errors import ConfigError
from onnuri.toyworld.oracles import speech
from onnuri.toyworld.oracles.speech import edits, words_right


@pytest.mark.parametrize(
    ("said", "heard", "count"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a c", 1),
        ("a b", "a x b", 1),
        ("a b", "b a", 2),
        ("", "a b", 2),
        ("a b c", "", 3),
        ("a b c d", "x b d", 2),
    ],
)
def test_edits_are_the_fewest(said, heard, count):
    assert edits(said.split(), heard.split()) == edits(heard.split(), said.split()) == count


def test_words_are_compared_without_punctuation_and_capitals():
    assert words_right(["A red cube.", "a cone"], ["a red, Cube", "a dog"]) == 4 / 5
    assert words_right(["a"], ["b c d"]) == 0


class Deaf:
    """A judge that hears what its recordings are told to say, in the order of the sentences."""

    name = "deaf"

    def __init__(self, sentences):
        self.sentences, self.calls = sentences, 0

    def hear(self, sounds, language):
        """The first time all words, then all but the first, then none."""
        self.calls += 1
        assert all(sound.dtype == np.float32 and len(sound) for sound in sounds)
        told = self.sentences[language]
        return [told, [t.split(" ", 1)[1] for t in told], [""] * len(told)][(self.calls - 1) % 3]


def test_each_kind_of_sound_is_heard_apart(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader")
    said = {"ko": [], "en": []}
    real = speech.caption

    def caption(scene, language, rng):
        said[language].append(real(scene, language, rng))
        return said[language][-1]

    monkeypatch.setattr(speech, "caption", caption)
    figures = speech.run(onnuri.load(), 2, tmp_path / "speech.json", Deaf(said))
    for language in ("ko", "en"):
        words = sum(len(sentence.split()) for sentence in said[language])
        each = figures[language]
        assert each.spoken == 1 and each.real == pytest.approx(1 - 2 / words)
        assert each.round_trip == 0 and each.shuffled < 1
    written = json.loads((tmp_path / "speech.json").read_text())
    assert written["judge"] == "deaf" and written["en"]["sentences"] == 2
    with pytest.raises(ConfigError, match="--items 1: is below 2"):
        speech.run(onnuri.load(), 1, None, Deaf(said))
