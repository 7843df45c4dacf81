"""Reads a sentence of the world: the oracle of text. Knows nothing of how `text.py` phrases; it
goes word by word.

A sentence is lexed into classes (article, size, colour, solid, place, verb …) and read as clauses;
what does not fit is not of the grammar, and the answer is None. Stated relations are given both
ways round.
"""

from __future__ import annotations

import dataclasses
import re

from onnuri.modality import Language, language_of
from onnuri.toyworld.scene import INVERSE, Description, Traits
from onnuri.toyworld.words import COLOR, COLOR_NOUN, PLACE, SIZE, SOLID, SYNONYMS, VERB

Lexeme = tuple[str, str]
"""(class, value): such as ("color", "red")"""


def parse(text: str) -> Description | None:
    """What a sentence states; None where it is not of the grammar."""
    lexemes = lex(text)
    if not lexemes:
        return None
    try:
        return _Reader(lexemes, language_of(text)).read()
    except _Unreadable:
        return None


class _Unreadable(Exception):
    """The sentence is not of the grammar."""


def _phrases() -> dict[Language, dict[str, Lexeme]]:
    """Every phrase, words joined by single spaces, with its class and value."""
    ko: dict[str, Lexeme] = {"그": ("known", ""), "와": ("and", ""), "과": ("and", "")}
    en: dict[str, Lexeme] = {
        "a": ("article", ""),
        "an": ("article", ""),
        "the": ("known", ""),
        "and": ("and", ""),
        "there is": ("there", ""),
        "there are": ("there", ""),
        "left of": ("place", "left_of"),
        "right of": ("place", "right_of"),
        "stands still": ("verb", "still"),
    }
    for table, language in ((ko, "ko"), (en, "en")):
        for kind, words in (("size", SIZE), ("color", COLOR)):
            table |= {w: (kind, k) for k, w in words[language].items()}  # type: ignore[index]
    ko |= {w: ("color", k) for k, w in COLOR_NOUN.items()} | {"중간": ("size", "medium")}
    for solid, word in SOLID["ko"].items():
        for particle, kind in (
            ("", "solid"),
            ("이", "subject"),
            ("가", "subject"),
            ("은", "subject"),
            ("는", "subject"),
            ("와", "solid_and"),
            ("과", "solid_and"),
        ):
            ko[word + particle] = (kind, solid)
    en |= {word: ("solid", solid) for solid, word in SOLID["en"].items()}
    for relation, word in PLACE["ko"].items():
        ko |= {f"{word}에": ("place", relation), f"{word}에서": ("place", relation)}
    en |= {word: ("place", relation) for relation, word in PLACE["en"].items()}
    for motion, verb in VERB.items():
        ko |= {
            verb.plain: ("verb", motion),
            verb.formal: ("verb", motion),
            verb.linking: ("linking", motion),
            verb.modifying: ("modifier", motion),
        }
        en |= {verb.present: ("verb", motion), verb.participle: ("modifier", motion)}
    en["is"] = ("is", "still")
    return {"ko": ko, "en": en}


_PHRASES = _phrases()
_LONGEST = 4
"""words of the longest phrase"""


def lex(text: str) -> list[Lexeme] | None:
    """Words to classes, longest phrase first; None if a word is unknown."""
    language = language_of(text)
    words = re.sub(r"[.,!\"']", " ", text.lower()).split()
    words = [_synonym(w, language) for w in words]
    found, at = [], 0
    while at < len(words):
        for length in range(min(_LONGEST, len(words) - at), 0, -1):
            lexeme = _PHRASES[language].get(" ".join(words[at : at + length]))
            if lexeme:
                found.append(lexeme)
                at += length
                break
        else:
            return None
    return found


def _synonym(word: str, language: Language) -> str:
    if word in SYNONYMS:
        return SYNONYMS[word]
    if language == "ko":
        for particle in ("이", "가", "은", "는", "와", "과"):
            if word.endswith(particle) and word[: -len(particle)] in SYNONYMS:
                return SYNONYMS[word[: -len(particle)]] + particle
    return word


class _Reader:
    """Clauses, left to right; things in the order in which they are first named."""

    def __init__(self, lexemes: list[Lexeme], language: Language) -> None:
        self.lexemes, self.language, self.at = lexemes, language, 0
        self.things: list[Traits] = []
        self.relations: set[tuple[int, str, int]] = set()

    def read(self) -> Description:
        clause = self.korean_clause if self.language == "ko" else self.english_clause
        if self.language == "ko" and self.lexemes[-1][0] not in ("verb",):
            self.names()
        else:
            clause()
            while self.at < len(self.lexemes):
                clause()
        if self.language == "ko" and self.lexemes[-1][0] == "linking":
            raise _Unreadable
        return Description(things=tuple(self.things), relations=frozenset(self.relations))

    def peek(self) -> str:
        return self.lexemes[self.at][0] if self.at < len(self.lexemes) else ""

    def take(self, *kinds: str) -> str:
        if self.peek() not in kinds:
            raise _Unreadable
        self.at += 1
        return self.lexemes[self.at - 1][1]

    def maybe(self, kind: str) -> str | None:
        return self.take(kind) if self.peek() == kind else None

    def names(self) -> None:
        """A Korean prompt without a verb: things joined by "and", or one beside another."""
        where: tuple[int, str] | None = None
        while self.at < len(self.lexemes):
            index, kind = self.noun_phrase()
            if kind == "subject":
                raise _Unreadable
            if where:
                self.state(index, None, where)
                where = None
            elif self.peek() == "place":
                where = (index, self.take("place"))
            elif kind == "solid" and self.at < len(self.lexemes):
                self.take("and")
        if where:
            raise _Unreadable

    def noun_phrase(self) -> tuple[int, str]:
        """The index of the thing named, and the class of its last word (solid, subject or
        solid_and)."""
        known = self.maybe("known") is not None
        if not known:
            self.maybe("article")
        motion = self.maybe("modifier")
        size = self.maybe("size")
        color = self.maybe("color")
        size = size or self.maybe("size")
        kind = self.peek()
        solid = self.take("solid", "subject", "solid_and")
        if self.language == "en":
            motion = motion or self.maybe("modifier")
        if known:
            return self.recall(solid, color), kind
        self.things.append(Traits(solid=solid, color=color, size=size, motion=motion))
        return len(self.things) - 1, kind

    def recall(self, solid: str, color: str | None) -> int:
        """The thing named before with this solid and colour; a first "the" introduces it."""
        for index, thing in enumerate(self.things):
            if thing.solid == solid and color in (None, thing.color):
                return index
        self.things.append(Traits(solid=solid, color=color))
        return len(self.things) - 1

    def korean_clause(self) -> None:
        """[phrase place] subject [phrase place] verb"""
        where: tuple[int, str] | None = None
        subject: int | None = None
        while self.peek() not in ("verb", "linking", ""):
            index, kind = self.noun_phrase()
            if kind == "subject" and subject is None:
                subject = index
            elif kind == "solid" and where is None:
                where = (index, self.take("place"))
            else:
                raise _Unreadable
        last = self.peek() == "verb"
        motion = self.take("verb", "linking")
        if subject is None or (last and self.at < len(self.lexemes)):
            raise _Unreadable
        self.state(subject, motion, where)

    def english_clause(self) -> None:
        """(there is phrase | phrase verb | phrase) [place phrase]; clauses are joined by "and"."""
        there = self.maybe("there") is not None
        subject, _ = self.noun_phrase()
        bare = self.peek() == "is"
        motion = (
            "still" if there else self.take("verb", "is") if self.peek() in ("verb", "is") else None
        )
        where = None
        if self.peek() == "place":
            relation = self.take("place")
            where = (self.noun_phrase()[0], relation)
        if bare and where is None:
            raise _Unreadable
        self.state(subject, motion, where)
        if self.at < len(self.lexemes):
            self.take("and")
            if self.at == len(self.lexemes):
                raise _Unreadable

    def state(self, subject: int, motion: str | None, where: tuple[int, str] | None) -> None:
        if motion is not None:
            for index in {subject, *(where or ())[:1]}:
                thing = self.things[index]
                said = (
                    motion if index == subject and thing.motion is None else thing.motion or "still"
                )
                self.things[index] = dataclasses.replace(thing, motion=said)
        if where:
            other, relation = where
            if other == subject:
                raise _Unreadable
            self.relations |= {(subject, relation, other), (other, INVERSE[relation], subject)}
