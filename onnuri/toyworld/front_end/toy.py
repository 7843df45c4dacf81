"""This module is the toy world's front end, which reads sentences in the words of its list and
writes notices of what lies beyond it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from onnuri.codecs.base import Codec
from onnuri.modality import Language, Modality
from onnuri.model.front_end import FrontEnd, Notice, Reading, Seen
from onnuri.toyworld.front_end import notice
from onnuri.toyworld.front_end.spelling import Spelling, plain


class ToyFrontEnd(FrontEnd):
    """A ToyFrontEnd reads sentences by a list of words. A model without a list of its own gets
    every sentence as it was written, and the world's list tells what is unknown."""

    name: ClassVar[str] = "toyworld"

    def __init__(self, spelling: Spelling | None = None) -> None:
        self.spelling = spelling

    def read(self, sentence: str) -> Reading:
        """Return the sentence as the model reads it. Without a list of its own nothing is
        corrected, so that the model gets a slip as it was written, and it counts as unknown."""
        if self.spelling is not None:
            return self.spelling.read(sentence)
        reading = notice.default_words().read(sentence)
        slips = tuple(written for written, _ in reading.corrected)
        return dataclasses.replace(
            reading, text=sentence, unknown=reading.unknown + slips, corrected=()
        )

    def plain(self, sentence: str) -> str:
        """Return the sentence as it is trained on: without case and a full stop where the model
        has a list of words."""
        return sentence if self.spelling is None else plain(sentence)

    def encode(self, sentence: str, text: Codec) -> np.ndarray:
        """Return the text codes int64 [K] of a sentence that is given to a model.

        A first word that seldom begins one ("cube") takes the codes that it has in the middle:
        alone it would be others, "c" and "ube", which the model has hardly read.
        """
        seldom = self.spelling is not None and self.spelling.seldom_first(sentence)
        return super().encode(f" {sentence}" if seldom else sentence, text)

    def spoken(self, codes: np.ndarray, text: Codec) -> np.ndarray:
        """Return the text codes int64 [K] of a sentence without case and a full stop, which are
        not spoken."""
        if self.spelling is None:
            return codes
        return super().encode(plain(text.decode(codes)), text)

    def refusal(self, words: str, reading: Reading, language: Language) -> str | None:
        """Return a sentence that says what the model can do, if the words are a greeting or a
        question about anything else; otherwise None."""
        return notice.CAN_DO[language] if notice.outside(words, reading) else None

    def notices(
        self,
        readings: Sequence[Reading],
        seen: Sequence[Seen],
        codecs: dict[str, Any],
        language: Language,
    ) -> list[Notice]:
        """Return the notices about unknown words and unfamiliar media, in a language."""
        return notice.notices(readings, seen, codecs, language)

    def strange(self, inputs: Sequence[tuple[Modality, Any]], codecs: dict[str, Any]) -> int:
        """Return how many words are unknown or read as others, and how many pictures, videos and
        shapes are unlike what the codecs know."""
        seen: list[Seen] = [
            (modality, item, codecs[modality].encode(item))
            for modality, item in inputs
            if modality not in ("text", "audio")
        ]
        return super().strange(inputs, codecs) + len(notice.notices([], seen, codecs, "en"))

    def unsure(self, logprobs: dict[Modality, list[float]], language: Language) -> list[Notice]:
        """Return a notice if the answer is improbable, by the thresholds of `notice.json`."""
        return notice.unsure(logprobs, language)

    def save(self, codecs: Path) -> None:
        """Write the list of words beside the tokenizer."""
        if self.spelling is not None:
            self.spelling.save(codecs / "text")

    @classmethod
    def load(cls, codecs: Path) -> Self:
        """Return the front end with the list of words beside the tokenizer, if there is one."""
        return cls(Spelling.load(codecs / "text"))
