"""This module says whether words greet, ask to be told something, or ask for a thing of the toy
world.

It knows no network. Requests are recognized by words, not from a list of sentences.
"""

from __future__ import annotations

import re

_QUESTION = re.compile(
    r"[?？]\s*$|^(what|which|how|where|who|why|when|is|are|does|do|can|count|number of)\b|"
    r"(나요|까요|인가요|습니까|ㅂ니까|뭐야|몇 개)\s*$|(뭐|뭘|무엇|무슨|누가|누구|어디|어느|어떤|언제|왜|몇).*(있어|이야|야|니)\s*$|"
    r"(뭐|뭘|무엇|무슨|누가|누구|어디|어느|언제|왜|몇|지|는지).*(알려|세어|말해)\s?(줘|주세요)",
    re.IGNORECASE,
)
_DRAWING = re.compile(
    r"^(please |can you |could you |would you |(can|could|may) i (?=have|get|see|show)|"
    r"i want |i'd like |i would like )*"
    r"(draw|make|show|paint|sketch|create|generate|render|give|imagine|put|let|"
    r"(?<= i )(have|get|see))\b"
    r"|(그려|만들어|보여|생성해|그리고)",
    re.IGNORECASE,
)
_ASKING_FOR = re.compile(
    r"\b(draw|sketch|paint|render|(can|could|may|would) (you|we|i) (please )?"
    r"(do|have|get|show|try|put|add|place|make|create|give|mind)|"
    r"(can|could|may) (we|i) see|(how|what) about (?!(you|me|us|it|that|this|them)\b)|"
    r"is it possible to|would love|"
    r"would like|(the client|my \w+) wants|we need|i'm after|looking for|"
    r"can the .* be)\b"
    r"|(그릴 수|[아어려워여해] ?(줄 수|주실 수|줄래|주실래|주시겠|주면|줘도|줄까|볼래|볼까|보자|주라|줘|주게|다오)|"
    r"(?<!\S)(줄 수|주실 수|줄래|주실래|주시겠)|가능(할까|한가)|"
    r"(하나|한 개|개|거|것)(만)?(요|이?[야에]요)|필요(해|한)|(싶|원)(어|다|습|해)|알았지|응[?？])",
    re.IGNORECASE,
)
"""requests that have the form of a question"""
_TELLING = re.compile(
    r"\b(tell|say|count|know|answer|explain|describe|how (many|much|big|old|far)|"
    r"capital|weather|time)\b|"
    r"(알려|말해|세어|맞춰|설명|뭐|뭘|무엇|무슨|누구|누가|어디|언제|왜|몇|얼마|어느|어떻)",
    re.IGNORECASE,
)
"""words that ask to be told something, in any form"""
_GREETING = re.compile(
    r"^(hi|hello|hey|howdy|yo|greetings|thanks|bye|goodbye|help|"
    r"good (morning|afternoon|evening|day)|thank you|who are you|"
    r"what can you do)\b|^(안녕|반가|고마|감사|잘 (가|있어)|누구(야|세요|니)|뭐 할 수 있|무엇을 할 수 있|도와)",
    re.IGNORECASE,
)


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
    """Return whether words greet, thank, or ask who is there."""
    return bool(_GREETING.search(words.strip()))
