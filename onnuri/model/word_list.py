"""This module is the front end of a model that has learned from sentences in small letters, and
knows the words of these: it tells which words of a sentence it has never read, and which answers
are improbable.

It knows no world: the words are those of a corpus, the thresholds are measured on answers to known
inputs. They lie beside the tokenizer, `codecs/text/words.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from onnuri.errors import WeightsError
from onnuri.modality import Language, Modality, fold
from onnuri.model.front_end import FrontEnd, Notice, Reading, Seen

FILE = "words.json"
WORD = re.compile(r"[^\W\d_]+")
PARTICLES = re.compile(
    r"(은|는|이|가|을|를|의|와|과|도|만|로|으로|에|에서|에게|께|한테|하고|랑|이랑|보다|처럼|까지|부터|들|"
    r"이다|입니다|이야|야|인|한|하는|했다|해|줘|주세요)+"
)
"""endings of Korean words that a list of words need not hold"""
ENDINGS = re.compile(r"s|es|ed|ing|ly")
"""endings of English words that a list need not hold"""
NO_THRESHOLDS: Mapping[Modality, float] = MappingProxyType({})


class WordListFrontEnd(FrontEnd):
    """A WordListFrontEnd reads sentences in small letters and tells words that it does not know."""

    name: ClassVar[str] = "words"

    def __init__(
        self, words: Iterable[str] = (), least: Mapping[Modality, float] = NO_THRESHOLDS
    ) -> None:
        """Take the known words, in small letters, and by the answer's modality the mean log
        probability of its ids below which it is improbable."""
        self.words, self.least = frozenset(words), dict(least)

    @classmethod
    def learn(cls, sentences: Iterable[str]) -> Self:
        """Return a front end that knows the words of some sentences."""
        return cls(word for sentence in sentences for word in WORD.findall(fold(sentence)))

    def read(self, sentence: str) -> Reading:
        """Return a sentence in small letters, with single spaces, and its unknown words."""
        folded = fold(sentence)
        words = WORD.findall(folded)
        unknown = [word for word in dict.fromkeys(words) if not self.knows(word)]
        return Reading(folded, unknown=tuple(unknown), words=len(words))

    def knows(self, word: str) -> bool:
        """Return whether a word in small letters is known, perhaps with an ending."""
        if word in self.words:
            return True
        # of several endings one after another each may be the word's own
        bare = {
            word[:end]
            for end in range(1, len(word))
            if PARTICLES.fullmatch(word, end) or ENDINGS.fullmatch(word, end)
        }
        return not bare.isdisjoint(self.words)

    def notices(
        self,
        readings: Sequence[Reading],
        seen: Sequence[Seen],
        codecs: dict[str, Any],
        language: Language,
    ) -> list[Notice]:
        """Return a notice of the unknown words, in a language."""
        words = tuple(dict.fromkeys(word for reading in readings for word in reading.unknown))
        if not words:
            return []
        listed = ", ".join(f"'{word}'" for word in words[:5])
        message = (
            f"배운 적 없는 말이 있습니다: {listed}. 답이 틀렸을 수 있습니다."
            if language == "ko"
            else f"I have never read {listed}; the answer may well be wrong."
        )
        return [Notice("unknown_words", message, words)]

    def unsure(self, logprobs: dict[Modality, list[float]], language: Language) -> list[Notice]:
        """Return a notice if an answer's ids are less probable on average than those of nearly all
        answers to known inputs."""
        is_unsure = any(
            values and modality in self.least and float(np.mean(values)) < self.least[modality]
            for modality, values in logprobs.items()
        )
        if not is_unsure:
            return []
        message = (
            "모르는 것 같습니다: 이 답은 확실하지 않습니다."
            if language == "ko"
            else "I do not think that I know this: I am not sure of the answer."
        )
        return [Notice("improbable", message)]

    def save(self, codecs: Path) -> None:
        """Write words and thresholds beside the tokenizer."""
        values = {"words": sorted(self.words), "least_logprob": self.least}
        text = json.dumps(values, ensure_ascii=False, indent=0)
        (codecs / "text" / FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, codecs: Path) -> Self:
        """Return the front end that `save` wrote. Raises WeightsError for a missing or damaged
        file."""
        path = codecs / "text" / FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(map(str, values["words"]), dict(values["least_logprob"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                str(path), f"holds no list of words ({error})", "fetch or export the folder again"
            ) from None
