"""Sentences that can be said in another language: English, with the values kept apart.

An error, a note or a piece of evidence is written in English where it arises. Who shows it to a
reader of another language looks its template up in a catalogue; nothing is parsed back. Knows no
catalogue and no language.
"""

from __future__ import annotations

from collections.abc import Iterable


class Phrase(str):
    """An English sentence made of a template and values: `Phrase("{:,} GPUs", 1024)`.

    It is a plain string wherever a string is wanted. A value may be a phrase itself.
    """

    template: str
    values: tuple[object, ...]

    def __new__(cls, template: str, *values: object) -> Phrase:
        phrase = super().__new__(cls, template.format(*values))
        phrase.template, phrase.values = template, values
        return phrase

    def __getnewargs__(self) -> tuple[object, ...]:  # type: ignore[override]
        """Return what makes it again, for copies and pickles."""
        return (self.template, *self.values)


def joined(separator: str, parts: Iterable[str]) -> Phrase:
    """Return parts with a separator between them, each of which keeps its template."""
    parts = tuple(parts)
    return Phrase(separator.join(["{}"] * len(parts)), *parts)
