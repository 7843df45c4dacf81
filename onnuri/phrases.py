"""This module holds English sentences that keep their template and values apart, so that they can
be translated.

An error, a note or a piece of evidence is written in English where it arises. A report in another
language looks the template up in a catalogue; nothing is parsed. The module knows no catalogue and
no language.
"""

from __future__ import annotations

from collections.abc import Iterable


class Phrase(str):
    """A Phrase is a string that remembers its template and values: `Phrase("{:,} GPUs", 1024)`.

    A value may be a phrase itself.
    """

    template: str
    values: tuple[object, ...]

    def __new__(cls, template: str, *values: object) -> Phrase:
        """Return the template formatted with the values."""
        phrase = super().__new__(cls, template.format(*values))
        phrase.template, phrase.values = template, values
        return phrase

    def __getnewargs__(self) -> tuple[object, ...]:  # type: ignore[override]
        """Return the arguments that rebuild the phrase, for copies and pickles."""
        return (self.template, *self.values)


def joined(separator: str, parts: Iterable[str]) -> Phrase:
    """Return parts joined by a separator as one phrase, whose values are the parts."""
    parts = tuple(parts)
    return Phrase(separator.join(["{}"] * len(parts)), *parts)
