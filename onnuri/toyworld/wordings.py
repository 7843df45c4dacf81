"""A scene in the wordings of people: names, requests, endings, order, counts and negation in Korean
and English.

`text.py` writes the world's own sentences, which are what the model answers with; this module says
the same in the ways in which people ask. A wording is a frame ("please draw {}", "{} 그려줘") around a
body ("{B} with {A} above it"). A fifth of them, chosen by hash, is held out of training
(`Wording.held_out`), and so is a fifth of the names (`synonyms.py`).
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from onnuri.modality import Language
from onnuri.toyworld import tasks
from onnuri.toyworld.scene import COLORS as WORLD_COLORS
from onnuri.toyworld.scene import HELD_OUT, INVERSE, Edit, Scene, Thing
from onnuri.toyworld.synonyms import COLORS, EN_MOTIONS, KO_MOTIONS, PLACES, SIZES, SOLIDS, Motion
from onnuri.toyworld.words import COLOR, COLOR_NOUN, RESULT, SIZE, SOLID, VERB, josa

T = TypeVar("T")
_TABLES: dict[str, Any] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
FRAMES: dict[Language, dict[str, list[str]]] = _TABLES["frames"]
"""around a noun phrase or a clause, by language; of a Korean clause also its ending"""
BODIES: dict[Language, dict[str, list[str]]] = _TABLES["bodies"]
"""A stands beside B: `r` and `p` are places (`q` the other way round), `its` one of B's, `sa` and
`sb` sides of the picture (`la` and `lb` without an article), `a` and `b` name the things again,
`oa` and `ob` as "the red one\""""
LOOK: dict[Language, list[str]] = _TABLES["look"]
"""requests to describe what is shown"""
_QUESTIONS: dict[Language, dict[str, list[str]]] = _TABLES["questions"]
_EDITS: dict[Language, dict[str, list[str]]] = _TABLES["edits"]
SINGLE: dict[Language, tuple[str, ...]] = {
    "en": ("{A} {verb}", "there is {A}"),
    "ko": ("{A이} {v}", "{A은} {v}"),
}
"""bodies of a sentence about one thing"""
_SIDES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "left_of": ("on the left", "at the left", "on the left side"),
        "right_of": ("on the right", "at the right", "on the right side"),
        "above": ("on top", "at the top", "above"),
        "below": ("at the bottom", "on the bottom", "below"),
    },
    "ko": {
        "left_of": ("왼쪽", "왼편", "좌측"),
        "right_of": ("오른쪽", "오른편", "우측"),
        "above": ("위", "위쪽", "윗쪽"),
        "below": ("아래", "아래쪽", "밑"),
    },
}
_BARE_SIDES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {
        "left_of": ("left", "on the left"),
        "right_of": ("right", "on the right"),
        "above": ("top", "up top", "on top", "above"),
        "below": ("bottom", "at the bottom", "below"),
    },
    "ko": {
        "left_of": ("왼쪽", "왼편", "좌측"),
        "right_of": ("오른쪽", "오른편", "우측"),
        "above": ("위", "위쪽"),
        "below": ("아래", "아래쪽", "밑"),
    },
}
_ITS = {
    "left_of": ("to its left", "on its left"),
    "right_of": ("to its right", "on its right"),
    "above": ("above it", "over it", "on top of it"),
    "below": ("below it", "under it", "beneath it"),
}
_JOINS = (" and ", ", ", ", and ", ". ", "; ", " while ")
_VERY: dict[Language, tuple[str, ...]] = {
    "en": ("very", "really", "quite", "so"),
    "ko": ("아주", "매우", "정말", "되게", "무척"),
}
_COUNTS: dict[Language, dict[int, tuple[str, ...]]] = {
    "en": {
        2: ("two objects", "two things", "2 things", "two shapes"),
        3: ("three objects", "three things", "3 things", "three shapes"),
    },
    "ko": {
        2: ("물체 두 개", "두 개의 물체", "도형 두 개", "물체 2개"),
        3: ("물체 세 개", "세 개의 물체", "도형 세 개", "물체 3개"),
    },
}
_FILLERS: dict[Language, tuple[str, ...]] = {
    "en": (
        "hi",
        "hello",
        "hey",
        "ok",
        "now",
        "well",
        "thanks",
        "thank you",
        "for me",
        "please",
        "if you can",
        "in the middle of nothing",
        "with nothing else",
        "in a simple scene",
        "as you like",
        "right now",
        "my friend",
        "of course",
    ),
    "ko": (
        "음",
        "저기",
        "혹시",
        "안녕",
        "그냥",
        "부탁해",
        "고마워",
        "제발",
        "지금",
        "자",
        "오늘은",
        "이번에는",
        "있잖아",
        "가능하면",
    ),
}


_GROWN: dict[str, tuple[str, ...]] = {
    "small": ("작게", "조그맣게", "아주 작게", "조그마하게", "소형으로", "크기는 작게"),
    "medium": (
        "중간 크기로",
        "보통 크기로",
        "적당한 크기로",
        "크기는 중간",
        "중형으로",
        "크기는 중간쯤",
    ),
    "large": ("크게", "커다랗게", "아주 크게", "큼직하게", "대형으로", "크기는 크게"),
}
"""how large a thing is to be drawn"""
FRAMED_KO = ("{}", "{}", "{} 그려줘", "{} 보여줘", "{} 그려 주세요", "{} 만들어줘")
"""around names that more is said of in a second sentence"""


_REQUESTS: dict[str, dict[str, list[str]]] = _TABLES["requests"]
"""parts of a request, by language: any opening goes with any verb, any object and any closing"""


@dataclasses.dataclass(frozen=True, order=True)
class Wording:
    """A way of saying a scene."""

    language: Language
    kind: str
    """whether the body is a noun phrase or a clause"""
    frame: str
    body: str

    @property
    def held_out(self) -> bool:
        """Whether training never says it: its frame or its body is held out."""
        return (self.language, self.frame) in _HELD_FRAMES or (
            self.language,
            self.body,
        ) in _HELD_BODIES


def _rank(name: str) -> str:
    return hashlib.sha256(f"wording 0|{name}".encode()).hexdigest()


def _lowest(names: list[tuple[Language, str]], share: float) -> frozenset[tuple[Language, str]]:
    """Return a fixed share of the names, the same for ever: those whose hash is lowest."""
    return frozenset(sorted(names, key=lambda n: _rank("|".join(n)))[: round(share * len(names))])


_HELD_FRAMES = _lowest(
    [
        (lang, f)
        for lang, kinds in FRAMES.items()
        for frames in kinds.values()
        for f in frames
        if f != "{}"
    ],
    0.165,
)
_HELD_BODIES = _lowest(
    [(lang, b) for lang, kinds in BODIES.items() for bodies in kinds.values() for b in bodies],
    0.055,
)
WORDINGS: tuple[Wording, ...] = tuple(
    Wording(language, kind, frame, body)
    for language, kinds in FRAMES.items()
    for kind, frames in kinds.items()
    for frame in frames
    for body in BODIES[language][kind]
)


def say(
    scene: Scene,
    language: Language,
    rng: np.random.Generator,
    *,
    held_out: bool = False,
    held_names: bool = False,
    full: bool = True,
    motion: bool = True,
) -> str:
    """Return a sentence of people that states the scene.

    `held_out`: in a wording that training never uses. `held_names`: with one name that training
    never uses. `full=False` leaves some sizes and colours out; `motion=False` says it of a still.
    """
    speaker = (_Korean if language == "ko" else _English)(scene, rng, full, motion, held_names)
    sentence = speaker.sentence(held_out)
    if not held_out and rng.random() < 0.05:
        filler = str(rng.choice(_FILLERS[language]))
        sentence = f"{filler} {sentence}" if rng.random() < 0.6 else f"{sentence} {filler}"
    return " ".join(sentence.split())


def doubled(scene: Scene, language: Language, rng: np.random.Generator) -> str:
    """Return a sentence for things that are alike, such as "two red balls" or "balls": the scene's
    first thing, as often as it has things, two or three. Sizes and colours are left out at
    times."""
    speaker = (_Korean if language == "ko" else _English)(scene, rng, False, False, False)
    return speaker.alike()


class _Speaker(abc.ABC):
    """What both languages share: which things have been named, and what they are called."""

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
        """whether the world's own names are used"""
        self.names: dict[tuple[int, str], str] = {}
        self.held_at = int(rng.integers(len(scene.things)))
        """whose name is one that training never says"""

    def alone(self, index: int) -> bool:
        """Whether no other thing is of this solid."""
        return sum(t.solid == self.scene.things[index].solid for t in self.scene.things) == 1

    def said(self, index: int) -> tuple[str, str, str]:
        """Return size, colour and solid of a thing, "" for what is left out."""
        return (
            self.call(index, "size") if self.sized[index] else "",
            self.call(index, "color") if self.colored[index] else "",
            self.call(index, "solid"),
        )

    def one(self, among: Sequence[T]) -> T:
        """Return one of the options, each as likely."""
        return among[int(self.rng.integers(len(among)))]

    def chance(self, probability: float) -> bool:
        """Return true with a probability."""
        return bool(self.rng.random() < probability)

    def trained_frames(self, kind: str) -> list[str]:
        """Return the frames that training says."""
        return [f for f in FRAMES[self.language][kind] if (self.language, f) not in _HELD_FRAMES]

    def trained_bodies(self, kind: str) -> list[str]:
        """Return the bodies that training says."""
        return [b for b in BODIES[self.language][kind] if (self.language, b) not in _HELD_BODIES]

    def request(self) -> str:
        """Return a frame around a noun phrase that is put together from parts: an opening, a verb,
        a closing."""
        parts = _REQUESTS[self.language]
        if self.language == "en":
            verb = self.one(parts["ask"]).format(
                v=self.one(parts["verb"]), ving=self.one(parts["verbing"])
            )
            frame = f"{self.one(parts['opening'])}{verb} {self.one(parts['object'])}{{}}{self.one(parts['closing'])}"
        else:
            stem, ending = self.one(parts["stem"]), self.one(parts["ending"])
            verb = (
                stem + self.one(("", "", " ")) + ending
                if self.chance(0.6)
                else self.one(parts["verb"])
            )
            frame = f"{self.one(parts['opening'])}{self.one(parts['object'])} {verb}{self.one(parts['closing'])}"
        return frame

    def plainly(self, frame: str) -> str:
        """Return a frame for one thing: often none, often one that is put together, else that which
        was drawn."""
        return self.one(("{}", self.request(), self.request(), frame, frame))

    def colors_differ(self) -> bool:
        """Whether a colour is said of everything and names one thing."""
        colors = [thing.color for thing in self.scene.things]
        return all(self.colored) and len(set(colors)) == len(colors)

    def seldom(self) -> str:
        """Return a sentence of a kind that only some scenes allow, or "": two of one solid,
        attributes after the names, things without a place (only where the speaker may leave
        something out), one thing that is put beside another."""
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
        """Return the stated relation of two things, in either direction."""
        i, relation, j = self.scene.stated[0]
        return (i, relation, j) if self.chance(0.5) else (j, INVERSE[relation], i)

    def dressed(self, index: int) -> str:
        """Return size and colour of a thing, without its name."""
        size, color, _ = self.said(index)
        return f"{size} {color}".strip()

    def call(self, index: int, what: str) -> str:
        """Return a thing's solid, colour or size in words, the same each time."""
        if (index, what) not in self.names:
            self.names[index, what] = self._call(index, what)
        return self.names[index, what]

    def _call(self, index: int, what: str) -> str:
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
        names = PLACES[self.language][relation]
        return names.known[0] if self.own or self.chance(0.4) else self.one(names.known)

    def moving(self, index: int) -> str:
        return self.scene.things[index].motion if self.motion else "still"

    def wording(self, held_out: bool, kinds: tuple[str, ...] = ("noun", "clause")) -> Wording:
        kind = self.one(kinds)
        frames = [f for f in FRAMES[self.language][kind]]
        bodies = [b for b in BODIES[self.language][kind]]
        while True:
            wording = Wording(self.language, kind, self.one(frames), self.one(bodies))
            plain = (
                len(self.scene.things) == 1 and kind == "noun"
            )  # its body is a name: only the frame is a wording
            is_held = (self.language, wording.frame) in _HELD_FRAMES if plain else wording.held_out
            if is_held == held_out:
                return wording


class _English(_Speaker):
    language: Language = "en"

    def sentence(self, held_out: bool) -> str:
        self.article = str(
            self.rng.choice(["a", "the", "", "one", "some"], p=[0.6, 0.15, 0.15, 0.07, 0.03])
        )
        stated = list(self.scene.stated)
        special = "" if held_out else self.seldom()
        if special:
            return special
        if not stated:
            wording = self.wording(
                held_out, ("noun", "noun", "clause") if not held_out else ("noun",)
            )
            if wording.kind == "noun":
                return (wording.frame if held_out else self.plainly(wording.frame)).format(
                    self.thing(0, True)
                )
            body = self.one(SINGLE["en"])
            verb = "verb" in body
            text = body.format(A=self.thing(0, not verb), verb=self.verb(0) if verb else "")
            return wording.frame.format(text)
        wording = self.wording(held_out)
        asks = wording.kind == "noun" and len(stated) == 1 and not held_out and self.chance(0.35)
        text = (self.request() if asks else wording.frame).format(
            self.body(wording.body, *stated[0])
        )
        for i, relation, j in stated[1:]:
            bodies = self.trained_bodies("clause")
            text = text.rstrip("?") + self.one(_JOINS) + self.body(self.one(bodies), i, relation, j)
        return text

    def body(self, body: str, i: int, relation: str, j: int) -> str:
        if i in self.named and j not in self.named and self.chance(0.5) and body.startswith("{A} "):
            i, j, relation = j, i, INVERSE[relation]  # what is new comes first
        later = body.find("{A}") > body.find("{B}") >= 0
        verb = (
            self.moving(i) != "still"
            and body in ("{A} sits {r} {B}", "{A} stands {r} {B}", "{A} is {r} {B}")
            and i not in self.named
        )
        if later:
            names = {"B": self.thing(j, True)}
            names["A"] = self.thing(i, True)
        else:
            names = {"A": self.thing(i, not verb)}
            names["B"] = self.thing(j, True)
        if verb:
            body = "{A} {verb} {r} {B}"
            names["verb"] = self.verb(i)
        return body.format(
            **names,
            r=self.place(relation),
            q=self.place(INVERSE[relation]),
            its=self.one(_ITS[relation]),
            a=self.again(i),
            b=self.again(j),
            oa=self.the_one(i),
            ob=self.the_one(j),
            sa=self.one(_SIDES["en"][relation]),
            sb=self.one(_SIDES["en"][INVERSE[relation]]),
            la=self.one(_BARE_SIDES["en"][relation]),
            lb=self.one(_BARE_SIDES["en"][INVERSE[relation]]),
            n=self.one(_COUNTS["en"][len(self.scene.things)]),
        )

    def verb(self, index: int) -> str:
        known, _ = EN_MOTIONS[self.moving(index)]
        if self.moving(index) == "still":
            return self.one(
                ("is here", "stands still", "is standing still", "rests", "sits there", "is there")
            )
        present, participle = known[0] if self.own else self.one(known)
        return f"is {participle}" if self.chance(0.4) else str(present)

    def thing(self, index: int, modify: bool) -> str:
        """Return the noun phrase of a thing; `modify`: with its motion."""
        if index in self.named:
            return self.again(index)
        self.named.add(index)
        size, color, solid = self.said(index)
        if size and self.chance(0.08):
            size = f"{self.one(_VERY['en'])} {size}"
        if color and self.chance(0.05):
            color = COLOR["ko"][self.scene.things[index].color]
        order = [color, size] if self.chance(0.1) else [size, color]
        name = " ".join(w for w in (*order, solid) if w)
        if color and self.chance(0.1):
            name = self.one(
                (
                    f"{size} {solid} that is {color}",
                    f"{size} {solid} in {color}",
                    f"{color} {solid}, {size}".rstrip(", "),
                    f"{size} {solid} ({color})",
                    f"{color} {solid} ({size})".replace(" ()", ""),
                    f"{size} {solid} colored {color}",
                    f"{size} {color} colored {solid}",
                )
            )
            name = " ".join(name.split())
        negated = ""
        if color and self.chance(0.06):
            name, negated = self.negated(index, name, size, color, solid)
        motion = ""
        if modify and self.moving(index) != "still":
            known, _ = EN_MOTIONS[self.moving(index)]
            present, participle = known[0] if self.own else self.one(known)
            if self.chance(0.15) and " " not in participle:
                name = f"{participle} {name}"
            else:
                motion = self.one(
                    (
                        f" {participle}",
                        f" that is {participle}",
                        f" that {present}",
                        f" which {present}",
                    )
                )
        named = _a(name) if self.article == "a" else f"{self.article} {name}"
        return f"{named}{negated}{motion}".strip()

    def negated(self, index: int, name: str, size: str, color: str, solid: str) -> tuple[str, str]:
        """Return the name with what it is not, and what follows it."""
        thing = self.scene.things[index]
        if self.chance(0.5):
            other = self.one([COLOR["en"][k] for k in other_colors(thing)])
            return self.one(
                (
                    (f"{size} not {other} but {color} {solid}".strip(), ""),
                    (name, f", not {other}"),
                    (name, f", not a {other} one"),
                    (f"{size} {solid} that is not {other} but {color}".strip(), ""),
                )
            )
        other = self.one([s for k, s in SOLID["en"].items() if k != thing.solid])
        return self.one(
            (
                (name, f", not a {other}"),
                (name, f" and no {other}"),
                (name, f" instead of a {other}"),
                (name, f", no {other}"),
            )
        )

    def again(self, index: int) -> str:
        self.named.add(index)
        _, color, solid = self.said(index)
        full = f"the {color} {solid}" if color else f"the {solid}"
        return self.one((full, full, f"the {solid}" if self.alone(index) else full))

    def the_one(self, index: int) -> str:
        """Return "the red one" where a colour tells which, else the thing's name again."""
        if self.colors_differ() and self.chance(0.6):
            return f"the {self.call(index, 'color')} one"
        return self.again(index)

    def two_of_a_kind(self) -> str:
        """Return "two balls: a red one on the left and a blue one on the right" and the like."""
        i, relation, j = self.pair()
        first, second, inverse = self.dressed(i), self.dressed(j), INVERSE[relation]
        counted = f"{self.one(('two', '2', 'a pair of'))} {_plural(self.call(i, 'solid'))}"
        sides, bare = _SIDES["en"], _BARE_SIDES["en"]
        places = (
            f"{_a(first)} one {self.one(sides[relation])} and {_a(second)} one {self.one(sides[inverse])}",
            f"{first} one {self.one(bare[relation])}, {second} one {self.one(bare[inverse])}",
            f"{first} {self.one(bare[relation])}, {second} {self.one(bare[inverse])}",
            f"the {first} one is {self.place(relation)} the {second} one",
            f"the {first} one {self.place(relation)} the {second} one",
            f"one {first}, one {second}, the {first} one is {self.place(relation)} the other",
            f"one is {first} and one is {second}, the {first} is {self.place(relation)} the {second}",
        )
        return (
            f"{self.framed(counted, plural=True)}{self.one((': ', ', ', '. '))}{self.one(places)}"
        )

    def attributes_later(self) -> str:
        """Return "a star above a cube, the star is pink and the cube is blue" and the like; of one
        thing "a star, make it pink"."""
        solids = [self.call(k, "solid") for k in range(len(self.scene.things))]
        wears = [
            self.one((" and ", ", ")).join(w for w in self.said(k)[:2] if w)
            for k in range(len(solids))
        ]
        if len(solids) == 1:
            if self.chance(0.2):
                size, color, solid = self.said(0)
                return (
                    self.framed(_a(f"{size} {solid}".strip()))
                    + f"{self.one((', color', ', in', '. color:'))} {color}"
                )
            one = f"{_a(wears[0])} one"
            tails = (f", and make it {wears[0]}", f". make it {wears[0]}", f", {wears[0]}", f". {one}", f", {one} please",
                     f". it is {wears[0]}", f". it should be {wears[0]}")  # fmt: skip
            return self.framed(_a(solids[0])) + self.one(tails)
        i, relation, j = self.pair()
        place, side, other = (
            self.place(relation),
            _SIDES["en"][relation],
            _SIDES["en"][INVERSE[relation]],
        )
        a, b = (_a(solids[k]) if self.chance(0.7) else solids[k] for k in (i, j))
        (x, y), (p, q) = (solids[i], solids[j]), (wears[i], wears[j])
        return self.one(
            (
                f"{self.framed(f'{a} {place} {b}')}, {x} is {p}, {y} is {q}",
                f"{self.framed(f'{a} {place} {b}')}. the {x} is {p} and the {y} is {q}",
                f"{self.framed(f'{a} and {b}', plural=True)}. the {x} is {p} and is {place} the {y}, which is {q}",
                f"{self.framed(f'{a} and {b}', plural=True)}. the {x} is {p}, the {y} is {q}, the {x} is {self.one(side)}",
                f"{self.framed(f'{a} {self.one(side)} and {b} {self.one(other)}')}, {x} {p}, {y} {q}",
            )
        )

    def without_a_place(self) -> str:
        """Return the things and nothing of where they are."""
        order = self.rng.permutation(len(self.scene.things))
        names = [self.thing(int(k), True) for k in order]
        if len(names) == 3:
            text = self.one(
                ("{}, {} and {}", "{}, {}, and {}", "{}, {}, {}", "{} and {} and {}")
            ).format(*names)
            return self.framed(text, plural=True)
        joins = ["{} and {}", "{} and {}", "{} and {}", "{}, {}", "{} with {}", "{} + {}", "{} & {}", "{} and also {}",
                 "{} together with {}", "both {} and {}", "{} plus {}"]  # fmt: skip
        if self.scene.stated[0][1] in ("left_of", "right_of"):
            joins += ["{} next to {}", "{} beside {}", "{} by the side of {}"]
        return self.framed(self.one(joins).format(*names), plural=True)

    def placing(self) -> str:
        """Return what puts one thing beside another, "put a red ball on top of a blue box" and the
        like."""
        i, relation, j = self.pair()
        a, b, place, its = (
            self.thing(i, True),
            self.thing(j, True),
            self.place(relation),
            self.one(_ITS[relation]),
        )
        put = self.one(
            (
                "put",
                "place",
                "set",
                "please put",
                "please place",
                "draw",
                "can you put",
                "i want you to put",
            )
        )
        should = self.one(
            (
                "there should be",
                "i want",
                "i'd like",
                "put",
                "draw",
                "place",
                "you see",
                "there goes",
            )
        )
        return self.one(
            (
                f"{put} {a} {place} {b}",
                f"{put} {a} {place} {b}",
                f"{place} {b}, {put} {a}",
                f"{place} {b} {should} {a}",
                f"draw {b} and put {a} {its}",
                f"{b}, then {its} {a}",
                f"{a} should be {place} {b}",
                f"i wish there was {a} {place} {b}",
                f"{b}, and {its} {should} {a}",
            )
        )

    def framed(self, phrase: str, plural: bool = False) -> str:
        """Return a noun phrase in a frame of training; `plural`: in none that speaks of one
        thing."""
        if self.chance(0.4):
            return self.request().format(phrase)
        single = ("this is {}", "there is {}", "there's {}") if plural else ()
        frames = [f for f in self.trained_frames("noun") if f not in single and not f.endswith("?")]
        frames += ["{}"] * 12 + (["there are {}"] if plural else [])
        return self.one(frames).format(phrase)

    def alike(self) -> str:
        size, color, solid = self.said(0)
        if self.chance(0.2):
            size = color = ""
        counts = ["two", "two", "2", "a pair of", "two identical", "a couple of", "two of the same"]
        if len(self.scene.things) == 3:
            counts = ["three", "three", "3", "three identical", "a trio of", "three of the same"]
        if len(self.scene.things) == 2 and self.chance(0.08):
            more = self.one(
                (
                    "another one just like it",
                    "one more just like it",
                    "another",
                    "one more of the same",
                )
            )
            return f"{self.framed(_a(' '.join(w for w in (size, color, solid) if w)))} and {more}"
        count = self.one([*counts, ""])
        return " ".join(
            self.framed(f"{count} {size} {color} {_plural(solid)}", plural=True).split()
        )


class _Korean(_Speaker):
    language: Language = "ko"

    def sentence(self, held_out: bool) -> str:
        stated = list(self.scene.stated)
        special = "" if held_out else self.seldom()
        if special:
            return special
        if not stated:
            wording = self.wording(held_out, ("noun", "noun", "clause"))
            if wording.kind == "noun":
                return _framed(
                    wording.frame if held_out else self.plainly(wording.frame), self.thing(0, True)
                )
            return self.ended(self.one(SINGLE["ko"]), wording.frame, (0, None, None), True)
        wording = self.wording(held_out)
        rest = stated[1:]
        bodies = self.trained_bodies("clause")
        if wording.kind == "noun":
            phrase = self.filled(wording.body, *stated[0], "")
            for clause in rest:
                body = self.one(
                    [b for b in BODIES["ko"]["noun"][:3] if ("ko", b) not in _HELD_BODIES]
                    or ["{B} {p}에 있는 {A}"]
                )
                phrase = (
                    f"{josa(phrase, '와/과')} {self.filled(body, *clause, '')}"
                    if _hangul(phrase)
                    else f"{phrase}, {self.filled(body, *clause, '')}"
                )
            return _framed(
                self.request()
                if not rest and not held_out and self.chance(0.35)
                else wording.frame,
                phrase,
            )
        clauses = [(wording.body, stated[0]), *((self.one(bodies), c) for c in rest)]
        return " ".join(
            self.ended(body, wording.frame, clause, k == len(clauses) - 1)
            for k, (body, clause) in enumerate(clauses)
        )

    def ended(self, body: str, frame: str, clause: tuple[int, Any, Any], last: bool) -> str:
        """Return a clause with the ending that its place asks for."""
        i = clause[0]
        motion = (
            self.moving(i)
            if i not in self.named
            and body in ("{B} {p}에 {A이} {v}", "{A이} {B} {p}에 {v}", *SINGLE["ko"])
            else "still"
        )
        verb: Motion = self.verb(motion)
        framed = "{}" in frame
        form = "linking" if not last else "modifying" if framed else frame
        self.spoken = motion != "still"
        if motion != "still" and "{p}에 " in body:
            body = body.replace("{p}에 ", "{p}에서 ")
        text = self.filled(body, *clause, getattr(verb, form))
        return frame.format(text) if framed and last else text

    def verb(self, motion: str) -> Motion:
        known, _ = KO_MOTIONS[motion]
        return known[0] if self.own or (motion == "still" and self.chance(0.6)) else self.one(known)

    def filled(self, body: str, i: int, relation: str | None, j: int | None, verb: str) -> str:
        spoken = bool(verb) and getattr(self, "spoken", False)
        self.spoken = False
        first = (
            [("A", i), ("B", j)]
            if j is None or body.find("{A") < body.find("{B")
            else [("B", j), ("A", i)]
        )
        names: dict[str, str] = {}
        for letter, index in first:
            if index is not None:
                names[letter] = self.thing(index, not (letter == "A" and spoken))
        again = {"a": self.again(i), "b": self.again(j) if j is not None else ""}
        for letter, name in {**names, **again}.items():
            if name:
                names |= {
                    letter: name,
                    f"{letter}이": josa(name, "이/가"),
                    f"{letter}은": josa(name, "은/는"),
                    f"{letter}와": self.joined(name),
                    f"{letter}의": f"{name}의" if self.chance(0.5) else name,
                }
        if relation is not None:
            place = self.place(relation)
            names |= {
                "p": place,
                "q": self.place(INVERSE[relation]),
                "oa이": self.the_one(i),
                "그": self.one(("그", "그", "그", "그거", "그것", "걔")),
                "la": self.one(_BARE_SIDES["ko"][relation]),
                "lb": self.one(_BARE_SIDES["ko"][INVERSE[relation]]),
                "sa": self.one(_SIDES["ko"][relation]),
                "sb": self.one(_SIDES["ko"][INVERSE[relation]]),
                "n": self.one(_COUNTS["ko"][len(self.scene.things)]),
            }
            body = body.replace("그 {p}", "{그} {p}")
            if "그 {q}" in body or "{q}에 " in body:
                names["q"] = self.one(_SIDES["ko"][INVERSE[relation]])
        return body.format(**names, v=verb)

    def thing(self, index: int, modify: bool) -> str:
        if index in self.named:
            return self.again(index)
        self.named.add(index)
        size, color, solid = self.said(index)
        if size and self.chance(0.08):
            size = f"{self.one(_VERY['ko'])} {size}"
        if color and self.chance(0.08):
            color = self.one(
                (self.thing_en("color", index), COLOR["en"][self.scene.things[index].color])
            )
        order = [color, size] if self.chance(0.12) else [size, color]
        name = " ".join(w for w in (*order, solid) if w)
        if self.chance(0.06):
            thing = self.scene.things[index]
            if self.chance(0.5):
                other = self.one([COLOR["ko"][k] for k in other_colors(thing)])
                name = self.one(
                    (
                        f"{other} 것 말고 {name}",
                        f"{other} {josa(solid, '이/가')} 아니라 {name}",
                        f"{other} {solid} 말고 {name}",
                    )
                )
            else:
                other = self.one([s for k, s in SOLID["ko"].items() if k != thing.solid])
                name = self.one(
                    (
                        f"{other} 말고 {name}",
                        f"{josa(other, '이/가')} 아니라 {name}",
                        f"{other} 없이 {name}",
                    )
                )
        elif color and self.chance(0.03):
            name = f"{size} {solid}({COLOR_NOUN[self.scene.things[index].color]})".strip()
        elif modify and self.chance(0.06):
            name = f"{name} 하나"
        if modify and self.moving(index) != "still":
            name = f"{self.verb(self.moving(index)).modifying} {name}"
        return name

    def joined(self, name: str) -> str:
        """Return a name with one of the particles for "and"."""
        return josa(name, self.one(("와/과", "와/과", "와/과", "이랑/랑", "하고/하고")))

    def the_one(self, index: int) -> str:
        """Return a thing as the subject, "the red one" where a colour tells which, else by its
        name."""
        if self.colors_differ() and self.chance(0.6):
            return f"{self.call(index, 'color')} {self.one(('게', '게', '것이', '거가', '쪽이'))}"
        return josa(self.again(index), "이/가")

    def two_of_a_kind(self) -> str:
        """Return "공 두 개: 빨간 거 왼쪽, 파란 거 오른쪽" and the like."""
        i, relation, j = self.pair()
        first, second = self.dressed(i), self.dressed(j)
        solid, there, here = (
            self.call(i, "solid"),
            _BARE_SIDES["ko"][relation],
            _BARE_SIDES["ko"][INVERSE[relation]],
        )
        counted = self.one((f"{solid} 두 개", f"{solid} 2개", f"두 개의 {solid}", f"{solid} 둘"))
        a, b, thing = self.one(there), self.one(here), self.one(("거", "것", "건", "게", solid))
        ends = self.one(("", "에", "에 있어", "에 그려줘", "에 있다"))
        linked = josa(counted, "이/가")
        return self.one(
            (
                f"{counted}{self.one((': ', ', ', '. '))}{first} {thing} {a}, {second} {thing} {b}",
                f"{linked} 있는데 {first} {thing} {a}, {second} {thing} {b}{ends}",
                f"{counted}인데 {first} 건 {a}, {second} 건 {b}",
                f"{self.one(FRAMED_KO).format(counted)}. {first} {self.one(('게', '것이', '건'))} {josa(a, '이야/야')}",
                f"{first} {thing} {a}에 {second} {thing} {b}에 {linked} 있다",
                f"{a} {first} {solid}, {b} {second} {solid}",
            )
        )

    def attributes_later(self) -> str:
        """Return "별이랑 상자, 별은 노란색 상자는 까만색이고 별이 위" and the like; of one thing "별 하나, 색은 노랑"."""
        solids = [self.call(k, "solid") for k in range(len(self.scene.things))]
        colors = [self.call(k, "color") for k in range(len(solids))]
        colors = [name if name.endswith(("색", "랑", "강")) else COLOR_NOUN[thing.color]
                  for name, thing in zip(colors, self.scene.things, strict=True)]  # fmt: skip
        if len(solids) == 1:
            size = self.call(0, "size") if self.sized[0] else ""
            color, colored = colors[0], josa(colors[0], "으로/로")
            if self.chance(0.5):  # as adverbs: "별 하나 노란색으로 작게 그려줘"
                grown = self.one(_GROWN[self.scene.things[0].size]) if size else ""
                count = self.one(("", "", " 하나", " 하나만", " 한 개", " 한개만"))
                ways = f"{colored} {grown}" if self.chance(0.5) else f"{grown} {colored}"
                named = (
                    f"{solids[0]}{count}" if count or self.chance(0.5) else josa(solids[0], "을/를")
                )
                return " ".join(f"{named} {ways} {self.one(_REQUESTS['ko']['verb'])}".split())
            name = f"{size} {solids[0]}{self.one(('', ' 하나'))}".strip()
            tails = (f", 색은 {color}", f". 색은 {color}", f", {colored}", f". {color}", f", {self.call(0, 'color')} 거",
                     f"인데 색이 {color}", f", 색깔은 {color}", f"인데 {color}")  # fmt: skip
            return name + self.one(tails)
        i, relation, j = self.pair()
        a, b = self.one(_BARE_SIDES["ko"][relation]), self.one(_BARE_SIDES["ko"][INVERSE[relation]])
        sizes = [self.call(k, "size") if self.sized[k] else "" for k in (i, j)]
        (x, y), (p, q) = (
            (solids[i], solids[j]),
            (f"{sizes[0]} {colors[i]}".strip(), f"{sizes[1]} {colors[j]}".strip()),
        )
        first, second = josa(x, "은/는"), josa(y, "은/는")
        both = self.one(FRAMED_KO).format(f"{self.joined(x)} {y}")
        place = self.place(relation)
        return self.one(
            (
                f"{both}. {first} {p}, {second} {q}이고 {josa(x, '이/가')} {a}",
                f"{both}. {first} {p} {a}에, {second} {q} {b}에",
                f"{y} {place}에 {x}. {first} {p} {second} {q}",
                f"{y} {place}에 {x}, {x} 색은 {p}, {y} 색은 {q}",
                f"{josa(x, '이/가')} {a}, {josa(y, '이/가')} {b}. {first} {p}, {second} {q}",
            )
        )

    def without_a_place(self) -> str:
        """Return the things and nothing of where they are."""
        order = self.rng.permutation(len(self.scene.things))
        names = [self.thing(int(k), True) for k in order]
        if len(names) == 3:
            text = self.one(
                (
                    f"{names[0]}, {names[1]}, {names[2]}",
                    f"{self.joined(names[0])} {self.joined(names[1])} {names[2]}",
                )
            )
            return _framed(self.asking(), text)
        first, second = names
        joins = [f"{self.joined(first)} {second}"] * 4
        joins += [
            f"{first}, {second}",
            f"{first} 그리고 {second}",
            f"{first} 하나 {second} 하나",
            f"{first} 하나랑 {second} 하나",
        ]
        if self.scene.stated[0][1] in ("left_of", "right_of"):
            joins += [f"{first} 옆에 {second}", f"{first} 옆에 있는 {second}"]
        return _framed(self.asking(), self.one(joins))

    def asking(self) -> str:
        """Return a frame of training around a noun phrase."""
        return self.request() if self.chance(0.4) else self.one(self.trained_frames("noun"))

    def placing(self) -> str:
        """Return what puts one thing beside another, "빨간 공을 파란 상자 위에 놔줘" and the like."""
        i, relation, j = self.pair()
        a, b, place = self.thing(i, True), self.thing(j, True), self.place(relation)
        put = self.one(("놓아줘", "놔줘", "놔 주세요", "놓아 주세요", "두세요", "그려줘", "그려 주세요", "배치해 주세요", "놓자",
                        "올려줘", "세워 주세요", "배치", *_REQUESTS["ko"]["verb"]))  # fmt: skip
        at = self.one(("에", "에", "에다", "에다가"))
        be = self.one(
            (
                "있게 그려줘",
                "있게 해줘",
                "있어야 해",
                "있으면 좋겠어",
                "있도록 그려 주세요",
                "있는 걸로",
                "있어",
            )
        )
        it = self.one(("그", "그거", "그것", "걔", "거기"))
        first = self.one(("그리고", "두고", "놓고", "그려주고", "만들고"))
        return self.one(
            (
                f"{josa(a, '을/를')} {b} {place}{at} {put}",
                f"{b} {place}{at} {josa(a, '을/를')} {put}",
                f"{b} {place}{at} {a} {self.one(('하나', '좀', '하나만'))} {put}",
                f"{josa(a, '이/가')} {b} {place}에 {be}",
                f"{josa(a, '은/는')} {b} {place}에 {be}",
                f"{josa(b, '을/를')} {first} {it} {place}에 {josa(a, '을/를')} {put}",
                f"{b} 그리고 {it} {place}에 {a} {put}",
                f"{josa(b, '이/가')} 있는데 {it} {place}에 {josa(a, '이/가')} {be}",
                f"{josa(a, '을/를')} {b} {place}에",
            )
        )

    def thing_en(self, what: str, index: int) -> str:
        return self.one(COLORS["en"][self.scene.things[index].color].known[:2])

    def again(self, index: int) -> str:
        self.named.add(index)
        _, color, solid = self.said(index)
        name = f"{color} {solid}".strip()
        return self.one((f"그 {name}", name))

    def alike(self) -> str:
        size, color, solid = self.said(0)
        if self.chance(0.2):
            size = color = ""
        name = " ".join(w for w in (size, color, solid) if w)
        counted, alone, digit = ("세", "셋", 3) if len(self.scene.things) == 3 else ("두", "둘", 2)
        phrase = self.one(
            (
                f"{name} {counted} 개",
                f"{counted} 개의 {name}",
                f"{name} {digit}개",
                f"똑같은 {name} {counted} 개",
                f"{name} {counted}개",
                f"{name} {alone}",
                f"{name}들",
            )
        )
        if len(self.scene.things) == 2 and self.chance(0.08):
            more = self.one(
                ("하나랑 똑같은 거 하나 더", "하나, 똑같은 걸로 하나 더", "하나 더해서 둘")
            )
            return f"{name} {more}"
        frames = [f for f in self.trained_frames("noun") if "하나" not in f]
        request = self.request()
        return _framed(
            request if "하나" not in request and self.chance(0.4) else self.one(frames), phrase
        )


def _a(phrase: str) -> str:
    """Return an English phrase with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _plural(solid: str) -> str:
    irregular = {
        "box": "boxes",
        "cross": "crosses",
        "torus": "tori",
        "dice": "dice",
        "square box": "square boxes",
        "arch": "arches",
        "plus": "pluses",
        "octahedron": "octahedra",
        "starfish": "starfish",
    }
    return irregular.get(solid, f"{solid}s")


def other_colors(thing: Thing) -> list[str]:
    """Return the colours that a thing may be said not to have: none that would name a held-out
    composition."""
    return [
        c for c in WORLD_COLORS if c != thing.color and ("color", thing.solid, c) not in HELD_OUT
    ]


def _hangul(word: str) -> bool:
    return bool(word) and "가" <= word[-1] <= "힣"


def _framed(frame: str, phrase: str) -> str:
    """Return the phrase in a Korean frame, with the particle that its last syllable asks for."""
    for mark, pair in (("{을}", "을/를"), ("{이}", "이/가")):
        if mark in frame and phrase.endswith(")"):  # "별(노란색)"
            return frame.replace(mark, phrase)
        if mark in frame:
            return frame.replace(mark, josa(phrase, pair) if _hangul(phrase) else f"{phrase}를")
    ends = _hangul(phrase) and (ord(phrase[-1]) - 0xAC00) % 28 > 0
    return (
        frame.replace("{의}", f"{phrase}의")
        .replace("{이에요}", f"{phrase}이에요" if ends else f"{phrase}예요")
        .replace("{이다}", f"{phrase}이다" if ends else f"{phrase}다")
        .replace("{}", phrase)
    )


def _training(options: list[str], held_out: bool) -> list[str]:
    """Return the options of training, or those held out: a fifth by hash, never the first."""
    held = sorted(options[1:], key=_rank)[: max(1, round(0.2 * len(options)))]
    return held if held_out else [o for o in options if o not in held]


def look(language: Language, rng: np.random.Generator, held_out: bool = False) -> str:
    """Return a request to describe what is shown."""
    options = _training(LOOK[language], held_out)
    return options[int(rng.integers(len(options)))]


def asked(
    kind: str,
    groups: list[str],
    language: Language,
    rng: np.random.Generator,
    held_out: bool = False,
) -> str:
    """Return a question of a kind in some wording; `groups` as `tasks.py` reads them from its own
    question."""
    return _filled(_training(_QUESTIONS[language][kind], held_out), groups, rng)


def told_to(
    attribute: str,
    name: str,
    value: str,
    language: Language,
    rng: np.random.Generator,
    held_out: bool = False,
) -> str:
    """Return an instruction in some wording: what is named, and what it becomes."""
    text = _filled(_training(_EDITS[language][attribute], held_out), [name, value], rng)
    return text if language == "ko" else text.replace(" a o", " an o").replace(" a a", " an a")


def _filled(options: list[str], groups: list[str], rng: np.random.Generator) -> str:
    text = options[int(rng.integers(len(options)))]
    for k, word in enumerate(groups):
        text = text.replace(f"{{{k}}}", word).replace(f"{{{k}의}}", f"{word}의")
        for mark, pair in (("은", "은/는"), ("이", "이/가"), ("을", "을/를"), ("으로", "으로/로")):
            if f"{{{k}{mark}}}" in text:
                text = text.replace(f"{{{k}{mark}}}", josa(word, pair))
    return text


def inquire(
    scene: Scene,
    language: Language,
    rng: np.random.Generator,
    *,
    motion: bool = True,
    held_out: bool = False,
) -> tuple[str, str]:
    """Return a question of people about the scene, and its answer as the world gives it."""
    own, told = tasks.question(scene, language, rng, motion)
    kind, groups = tasks.kind_of(own)
    return asked(
        kind, [_renamed(group, language, rng) for group in groups], language, rng, held_out
    ), told


def _renamed(words: str, language: Language, rng: np.random.Generator) -> str:
    """Return the world's names of colours and solids in words of people, sometimes."""
    found = []
    for word in words.split():
        for own, names in ((COLOR, COLORS), (SOLID, SOLIDS)):
            key = next((k for k, w in own[language].items() if w == word), None)
            if key and rng.random() < 0.4:
                word = str(
                    names[language][key].known[int(rng.integers(len(names[language][key].known)))]
                )
                break
        found.append(word)
    return " ".join(found)


def instruct(
    scene: Scene, edit: Edit, language: Language, rng: np.random.Generator, held_out: bool = False
) -> str:
    """Return an instruction of people that makes the edit."""
    speaker = (_Korean if language == "ko" else _English)(scene, rng, False, False, False)
    name = f"{speaker.call(edit.index, 'color')} {speaker.call(edit.index, 'solid')}"
    value = edit.value
    if edit.attribute == "color":
        names = COLORS[language][value].known
        said = (
            COLOR_NOUN[value]
            if language == "ko" and rng.random() < 0.6
            else value
            if language == "en" and rng.random() < 0.5
            else names[int(rng.integers(len(names)))]
        )
    elif edit.attribute == "solid":
        names = SOLIDS[language][value].known
        said = (
            SOLID[language][value] if rng.random() < 0.5 else names[int(rng.integers(len(names)))]
        )
    elif edit.attribute == "size":
        usual = {
            "small": ("small", "tiny"),
            "medium": ("medium", "medium-sized"),
            "large": ("large", "big"),
        }
        said = (_GROWN if language == "ko" else usual)[value][int(rng.integers(2))]
    else:
        said = RESULT[value] if language == "ko" else VERB[value].bare
    return told_to(edit.attribute, name, said, language, rng, held_out)


def templates() -> tuple[int, int]:
    """Return how many wordings there are in all, and how many of them are held out."""
    rest = [
        options
        for table in (_QUESTIONS, _EDITS)
        for kinds in table.values()
        for options in kinds.values()
    ] + list(LOOK.values())
    held = sum(w.held_out for w in WORDINGS) + sum(
        len(_training(options, True)) for options in rest
    )
    return len(WORDINGS) + sum(map(len, rest)), held
