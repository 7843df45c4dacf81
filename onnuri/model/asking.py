"""What is asked, by the words in which it is asked: which task, which language, and whether it is
of the world at all.

Knows no network. Wishes are read from words, not from a list of sentences; where nothing tells, the
inputs do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnuri.codecs.spelling import LONGEST_SENTENCE
from onnuri.modality import Language, Medium, Task

_IN = re.compile(
    r"\b(?:answer |say it |reply |write )?(?:in|into|to) (english|korean)\b( please)?",
    re.IGNORECASE,
)
_RO = re.compile(
    r"(영어|영문|한국어|한국말|우리말|한글|국문)(로|으로)(\s*(답해|대답해|말해|적어|써)\s*(줘|주세요|라)?)?(?![가-힣])"
)
_IS_ENGLISH = ("english", "영어", "영문")
_DESCRIBE = re.compile(
    r"\b(describe|caption|explain|tell me what you see|say what you see)\b|\bwhat (do|can) you see\b|"
    r"^(what is|what's|whats) (this|that|it|there|in (it|this|the (picture|image|photo|video|model|scene|mesh)))\b|"
    r"\bwhat does (it|this|the (picture|image|video)) show\b|"
    r"설명|묘사|(뭐|무엇|뭘)(이|가)? ?(보|있)|^(이게|이건|이것은|이것이|여기)? ?(뭐|무엇)(야|예요|지|인가요|입니까|니)?\??$",
    re.IGNORECASE,
)
_TRANSLATE = re.compile(r"\btranslate\b|\btranslation\b|번역|옮겨", re.IGNORECASE)
_QUESTION = re.compile(
    r"[?？]\s*$|^(what|which|how|where|who|why|when|is|are|does|do|can|count|number of)\b|"
    r"(나요|까요|인가요|습니까|ㅂ니까|뭐야|몇 개)\s*$|(뭐|뭘|무엇|무슨|누가|누구|어디|어느|어떤|언제|왜|몇).*(있어|이야|야|니)\s*$|"
    r"(뭐|뭘|무엇|무슨|누가|누구|어디|어느|언제|왜|몇|지|는지).*(알려|세어|말해)\s?(줘|주세요)",
    re.IGNORECASE,
)
_DRAWING = re.compile(
    r"^(please |can you |could you |would you |(can|could|may) i (?=have|get|see|show)|i want |i'd like |i would like )*"
    r"(draw|make|show|paint|sketch|create|generate|render|give|imagine|put|let|(?<= i )(have|get|see))\b"
    r"|(그려|만들어|보여|생성해|그리고)",
    re.IGNORECASE,
)
_ASKING_FOR = re.compile(
    r"\b(draw|sketch|paint|render|(can|could|may|would) (you|we|i) (please )?(do|have|get|show|try|put|add|place|make|create|give|"
    r"mind)|(can|could|may) (we|i) see|(how|what) about (?!(you|me|us|it|that|this|them)\b)|is it possible to|would love|"
    r"would like|(the client|my \w+) wants|we need|i'm after|looking for|"
    r"can the .* be)\b"
    r"|(그릴 수|[아어려워여해] ?(줄 수|주실 수|줄래|주실래|주시겠|주면|줘도|줄까|볼래|볼까|보자|주라|줘|주게|다오)|"
    r"(?<!\S)(줄 수|주실 수|줄래|주실래|주시겠)|가능(할까|한가)|"
    r"(하나|한 개|개|거|것)(만)?(요|이?[야에]요)|필요(해|한)|(싶|원)(어|다|습|해)|알았지|응[?？])",
    re.IGNORECASE,
)
"""requests that have the form of a question"""
_TELLING = re.compile(
    r"\b(tell|say|count|know|answer|explain|describe|how (many|much|big|old|far)|capital|weather|time)\b|"
    r"(알려|말해|세어|맞춰|설명|뭐|뭘|무엇|무슨|누구|누가|어디|언제|왜|몇|얼마|어느|어떻)",
    re.IGNORECASE,
)
"""what asks to be told something, however it is put"""
_GREETING = re.compile(
    r"^(hi|hello|hey|howdy|yo|greetings|thanks|bye|goodbye|help|good (morning|afternoon|evening|day)|thank you|who are you|"
    r"what can you do)\b|^(안녕|반가|고마|감사|잘 (가|있어)|누구(야|세요|니)|뭐 할 수 있|무엇을 할 수 있|도와)",
    re.IGNORECASE,
)


def wish_of(sentence: str) -> tuple[Language | None, str]:
    """Return the language that a sentence asks for in so many words ("in English", "한국어로"), and the
    rest of it."""
    for pattern in (_IN, _RO):
        found = pattern.search(sentence)
        if found:
            rest = " ".join(f"{sentence[: found.start()]} {sentence[found.end() :]}".split())
            return ("en" if found.group(1).lower() in _IS_ENGLISH else "ko"), re.sub(
                r"\s+([.,!?])", r"\1", rest
            ).strip(" ,")
    return None, sentence


def language_asked(sentence: str) -> Language:
    """Return the language to answer in: the one that is asked for, else the asker's own, that of
    most words."""
    wish, rest = wish_of(sentence[:LONGEST_SENTENCE])
    return wish or language_spoken(rest)


def language_spoken(sentence: str) -> Language:
    """Return Korean where at least as many words have a Hangul syllable as have only Latin letters,
    else English."""
    words = re.findall(r"[^\W\d_]+", sentence)
    korean = sum(any("가" <= c <= "힣" for c in word) for word in words)
    return "ko" if korean and 2 * korean >= len(words) else "en"


def task_of(to: Medium, given: Sequence[tuple[Medium, str]], same: bool = False) -> Task | None:
    """Return what is asked of inputs [(medium, its words or "")]; None where a medium is only
    wanted in another.

    A sound counts as the words that were heard in it. `same`: whether all is one sentence in the
    language of the answer, which is then said again in the world's own words.
    """
    if not given:
        return None
    medium, words = given[-1]
    said = medium in ("text", "audio")
    shown = any(m not in ("text", "audio") for m, _ in given)
    if to not in ("text", "audio"):
        return "edit" if said and shown else None
    if not said:
        return "describe"
    if same:
        return "describe"
    if _TRANSLATE.search(words):
        return "translate"
    if shown:
        return "describe" if _DESCRIBE.search(words) or not words else "answer"
    return "answer" if len(given) > 1 else "translate"


def ends_as_question(words: str) -> bool:
    """Return whether words have the form of a question and do not order a drawing ("can you draw
    …?")."""
    text = words.strip()
    return bool(_QUESTION.search(text)) and not _DRAWING.search(text)


def is_question(words: str) -> bool:
    """Return whether words ask to be told something, rather than state it, order it, or ask for a
    thing in a question's form."""
    asks_for = bool(_ASKING_FOR.search(words)) and not _TELLING.search(words)
    return ends_as_question(words) and not asks_for


def is_greeting(words: str) -> bool:
    """Whether words greet, thank, or ask who is there."""
    return bool(_GREETING.search(words.strip()))
