"""This module parses a sentence of the toy world; it is the oracle of text.

It knows nothing of how `text.py` phrases sentences: it reads word by word. A sentence is lexed into
classes (article, size, colour, solid, place, verb …) and read as clauses; a sentence that does not
fit is not of the grammar, and its parse is None. A stated relation is returned in both directions.
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
    """Return the description that a sentence states; None if it is not of the grammar."""
    lexemes = lex(text)
    if not lexemes:
        return None
    try:
        return _Reader(lexemes, language_of(text)).read()
    except _Unreadable:
        return None


class _Unreadable(Exception):
    """This exception says that a sentence is not of the grammar."""


def _phrases() -> dict[Language, dict[str, Lexeme]]:
    """Return every phrase of each language, words joined by single spaces, with its class and
    value."""
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
    """Return a sentence as (class, value) pairs, the longest phrase first; None if it contains an
    unknown word."""
    language = language_of(text)
    words = re.sub(r"[.,!\"']", " ", text.lower()).split()
    words = [_synonym(w, language) for w in words]
    lexemes, position = [], 0
    while position < len(words):
        for length in range(min(_LONGEST, len(words) - position), 0, -1):
            lexeme = _PHRASES[language].get(" ".join(words[position : position + length]))
            if lexeme:
                lexemes.append(lexeme)
                position += length
                break
        else:
            return None
    return lexemes


def _synonym(word: str, language: Language) -> str:
    """Return the grammar's own word for a synonym, with its Korean particle, or the word
    unchanged."""
    if word in SYNONYMS:
        return SYNONYMS[word]
    if language == "ko":
        for particle in ("이", "가", "은", "는", "와", "과"):
            if word.endswith(particle) and word[: -len(particle)] in SYNONYMS:
                return SYNONYMS[word[: -len(particle)]] + particle
    return word


class _Reader:
    """A _Reader reads lexemes as clauses, left to right; it numbers things in the order in which
    they are first named."""

    def __init__(self, lexemes: list[Lexeme], language: Language) -> None:
        self.lexemes, self.language, self.at = lexemes, language, 0
        self.things: list[Traits] = []
        self.relations: set[tuple[int, str, int]] = set()

    def read(self) -> Description:
        """Return the description of the whole sentence. Raises _Unreadable if it is not of the
        grammar."""
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
        """Return the class of the next lexeme, or "" at the end."""
        return self.lexemes[self.at][0] if self.at < len(self.lexemes) else ""

    def take(self, *kinds: str) -> str:
        """Consume the next lexeme and return its value. Raises _Unreadable if its class is none of
        `kinds`."""
        if self.peek() not in kinds:
            raise _Unreadable
        self.at += 1
        return self.lexemes[self.at - 1][1]

    def maybe(self, kind: str) -> str | None:
        """Consume the next lexeme and return its value if it is of a class; else return None."""
        return self.take(kind) if self.peek() == kind else None

    def names(self) -> None:
        """Read a Korean prompt without a verb: things joined by "and", or one thing beside
        another."""
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
        """Read a noun phrase and return the index of the thing that it names and the class of its
        last word (solid, subject or solid_and)."""
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
        """Return the index of the thing that was named before with this solid and colour; if there
        is none, "the" introduces a new one."""
        for index, thing in enumerate(self.things):
            if thing.solid == solid and color in (None, thing.color):
                return index
        self.things.append(Traits(solid=solid, color=color))
        return len(self.things) - 1

    def korean_clause(self) -> None:
        """Read a Korean clause: [phrase place] subject [phrase place] verb."""
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
        """Read an English clause: (there is phrase | phrase verb | phrase) [place phrase]. "and"
        joins it to the next."""
        there_is = self.maybe("there") is not None
        subject, _ = self.noun_phrase()
        bare = self.peek() == "is"
        motion = (
            "still"
            if there_is
            else self.take("verb", "is")
            if self.peek() in ("verb", "is")
            else None
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
        """Record the motion and the place that a clause states of its subject. Raises _Unreadable
        if a thing is beside itself."""
        if motion is not None:
            for index in {subject, *(where or ())[:1]}:
                thing = self.things[index]
                new_motion = (
                    motion if index == subject and thing.motion is None else thing.motion or "still"
                )
                self.things[index] = dataclasses.replace(thing, motion=new_motion)
        if where:
            other, relation = where
            if other == subject:
                raise _Unreadable
            self.relations |= {(subject, relation, other), (other, INVERSE[relation], subject)}
