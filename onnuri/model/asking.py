"""This module tells from a sentence's words which task and which language are asked for.

It knows no network. It looks for words, not for sentences of a list; if no words tell the task, the
kinds of inputs do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnuri.modality import Language, Modality, Task

LONGEST_SENTENCE = 4000
"""characters of a sentence that are read for what they ask and which words they hold; a codec takes
fewer"""

_IN = re.compile(
    r"\b(?:answer |say it |reply |write )?(?:in|into|to) (english|korean)\b( please)?",
    re.IGNORECASE,
)
_RO = re.compile(
    r"(영어|영문|한국어|한국말|우리말|한글|국문)(로|으로)(\s*(답해|대답해|말해|적어|써)\s*(줘|주세요|라)?)?(?![가-힣])"
)
_IS_ENGLISH = ("english", "영어", "영문")
_DESCRIBE = re.compile(
    r"\b(describe|caption|explain|tell me what you see|say what you see)\b|"
    r"\bwhat (do|can) you see\b|"
    r"^(what is|what's|whats) (this|that|it|there|in "
    r"(it|this|the (picture|image|photo|video|model|scene|mesh)))\b|"
    r"\bwhat does (it|this|the (picture|image|video)) show\b|"
    r"설명|묘사|(뭐|무엇|뭘)(이|가)? ?(보|있)|^(이게|이건|이것은|이것이|여기)? ?(뭐|무엇)(야|예요|지|인가요|입니까|니)?\??$",
    re.IGNORECASE,
)
_TRANSLATE = re.compile(r"\btranslate\b|\btranslation\b|번역|옮겨", re.IGNORECASE)


def wish_of(sentence: str) -> tuple[Language | None, str]:
    """Return the language of the answer that a sentence names ("in English", "한국어로"), None if it
    names none, and the sentence without these words."""
    for pattern in (_IN, _RO):
        match = pattern.search(sentence)
        if match:
            rest = " ".join(f"{sentence[: match.start()]} {sentence[match.end() :]}".split())
            return ("en" if match.group(1).lower() in _IS_ENGLISH else "ko"), re.sub(
                r"\s+([.,!?])", r"\1", rest
            ).strip(" ,")
    return None, sentence


def language_asked(sentence: str) -> Language:
    """Return the language to answer in: the one that the sentence names, else the one in which it
    is written."""
    wish, rest = wish_of(sentence[:LONGEST_SENTENCE])
    return wish or language_spoken(rest)


def language_spoken(sentence: str) -> Language:
    """Return the language of a sentence: Korean if at least half of its words have a Hangul
    syllable, else English."""
    words = re.findall(r"[^\W\d_]+", sentence)
    korean = sum(any("가" <= c <= "힣" for c in word) for word in words)
    return "ko" if korean and 2 * korean >= len(words) else "en"


def task_of(
    to: Modality, inputs: Sequence[tuple[Modality, str]], same: bool = False
) -> Task | None:
    """Return the task of an answer in modality `to` to inputs [(modality, its words or "")]; None
    if an input is only converted to another modality.

    A sound counts as the words that were heard in it. `same` says that the only input is a sentence
    in the language of the answer, which is then said again in other words.
    """
    if not inputs:
        return None
    modality, words = inputs[-1]
    ends_in_words = modality in ("text", "audio")
    has_visual = any(m not in ("text", "audio") for m, _ in inputs)
    if to not in ("text", "audio"):
        return "edit" if ends_in_words and has_visual else None
    if not ends_in_words:
        return "describe"
    if same:
        return "describe"
    if _TRANSLATE.search(words):
        return "translate"
    if has_visual:
        return "describe" if _DESCRIBE.search(words) or not words else "answer"
    return "answer" if len(inputs) > 1 else "translate"
