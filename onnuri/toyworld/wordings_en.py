"""This module says a scene in the English of people."""

from __future__ import annotations

from onnuri.modality import Language
from onnuri.toyworld.scene import INVERSE
from onnuri.toyworld.synonyms import EN_MOTIONS
from onnuri.toyworld.wordings_speaker import Speaker, other_colors
from onnuri.toyworld.words import COLOR, SOLID

SINGLE: tuple[str, ...] = ("{A} {verb}", "there is {A}")
"""bodies of sentences about one thing"""


_SIDES: dict[str, tuple[str, ...]] = {
    "left_of": ("on the left", "at the left", "on the left side"),
    "right_of": ("on the right", "at the right", "on the right side"),
    "above": ("on top", "at the top", "above"),
    "below": ("at the bottom", "on the bottom", "below"),
}


_BARE_SIDES: dict[str, tuple[str, ...]] = {
    "left_of": ("left", "on the left"),
    "right_of": ("right", "on the right"),
    "above": ("top", "up top", "on top", "above"),
    "below": ("bottom", "at the bottom", "below"),
}


_ITS = {
    "left_of": ("to its left", "on its left"),
    "right_of": ("to its right", "on its right"),
    "above": ("above it", "over it", "on top of it"),
    "below": ("below it", "under it", "beneath it"),
}


_JOINS = (" and ", ", ", ", and ", ". ", "; ", " while ")


_VERY: tuple[str, ...] = ("very", "really", "quite", "so")


_COUNTS: dict[int, tuple[str, ...]] = {
    2: ("two objects", "two things", "2 things", "two shapes"),
    3: ("three objects", "three things", "3 things", "three shapes"),
}


class English(Speaker):
    """An English words one scene in English."""

    language: Language = "en"

    def sentence(self, held_out: bool) -> str:
        """Return a sentence that states the scene, in a wording of training or one held out."""
        self.article = str(
            self.rng.choice(["a", "the", "", "one", "some"], p=[0.6, 0.15, 0.15, 0.07, 0.03])
        )
        clauses = list(self.scene.stated)
        special = "" if held_out else self.seldom()
        if special:
            return special
        if not clauses:
            wording = self.wording(
                held_out, ("noun", "noun", "clause") if not held_out else ("noun",)
            )
            if wording.kind == "noun":
                return (wording.frame if held_out else self.plainly(wording.frame)).format(
                    self.thing(0, True)
                )
            body = self.one(SINGLE)
            verb = "verb" in body
            text = body.format(A=self.thing(0, not verb), verb=self.verb(0) if verb else "")
            return wording.frame.format(text)
        wording = self.wording(held_out)
        is_request = (
            wording.kind == "noun" and len(clauses) == 1 and not held_out and self.chance(0.35)
        )
        text = (self.request() if is_request else wording.frame).format(
            self.body(wording.body, *clauses[0])
        )
        for i, relation, j in clauses[1:]:
            bodies = self.trained_bodies("clause")
            text = text.rstrip("?") + self.one(_JOINS) + self.body(self.one(bodies), i, relation, j)
        return text

    def body(self, body: str, i: int, relation: str, j: int) -> str:
        """Return a body with its names and places filled in, for thing `i` in a `relation` to thing
        `j`."""
        if i in self.named and j not in self.named and self.chance(0.5) and body.startswith("{A} "):
            i, j, relation = j, i, INVERSE[relation]  # what is new comes first
        object_first = body.find("{A}") > body.find("{B}") >= 0
        verb = (
            self.moving(i) != "still"
            and body in ("{A} sits {r} {B}", "{A} stands {r} {B}", "{A} is {r} {B}")
            and i not in self.named
        )
        if object_first:
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
            sa=self.one(_SIDES[relation]),
            sb=self.one(_SIDES[INVERSE[relation]]),
            la=self.one(_BARE_SIDES[relation]),
            lb=self.one(_BARE_SIDES[INVERSE[relation]]),
            n=self.one(_COUNTS[len(self.scene.things)]),
        )

    def verb(self, index: int) -> str:
        """Return a random verb for a thing's motion."""
        known, _ = EN_MOTIONS[self.moving(index)]
        if self.moving(index) == "still":
            return self.one(
                ("is here", "stands still", "is standing still", "rests", "sits there", "is there")
            )
        present, participle = known[0] if self.own else self.one(known)
        return f"is {participle}" if self.chance(0.4) else str(present)

    def thing(self, index: int, modify: bool) -> str:
        """Return the noun phrase of a thing, in short if it was named before; `modify` adds its
        motion."""
        if index in self.named:
            return self.again(index)
        self.named.add(index)
        size, color, solid = self.attribute_words(index)
        if size and self.chance(0.08):
            size = f"{self.one(_VERY)} {size}"
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
        negation = ""
        if color and self.chance(0.06):
            name, negation = self.negated(index, name, size, color, solid)
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
        noun_phrase = _a(name) if self.article == "a" else f"{self.article} {name}"
        return f"{noun_phrase}{negation}{motion}".strip()

    def negated(self, index: int, name: str, size: str, color: str, solid: str) -> tuple[str, str]:
        """Return a name with a random word of what the thing is not, and what follows the name."""
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
        """Return a thing that was named before by colour and solid."""
        self.named.add(index)
        _, color, solid = self.attribute_words(index)
        full = f"the {color} {solid}" if color else f"the {solid}"
        return self.one((full, full, f"the {solid}" if self.alone(index) else full))

    def the_one(self, index: int) -> str:
        """Return "the red one" if a colour identifies the thing, else the thing's name."""
        if self.colors_differ() and self.chance(0.6):
            return f"the {self.call(index, 'color')} one"
        return self.again(index)

    def two_of_a_kind(self) -> str:
        """Return a sentence for two things of one solid such as "two balls: a red one on the left
        and a blue one on the right"."""
        i, relation, j = self.pair()
        first, second, inverse = self.dressed(i), self.dressed(j), INVERSE[relation]
        pair_phrase = f"{self.one(('two', '2', 'a pair of'))} {plural_of(self.call(i, 'solid'))}"
        sides, bare = _SIDES, _BARE_SIDES
        places = (
            f"{_a(first)} one {self.one(sides[relation])} "
            f"and {_a(second)} one {self.one(sides[inverse])}",
            f"{first} one {self.one(bare[relation])}, {second} one {self.one(bare[inverse])}",
            f"{first} {self.one(bare[relation])}, {second} {self.one(bare[inverse])}",
            f"the {first} one is {self.place(relation)} the {second} one",
            f"the {first} one {self.place(relation)} the {second} one",
            f"one {first}, one {second}, the {first} one is {self.place(relation)} the other",
            f"one is {first} and one is {second}, "
            f"the {first} is {self.place(relation)} the {second}",
        )
        opening = self.framed(pair_phrase, plural=True)
        return f"{opening}{self.one((': ', ', ', '. '))}{self.one(places)}"

    def attributes_later(self) -> str:
        """Return a sentence such as "a star above a cube, the star is pink and the cube is blue",
        or of one thing "a star, make it pink"."""
        solids = [self.call(k, "solid") for k in range(len(self.scene.things))]
        traits = [
            self.one((" and ", ", ")).join(w for w in self.attribute_words(k)[:2] if w)
            for k in range(len(solids))
        ]
        if len(solids) == 1:
            if self.chance(0.2):
                size, color, solid = self.attribute_words(0)
                return (
                    self.framed(_a(f"{size} {solid}".strip()))
                    + f"{self.one((', color', ', in', '. color:'))} {color}"
                )
            noun_phrase = f"{_a(traits[0])} one"
            look = traits[0]
            tails = (f", and make it {look}", f". make it {look}", f", {look}",
                     f". {noun_phrase}", f", {noun_phrase} please",
                     f". it is {look}", f". it should be {look}")  # fmt: skip
            return self.framed(_a(solids[0])) + self.one(tails)
        i, relation, j = self.pair()
        place, side, other = (self.place(relation), _SIDES[relation], _SIDES[INVERSE[relation]])
        a, b = (_a(solids[k]) if self.chance(0.7) else solids[k] for k in (i, j))
        (x, y), (p, q) = (solids[i], solids[j]), (traits[i], traits[j])
        return self.one(
            (
                f"{self.framed(f'{a} {place} {b}')}, {x} is {p}, {y} is {q}",
                f"{self.framed(f'{a} {place} {b}')}. the {x} is {p} and the {y} is {q}",
                f"{self.framed(f'{a} and {b}', plural=True)}. "
                f"the {x} is {p} and is {place} the {y}, which is {q}",
                f"{self.framed(f'{a} and {b}', plural=True)}. "
                f"the {x} is {p}, the {y} is {q}, the {x} is {self.one(side)}",
                f"{self.framed(f'{a} {self.one(side)} and {b} {self.one(other)}')}, "
                f"{x} {p}, {y} {q}",
            )
        )

    def without_a_place(self) -> str:
        """Return a sentence that names the things but not where they are."""
        order = self.rng.permutation(len(self.scene.things))
        names = [self.thing(int(k), True) for k in order]
        if len(names) == 3:
            text = self.one(
                ("{}, {} and {}", "{}, {}, and {}", "{}, {}, {}", "{} and {} and {}")
            ).format(*names)
            return self.framed(text, plural=True)
        joins = ["{} and {}"] * 3
        joins += ["{}, {}", "{} with {}", "{} + {}", "{} & {}", "{} and also {}"]
        joins += ["{} together with {}", "both {} and {}", "{} plus {}"]
        if self.scene.stated[0][1] in ("left_of", "right_of"):
            joins += ["{} next to {}", "{} beside {}", "{} by the side of {}"]
        return self.framed(self.one(joins).format(*names), plural=True)

    def placing(self) -> str:
        """Return a sentence that puts one thing beside another, such as "put a red ball on top of a
        blue box"."""
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
        """Return a noun phrase in a random frame of training; with `plural`, in none that speaks of
        one thing."""
        if self.chance(0.4):
            return self.request().format(phrase)
        single = ("this is {}", "there is {}", "there's {}") if plural else ()
        frames = [f for f in self.trained_frames("noun") if f not in single and not f.endswith("?")]
        frames += ["{}"] * 12 + (["there are {}"] if plural else [])
        return self.one(frames).format(phrase)

    def alike(self) -> str:
        """Return a sentence for as many things as the scene has, all like its first."""
        size, color, solid = self.attribute_words(0)
        if self.chance(0.2):
            size = color = ""
        counts = ["two", "two", "2", "a pair of", "two identical", "a couple of", "two of the same"]
        if len(self.scene.things) == 3:
            counts = ["three", "three", "3", "three identical", "a trio of", "three of the same"]
        if len(self.scene.things) == 2 and self.chance(0.08):
            one_more = self.one(
                (
                    "another one just like it",
                    "one more just like it",
                    "another",
                    "one more of the same",
                )
            )
            return (
                f"{self.framed(_a(' '.join(w for w in (size, color, solid) if w)))} and {one_more}"
            )
        count = self.one([*counts, ""])
        return " ".join(
            self.framed(f"{count} {size} {color} {plural_of(solid)}", plural=True).split()
        )


def _a(phrase: str) -> str:
    """Return an English phrase with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural_of(solid: str) -> str:
    """Return the plural of an English solid's name."""
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
