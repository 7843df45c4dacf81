"""This module measures how well speech is understood by a recogniser that others trained
(`evaluation/judges/whisper.py`): the model's, beside espeak's own, what the codec gives back of
that, and the model's beside other sentences.

Sentences are of compositions that training never saw. It knows a model as something with
`generate_batch` and codecs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.evaluation.judges.whisper import WhisperJudge
from onnuri.evaluation.machine import machine
from onnuri.files import check_place, write_json
from onnuri.modality import LANGUAGES, Language
from onnuri.toyworld.audio import OWN, speak
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

FIRST = 600_000
"""seed of the first scene"""
AT_ONCE = 16
"""sentences that are spoken together"""


class SpeechFigures(Config):
    """A SpeechFigures holds shares of words that are heard right, in [0, 1]: 1 less the word error
    rate, 0 at least."""

    sentences: int
    spoken: float
    """of the model's speech"""
    real: float
    """of the sound that it learned to speak like"""
    round_trip: float
    """of that, as the codec gives it back"""
    shuffled: float
    """of the model's speech beside other sentences"""


def run(
    model: Any, items: int, out: Path | None, judge: Any = None
) -> dict[Language, SpeechFigures]:
    """Measure a model on `items` sentences of each language, print the figures and write JSON to
    OUT, if given. Raises ConfigError for fewer than two items, and where the judge is not
    installed."""
    if items < 2:
        raise ConfigError(f"--items {items}", "is below 2", "give 2 or more")
    if out:
        check_place(out)
    judge = judge or WhisperJudge()
    figures = {language: measure(model, items, language, judge) for language in LANGUAGES}
    table = Table("words heard right", "spoken", "real sound", "codec's round trip", "shuffled")
    for language, each in figures.items():
        shares = (each.spoken, each.real, each.round_trip, each.shuffled)
        table.add_row(language, *(f"{100 * share:.1f} %" for share in shares))
    Console(highlight=False).print(table)
    if out:
        values = {language: each.to_json() for language, each in figures.items()}
        write_json({"machine": machine(), "judge": judge.name, **values}, out)
    return figures


def measure(model: Any, items: int, language: Language, judge: Any) -> SpeechFigures:
    """Return a model's figures on sentences of a language."""
    sentences = []
    for seed in range(FIRST, FIRST + items):
        scene = sample_scene(seed, "held_out")
        sentences.append(caption(scene, language, generator("held_out", seed)))
    spoken: list[np.ndarray] = []
    for start in range(0, items, AT_ONCE):
        inputs = [[("text", sentence)] for sentence in sentences[start : start + AT_ONCE]]
        spoken += model.generate_batch("audio", inputs, language=language)
    real = [speak(sentence, language, OWN) for sentence in sentences]
    codec = model.codecs["audio"]
    back = codec.decode_batch(codec.encode_batch(real))
    heard = {
        name: judge.hear(sounds, language)
        for name, sounds in (("spoken", spoken), ("real", real), ("round_trip", back))
    }
    shares = {name: words_right(sentences, each) for name, each in heard.items()}
    others = sentences[1:] + sentences[:1]
    return SpeechFigures(sentences=items, shuffled=words_right(others, heard["spoken"]), **shares)


def words_right(said: Sequence[str], heard: Sequence[str]) -> float:
    """Return 1 less the word error rate of what was heard, over all sentences together, 0 at
    least."""
    pairs = [(_words(a), _words(b)) for a, b in zip(said, heard, strict=True)]
    errors = sum(edits(a, b) for a, b in pairs)
    return max(0.0, 1 - errors / max(1, sum(len(a) for a, _ in pairs)))


def edits(said: Sequence[str], heard: Sequence[str]) -> int:
    """Return the fewest words that must be put in, left out or exchanged to make one sequence of
    the other (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            before, row[j] = (row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other)))
    return row[-1]


def _words(sentence: str) -> list[str]:
    """Return a sentence's words in small letters, without punctuation."""
    return re.findall(r"\w+", sentence.casefold())
