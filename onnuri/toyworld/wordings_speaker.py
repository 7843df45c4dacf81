"""This module holds the base class of people's wordings, which keeps what both languages share:
which things of a scene have been named, and what they are called."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from onnuri.modality import Language
from onnuri.toyworld.scene import COLORS as WORLD_COLORS
from onnuri.toyworld.scene import HELD_OUT, INVERSE, Scene, Thing
from onnuri.toyworld.synonyms import COLORS, PLACES, SIZES, SOLIDS
from onnuri.toyworld.wordings_tables import (
    BODIES,
    FRAMES,
    HELD_BODIES,
    HELD_FRAMES,
    REQUESTS,
    Wording,
)
from onnuri.toyworld.words import COLOR, SIZE, SOLID

T = TypeVar("T")


class Speaker(abc.ABC):
    """A Speaker words one scene as people do. It remembers which things have been named and what
    they were called."""

    language: Language

    def __init__(
        self, scene: Scene, rng: np.random.Generator, full: bool, motion: bool, held_names: bool
    ) -> None:
        self.scene, self.rng, self.motion, self.held_names = scene, rng, motion, held_names
        self.full = full
        self.sized = [full or rng.random() < 0.6 for _ in scene.things]
        self.colored = [
            full or not self.alone(k) or rng.random() < 0.75 for k in range(len(scene.things))
        ]
        self.named: set[int] = set()
        self.own = rng.random() < 0.35
        """whether most names are the world's own"""
        self.names: dict[tuple[int, str], str] = {}
        self.held_at = int(rng.integers(len(scene.things)))
        """index of the thing whose name is held out, if `held_names`"""

    def alone(self, index: int) -> bool:
        """Return whether no other thing is of the same solid."""
        return sum(t.solid == self.scene.things[index].solid for t in self.scene.things) == 1

    def attribute_words(self, index: int) -> tuple[str, str, str]:
        """Return the words for size, colour and solid of a thing, "" for what is left out."""
        return (
            self.call(index, "size") if self.sized[index] else "",
            self.call(index, "color") if self.colored[index] else "",
            self.call(index, "solid"),
        )

    def one(self, among: Sequence[T]) -> T:
        """Return one of the options, each equally likely."""
        return among[int(self.rng.integers(len(among)))]

    def chance(self, probability: float) -> bool:
        """Return true with a probability in [0, 1]."""
        return bool(self.rng.random() < probability)

    def trained_frames(self, kind: str) -> list[str]:
        """Return the frames of a kind that training uses."""
        return [f for f in FRAMES[self.language][kind] if (self.language, f) not in HELD_FRAMES]

    def trained_bodies(self, kind: str) -> list[str]:
        """Return the bodies of a kind that training uses."""
        return [b for b in BODIES[self.language][kind] if (self.language, b) not in HELD_BODIES]

    def request(self) -> str:
        """Return a random frame around a noun phrase, put together from an opening, a verb and a
        closing."""
        parts = REQUESTS[self.language]
        if self.language == "en":
            verb = self.one(parts["ask"]).format(
                v=self.one(parts["verb"]), ving=self.one(parts["verbing"])
            )
            frame = f"{self.one(parts['opening'])}{verb} {self.one(parts['object'])}{{}}"
        else:
            stem, ending = self.one(parts["stem"]), self.one(parts["ending"])
            verb = (
                stem + self.one(("", "", " ")) + ending
                if self.chance(0.6)
                else self.one(parts["verb"])
            )
            frame = f"{self.one(parts['opening'])}{self.one(parts['object'])} {verb}"
        return frame + self.one(parts["closing"])

    def plainly(self, frame: str) -> str:
        """Return a frame for one thing: often none, often one that is put together from parts, else
        the given one."""
        return self.one(("{}", self.request(), self.request(), frame, frame))

    def colors_differ(self) -> bool:
        """Return whether every thing's colour is said and no two colours are equal, so that a
        colour identifies a thing."""
        colors = [thing.color for thing in self.scene.things]
        return all(self.colored) and len(set(colors)) == len(colors)

    def seldom(self) -> str:
        """Return a sentence of a kind that only some scenes allow, or "": two things of one solid,
        attributes after the names, things without a place (only if something may be left out), one
        thing that is put beside another."""
        things = self.scene.things
        still = all(
            self.moving(k) == "still" for k in range(len(things))
        )  # these two say no motion
        if (
            still
            and len(things) == 2
            and things[0].solid == things[1].solid
            and self.colors_differ()
        ):
            return self.two_of_a_kind() if self.chance(0.6) else ""
        if still and len(things) <= 2 and self.colors_differ() and self.chance(0.12):
            return self.attributes_later()
        if len(things) >= 2 and not self.full and self.chance(0.3):
            return self.without_a_place()
        if len(things) == 2 and self.chance(0.1):
            return self.placing()
        return ""

    @abc.abstractmethod
    def sentence(self, held_out: bool) -> str:
        """Return a sentence that states the scene, in a wording of training or one held out."""

    @abc.abstractmethod
    def alike(self) -> str:
        """Return a sentence for as many things as the scene has, all like its first."""

    @abc.abstractmethod
    def two_of_a_kind(self) -> str:
        """Return a sentence for two things of one solid, told apart by colour."""

    @abc.abstractmethod
    def attributes_later(self) -> str:
        """Return a sentence that names things of different solids first and says their sizes and
        colours after."""

    @abc.abstractmethod
    def without_a_place(self) -> str:
        """Return a sentence that names the things and says nothing of where they are."""

    @abc.abstractmethod
    def placing(self) -> str:
        """Return a sentence that puts one thing beside another."""

    def pair(self) -> tuple[int, str, int]:
        """Return the stated relation of two things as (subject, relation, object), in a random
        direction."""
        i, relation, j = self.scene.stated[0]
        return (i, relation, j) if self.chance(0.5) else (j, INVERSE[relation], i)

    def dressed(self, index: int) -> str:
        """Return the size and colour of a thing in words, without its name."""
        size, color, _ = self.attribute_words(index)
        return f"{size} {color}".strip()

    def call(self, index: int, what: str) -> str:
        """Return a thing's solid, colour or size in words, the same ones each time."""
        if (index, what) not in self.names:
            self.names[index, what] = self._call(index, what)
        return self.names[index, what]

    def _call(self, index: int, what: str) -> str:
        """Return a random word for a thing's solid, colour or size, held out where the speaker says
        a held-out name."""
        key = getattr(self.scene.things[index], what)
        names = {"solid": SOLIDS, "color": COLORS, "size": SIZES}[what][self.language][key]
        if (
            self.held_names
            and index == self.held_at
            and what == ("solid", "color", "size")[self.scene.seed % 3]
        ):
            return self.one(names.held)
        own = {"solid": SOLID, "color": COLOR, "size": SIZE}[what][self.language][key]
        return own if self.own or self.chance(0.3) else self.one(names.known)

    def place(self, relation: str) -> str:
        """Return a random word for a relation."""
        names = PLACES[self.language][relation]
        return names.known[0] if self.own or self.chance(0.4) else self.one(names.known)

    def moving(self, index: int) -> str:
        """Return the motion of a thing, "still" where motions are not said."""
        return self.scene.things[index].motion if self.motion else "still"

    def wording(self, held_out: bool, kinds: tuple[str, ...] = ("noun", "clause")) -> Wording:
        """Return a random wording of one of the kinds, of training or held out."""
        kind = self.one(kinds)
        frames = [f for f in FRAMES[self.language][kind]]
        bodies = [b for b in BODIES[self.language][kind]]
        while True:
            wording = Wording(self.language, kind, self.one(frames), self.one(bodies))
            plain = (
                len(self.scene.things) == 1 and kind == "noun"
            )  # its body is a name: only the frame is a wording
            is_held = (self.language, wording.frame) in HELD_FRAMES if plain else wording.held_out
            if is_held == held_out:
                return wording


def other_colors(thing: Thing) -> list[str]:
    """Return the colours that a thing may be said not to have, without those that would name a
    held-out composition."""
    return [
        c for c in WORLD_COLORS if c != thing.color and ("color", thing.solid, c) not in HELD_OUT
    ]
