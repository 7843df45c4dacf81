"""This module writes a scene as a sentence, in Korean or English, in several phrasings, which
`grammar.py` can read.

It knows no tokens. Sentences are short, because they are also spoken. A thing of which no motion is
stated stands still; a thing that was named before is named again by colour and solid ("그 파란 정육면체",
"the blue cube").
"""

from __future__ import annotations

import numpy as np

from onnuri.modality import Language
from onnuri.toyworld.scene import Scene, Thing
from onnuri.toyworld.words import COLOR, PLACE, SIZE, SOLID, VERB, josa


def caption(
    scene: Scene,
    language: Language,
    rng: np.random.Generator,
    full: bool = True,
    motion: bool = True,
) -> str:
    """Return a random sentence that states a scene. `full=False` leaves out some sizes;
    `motion=False` describes a still picture, without motions."""
    sized = [full or rng.random() < 0.5 for _ in scene.things]
    writer = (_Korean if language == "ko" else _English)(scene, rng, sized, motion)
    clauses = [(0, None, None)] if len(scene.things) == 1 else list(scene.stated)
    return writer.sentence(clauses)  # type: ignore[arg-type]


class _Writer:
    """A _Writer holds what both languages share: which things have been named, and which sizes are
    stated."""

    language: Language

    def __init__(
        self, scene: Scene, rng: np.random.Generator, sized: list[bool], motion: bool
    ) -> None:
        self.scene, self.rng, self.sized, self.motion = scene, rng, sized, motion
        self.named: set[int] = set()

    def moving(self, index: int) -> str:
        """Return the motion of a thing, "still" where motions are not stated."""
        return self.scene.things[index].motion if self.motion else "still"

    def words(self, thing: Thing, sized: bool) -> str:
        """Return a thing's colour and solid in words, after its size if `sized`."""
        color, solid = COLOR[self.language][thing.color], SOLID[self.language][thing.solid]
        return f"{SIZE[self.language][thing.size]} {color} {solid}" if sized else f"{color} {solid}"


class _Korean(_Writer):
    """A _Korean writes the sentence in Korean."""

    language: Language = "ko"

    def sentence(self, clauses: list[tuple[int, str | None, int | None]]) -> str:
        """Return a sentence of clauses (subject, relation, object), formal or plain, mostly with a
        full stop."""
        formal = self.rng.random() < 0.5
        parts = [
            self.clause(i, r, j, formal, last=k == len(clauses) - 1)
            for k, (i, r, j) in enumerate(clauses)
        ]
        return " ".join(parts) + ("." if self.rng.random() < 0.8 else "")

    def clause(self, i: int, relation: str | None, j: int | None, formal: bool, last: bool) -> str:
        """Return the clause that thing `i` moves, or is in a `relation` to thing `j`; `last` gives
        it the sentence's ending instead of a linking one."""
        known = i in self.named
        motion = "still" if known else self.moving(i)
        verb = VERB[motion]
        # a motion may also be said before the noun, and then the thing "is" somewhere
        motion_first = motion != "still" and relation is not None and self.rng.random() < 0.25
        subject = josa(self.name(i, modify=motion_first), "이/가")
        if motion_first:
            motion, verb = "still", VERB["still"]
        end = verb.linking if not last else verb.formal if formal else verb.plain
        if relation is None or j is None:
            return f"{subject} {end}"
        where = f"{self.name(j, modify=True)} {PLACE['ko'][relation]}{'에' if motion == 'still' else '에서'}"
        return f"{where} {subject} {end}" if self.rng.random() < 0.5 else f"{subject} {where} {end}"

    def name(self, index: int, modify: bool) -> str:
        """Return the noun phrase of a thing, in short if it was named before; `modify` puts its
        motion before it."""
        thing, known = self.scene.things[index], index in self.named
        self.named.add(index)
        if known:
            return f"그 {self.words(thing, False)}"
        motion = self.moving(index)
        prefix = f"{VERB[motion].modifying} " if modify and motion != "still" else ""
        return prefix + self.words(thing, self.sized[index])


class _English(_Writer):
    """An _English writes the sentence in English."""

    language: Language = "en"

    def sentence(self, clauses: list[tuple[int, str | None, int | None]]) -> str:
        """Return a sentence of clauses (subject, relation, object) joined by "and", mostly with a
        full stop."""
        parts = [self.clause(i, r, j) for i, r, j in clauses]
        text = " and ".join(parts)
        return text[0].upper() + text[1:] + ("." if self.rng.random() < 0.8 else "")

    def clause(self, i: int, relation: str | None, j: int | None) -> str:
        """Return the clause that thing `i` is there or how it moves, or, with a `relation`, where
        it is or moves seen from thing `j`."""
        known = i in self.named
        motion = "still" if known else self.moving(i)
        if relation is None or j is None:
            if motion == "still":
                return f"there is {self.name(i, False)}"
            return f"{self.name(i, False)} {VERB[motion].present}"
        motion_first = motion != "still" and self.rng.random() < 0.25
        if motion_first or (motion == "still" and not known and self.rng.random() < 0.4):
            subject = self.name(i, motion_first)
            return f"there is {subject} {PLACE['en'][relation]} {self.name(j, True)}"
        subject = self.name(i, False)
        return f"{subject} {VERB[motion].present} {PLACE['en'][relation]} {self.name(j, True)}"

    def name(self, index: int, modify: bool) -> str:
        """Return the noun phrase of a thing, in short if it was named before; `modify` puts its
        motion behind it."""
        thing, known = self.scene.things[index], index in self.named
        self.named.add(index)
        words = self.words(thing, self.sized[index] and not known)
        if known:
            return f"the {words}"
        motion = self.moving(index)
        suffix = f" {VERB[motion].participle}" if modify and motion != "still" else ""
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}{suffix}"
