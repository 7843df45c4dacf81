"""The words of a report and the planner's sentences, in Korean and English.

The catalogues are `data/en.json` and `data/ko.json`: words of a report by their keys, and, in
Korean, sentences by their English templates (`phrases.py`). Knows no figures.
"""

from __future__ import annotations

import functools
import json

from onnuri.errors import ConfigError, OnnuriError
from onnuri.modality import Language
from onnuri.phrases import Phrase
from onnuri.planner.hardware import DATA


@functools.cache
def catalogue(language: Language) -> dict[str, dict[str, str]]:
    """Return a language's `words` and `sentences`."""
    entries: dict[str, dict[str, str]] = json.loads(
        (DATA / f"{language}.json").read_text(encoding="utf-8")
    )
    return entries


def say(key: str, language: Language, **values: object) -> str:
    """Return a word or sentence of a report.

    A key without an entry is a name (of a part of a step, of an engine) and stays.
    """
    return catalogue(language)["words"].get(key, key).format(**values)


def translate(text: str, language: Language) -> str:
    """Return a sentence of the planner in a language.

    What the catalogue does not have stays as it is: a name, a file, a number, a citation.
    """
    if language == "en":
        return text
    sentences = catalogue(language)["sentences"]
    if not isinstance(text, Phrase):
        return sentences.get(text, text)
    values = [translate(v, language) if isinstance(v, str) else v for v in text.values]
    return sentences.get(text.template, text.template).format(*values)


def complaint(error: OnnuriError, language: Language) -> str:
    """Return the one line of an error in a language."""
    value, rule, repair = (translate(t, language) for t in (error.value, error.rule, error.repair))
    return " ".join(f"{value}: {rule}; {repair}".split())


def count(text: str | None) -> float | None:
    """Return how many `10T`, `500B` or `1e12` are. Raises ConfigError for what is no number."""
    if text is None:
        return None
    size = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper(), 1.0)
    try:
        return float(text if size == 1.0 else text[:-1]) * size
    except ValueError:
        raise ConfigError(
            f"{text!r}", "is not a number of tokens", "write such as 10T or 500B"
        ) from None
