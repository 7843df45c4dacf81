"""Hold the words of a report and the planner's sentences, in Korean and English.

The catalogues are `data/en.json` and `data/ko.json`: words of a report by their keys, and, in
Korean, sentences by their English templates (`phrases.py`). Knows no figures.
"""

from __future__ import annotations

import functools
import json

from onnuri.errors import ConfigError, OnnuriError
from onnuri.modality import Language
from onnuri.phrases import Phrase, joined
from onnuri.planner.hardware import DATA


class Catalogue:
    """The words and sentences of one language; called with a key, it returns that word of a
    report."""

    def __init__(self, language: Language) -> None:
        entries = json.loads((DATA / f"{language}.json").read_text(encoding="utf-8"))
        self.language = language
        self.words: dict[str, str] = entries["words"]
        self.sentences: dict[str, str] = entries.get("sentences", {})
        """by their English templates; English needs none"""

    def __call__(self, key: str, **values: object) -> str:
        """Return a word or sentence of a report.

        A key without an entry is a name (of a part of a step, of an engine) and stays.
        """
        return self.words.get(key, key).format(**values)

    def translate(self, *texts: str) -> str:
        """Return sentences of the planner in this language, joined by semicolons.

        What the catalogue does not have stays as it is: a name, a file, a number, a citation.
        """
        text = texts[0] if len(texts) == 1 else joined("; ", texts)
        if not isinstance(text, Phrase):
            return self.sentences.get(text, text)
        values = [self.translate(v) if isinstance(v, str) else v for v in text.values]
        return self.sentences.get(text.template, text.template).format(*values)


@functools.cache
def catalogue(language: Language) -> Catalogue:
    """Return the words and sentences of a language, read from its file once."""
    return Catalogue(language)


def complaint(error: OnnuriError, language: Language) -> str:
    """Return an error as one line in a language: value, rule and repair."""
    value, rule, repair = map(
        catalogue(language).translate, (error.value, error.rule, error.repair)
    )
    return " ".join(f"{value}: {rule}; {repair}".split())


def count(text: str | None) -> float | None:
    """Return the number that `10T`, `500B` or `1e12` says; None for None. Raises ConfigError for
    what is no number."""
    if text is None:
        return None
    size = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1:].upper(), 1.0)
    try:
        return float(text if size == 1.0 else text[:-1]) * size
    except ValueError:
        raise ConfigError(
            f"{text!r}", "is not a number of tokens", "write such as 10T or 500B"
        ) from None
