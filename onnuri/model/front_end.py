"""This module defines the text front end: it corrects a sentence before the model reads it, and
tells what the model does not know.

It knows no world and no list of words: the base class changes nothing and tells nothing. A model's
folder names its front end (`onnuri.json`, "front_end") as a spec names its codec. To add one, write
a subclass of `FrontEnd` in a file and add a line to `FRONT_ENDS`.
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
    "words": "onnuri.model.word_list:WordListFrontEnd",
    "toyworld": "onnuri.toyworld.front_end.toy:ToyFrontEnd",
}
UNNAMED = "toyworld"
"""the front end of folders that name none: they were written when there was no other"""
Seen = tuple[Modality, Any, np.ndarray]
"""(modality, item, codes) of an input that is a picture, a video or a shape"""


@dataclasses.dataclass(frozen=True)
class Reading:
    """A Reading holds a sentence as the model reads it, and which words were unknown or
    corrected."""

    text: str
    """the corrected sentence"""
    unknown: tuple[str, ...] = ()
    """words that are not known, as they were written"""
    words: int = 0
    """number of words"""
    corrected: tuple[tuple[str, str], ...] = ()
    """(as it was written, as it is read)"""

    @property
    def slips(self) -> tuple[tuple[str, str], ...]:
        """Return the corrections (written, read) that change more than spaces."""
        return tuple(
            (written, read) for written, read in self.corrected if read.replace(" ", "") != written
        )


@dataclasses.dataclass(frozen=True)
class Notice:
    """A Notice tells the asker one thing that the model did not know, or how it read a word."""

    code: str
    message: str
    """in the asker's language"""
    details: tuple[str, ...] = ()
    """the unknown words; of `corrected`, each word as it was written and as it is read"""

    def to_json(self) -> dict[str, Any]:
        """Return the notice as the API sends it."""
        return {"code": self.code, "message": self.message, "details": list(self.details)}


class FrontEnd:
    """A FrontEnd reads every sentence as it is and tells nothing; subclasses know a world."""

    name: ClassVar[str] = "plain"
    """in `FRONT_ENDS`"""

    def read(self, sentence: str) -> Reading:
        """Return a sentence as the model reads it, with its unknown and corrected words."""
        return Reading(sentence)

    def encode(self, sentence: str, text: Codec) -> np.ndarray:
        """Return the text codes int64 [K] of a sentence that `read` returned, by the text codec
        `text`."""
        return text.encode(sentence)  # type: ignore[no-any-return]

    def spoken(self, codes: np.ndarray, text: Codec) -> np.ndarray:
        """Return the text codes int64 [K] of what is spoken for a sentence of text codes."""
        return codes

    def refusal(self, words: str, reading: Reading, language: Language) -> str | None:
        """Return the reply to words that come alone and ask for nothing that the model can do, such
        as a greeting; None if they ask for something."""
        return None

    def notices(
        self,
        readings: Sequence[Reading],
        seen: Sequence[Seen],
        codecs: dict[str, Any],
        language: Language,
    ) -> list[Notice]:
        """Return notices, in a language, of unknown words and of pictures, videos or shapes that
        are unlike anything that the codecs know."""
        return []

    def unsure(self, logprobs: dict[Modality, list[float]], language: Language) -> list[Notice]:
        """Return a notice if an answer is improbable, judged by the log probabilities of the ids
        that were drawn for it, by modality; else an empty list."""
        return []

    def strange(self, inputs: Sequence[tuple[Modality, Any]], codecs: dict[str, Any]) -> int:
        """Return how much of inputs [(modality, item), …] the front end does not know: words that
        are unknown or read as others. Of several models, the one is asked to which least is strange
        (`router.py`)."""
        readings = [self.read(item) for modality, item in inputs if modality == "text"]
        return sum(len(reading.unknown) + len(reading.corrected) for reading in readings)

    def save(self, codecs: Path) -> None:
        """Write what the front end has learned into the folder `codecs/` of a model."""

    @classmethod
    def load(cls, codecs: Path) -> Self:
        """Return the front end that `save` wrote to a folder `codecs/`."""
        return cls()


def front_end_class(name: str) -> type[FrontEnd]:
    """Return a front end's class, imported when a folder names it. Raises ConfigError for an
    unknown name."""
    front_end: type[FrontEnd] = class_named("front end", name, FRONT_ENDS)
    return front_end
