"""The contract of a text front end: how a model's sentences are read, and what is told of what it
does not know.

Knows no world and no list of words: this one changes nothing and has nothing to tell. A model's
folder names its own (`onnuri.json`, "front_end") as a spec names its codec. To add one: a subclass
of `FrontEnd` in a file, and a line in `FRONT_ENDS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from onnuri.codecs.base import Codec
from onnuri.codecs.registry import class_named
from onnuri.modality import Language, Modality

FRONT_ENDS = {
    "plain": "onnuri.model.front_end:FrontEnd",
    "toyworld": "onnuri.toyworld.front_end.toy:ToyFrontEnd",
}
UNNAMED = "toyworld"
"""the front end of folders that name none: they were written when there was no other"""
Seen = tuple[Modality, Any, np.ndarray]
"""(modality, item, codes) of an input that is to be seen"""


@dataclasses.dataclass(frozen=True)
class Reading:
    """A sentence as the model reads it."""

    text: str
    unknown: tuple[str, ...] = ()
    """words that are not known, as they were written"""
    words: int = 0
    corrected: tuple[tuple[str, str], ...] = ()
    """(as it was written, as it is read)"""

    @property
    def slips(self) -> tuple[tuple[str, str], ...]:
        """Return the corrections of more than spaces."""
        return tuple(
            (written, read) for written, read in self.corrected if read.replace(" ", "") != written
        )


@dataclasses.dataclass(frozen=True)
class Notice:
    """One thing that is not known."""

    code: str
    message: str
    """in the asker's language"""
    details: tuple[str, ...] = ()
    """the unknown words; of `corrected`, each word as it was written and as it is read"""

    def to_json(self) -> dict[str, Any]:
        """Return the notice as the API sends it."""
        return {"code": self.code, "message": self.message, "details": list(self.details)}


class FrontEnd:
    """Reads every sentence as it is, and tells nothing."""

    name: ClassVar[str] = "plain"
    """in `FRONT_ENDS`"""

    def read(self, sentence: str) -> Reading:
        """Return the sentence as the model reads it, and what in it is not known."""
        return Reading(sentence)

    def encode(self, sentence: str, text: Codec) -> np.ndarray:
        """Return the text codes int64 [K] of a sentence that is given to a model and was read."""
        return text.encode(sentence)  # type: ignore[no-any-return]

    def spoken(self, codes: np.ndarray, text: Codec) -> np.ndarray:
        """Return the text codes int64 [K] of a sentence as it is spoken."""
        return codes

    def refusal(self, words: str, reading: Reading, language: Language) -> str | None:
        """Return what is said to words that come alone and ask for nothing that the model can do;
        None where they ask for something."""
        return None

    def notices(
        self,
        readings: Sequence[Reading],
        seen: Sequence[Seen],
        codecs: dict[str, Any],
        language: Language,
    ) -> list[Notice]:
        """Return what is not known of the words and of what is to be seen, in a language."""
        return []

    def unsure(self, logprobs: dict[Modality, list[float]], language: Language) -> list[Notice]:
        """Return that an answer is improbable, by the log probabilities of what was drawn for each
        modality."""
        return []

    def save(self, codecs: Path) -> None:
        """Write what the front end has learned into a model's folder `codecs/`."""

    @classmethod
    def load(cls, codecs: Path) -> Self:
        """Return the front end that `save` wrote."""
        return cls()


def front_end_class(name: str) -> type[FrontEnd]:
    """Return a front end's class, imported when a folder names it. Raises ConfigError for an
    unknown name."""
    front_end: type[FrontEnd] = class_named("front end", name, FRONT_ENDS)
    return front_end
