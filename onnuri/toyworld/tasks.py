"""Questions with answers, and instructions to change a scene, in Korean and English. Knows no
tokens.

Nothing said names a held-out composition unless the scene itself has it: what a wrong "is it left
of …?" asks about is checked too. `answer` reads a question by itself, as an oracle of `question`.
"""

from __future__ import annotations

import re

import numpy as np

from onnuri.modality import Language, language_of
from onnuri.toyworld.scene import HELD_OUT, RELATIONS, Description, Edit, Scene, Traits
from onnuri.toyworld.words import COLOR, COLOR_NOUN, PLACE, RESULT, SIZE, SOLID, VERB, josa

NUMBERS: dict[Language, list[str]] = {
    "ko": ["영 개", "한 개", "두 개", "세 개"],
    "en": ["zero", "one", "two", "three"],
}
KINDS = ("count", "color", "size", "motion", "solid", "relation")


def question(
    scene: Scene, language: Language, rng: np.random.Generator, motion: bool = True
) -> tuple[str, str]:
    """A question about a scene and its answer; `motion=False` asks nothing that a still does not
    show."""
    kinds = [
        k for k in KINDS if (motion or k != "motion") and (len(scene.things) > 1 or k != "relation")
    ]
    kind = str(rng.choice(kinds))
    index = int(rng.integers(len(scene.things)))
    asked = _ask(scene, kind, index, language, rng)
    told = answer(scene.description(), asked)
    assert told is not None, asked
    return asked, told


def _ask(scene: Scene, kind: str, index: int, language: Language, rng: np.random.Generator) -> str:
    thing = scene.things[index]
    color, solid = COLOR[language][thing.color], SOLID[language][thing.solid]
    ko = language == "ko"
    if kind == "count":
        return "몇 개가 있나요?" if ko else "How many objects are there?"
    unique_solid = sum(t.solid == thing.solid for t in scene.things) == 1
    if kind == "color" and unique_solid:
        return f"{josa(solid, '은/는')} 무슨 색인가요?" if ko else f"What color is the {solid}?"
    if kind == "solid" and sum(t.color == thing.color for t in scene.things) == 1:
        return f"{color} 물체는 무엇인가요?" if ko else f"What is the {color} object?"
    if kind == "motion":
        return (
            f"{color} {josa(solid, '은/는')} 어떻게 움직이나요?"
            if ko
            else f"How does the {color} {solid} move?"
        )
    if kind == "relation":
        return _ask_relation(scene, index, language, rng)
    return (
        f"{color} {josa(solid, '은/는')} 얼마나 큰가요?"
        if ko
        else f"What size is the {color} {solid}?"
    )


def _ask_relation(scene: Scene, index: int, language: Language, rng: np.random.Generator) -> str:
    others = [k for k in range(len(scene.things)) if k != index]
    other = scene.things[int(rng.choice(others))]
    one, true = scene.things[index], dict(((i, j), r) for i, r, j in scene.relations())
    right = true[(index, scene.things.index(other))]
    relation = right if rng.random() < 0.5 else str(rng.choice(RELATIONS))
    if ("relation", relation, one.solid, other.solid) in HELD_OUT:
        relation = right
    a = f"{COLOR[language][one.color]} {SOLID[language][one.solid]}"
    b = f"{COLOR[language][other.color]} {SOLID[language][other.solid]}"
    place = PLACE[language][relation]
    return (
        f"{josa(a, '은/는')} {b} {place}에 있나요?"
        if language == "ko"
        else f"Is the {a} {place} the {b}?"
    )


_PATTERNS: dict[str, tuple[str, str]] = {
    "count": (r"^몇 개가 있나요\?$", r"^how many objects are there\?$"),
    "color": (r"^(\S+?)[은는] 무슨 색인가요\?$", r"^what color is the (\w+)\?$"),
    "solid": (r"^(\S+) 물체는 무엇인가요\?$", r"^what is the (\w+) object\?$"),
    "motion": (r"^(\S+ \S+?)[은는] 어떻게 움직이나요\?$", r"^how does the (\w+ \w+) move\?$"),
    "size": (r"^(\S+ \S+?)[은는] 얼마나 큰가요\?$", r"^what size is the (\w+ \w+)\?$"),
    "relation": (
        r"^(\S+ \S+?)[은는] (\S+ \S+) (왼쪽|오른쪽|위|아래)에 있나요\?$",
        r"^is the (\w+ \w+) (to the left of|to the right of|above|below) the (\w+ \w+)\?$",
    ),
}


COMPARISONS: dict[Language, tuple[str, tuple[str, str, str]]] = {
    "ko": ("어느 쪽에 물체가 더 많나요?", ("첫 번째", "두 번째", "같다")),
    "en": ("Which one has more objects?", ("the first", "the second", "the same")),
}
"""a question about two things that were given, and its answers: the first has more, the second,
neither"""


def comparison(first: int, second: int, language: Language) -> tuple[str, str]:
    """The question which of two counts is larger, and its answer."""
    asked, answers = COMPARISONS[language]
    return asked, answers[0 if first > second else 1 if second > first else 2]


def answer(description: Description, asked: str) -> str | None:
    """The true answer to a question; None where it is not of the grammar or asks about nothing that
    is there."""
    language = language_of(asked)
    for kind, patterns in _PATTERNS.items():
        found = re.match(patterns[language == "en"], asked.strip().lower())
        if found:
            return _answer(description, kind, list(found.groups()), language)
    return None


def kind_of(asked: str) -> tuple[str, list[str]]:
    """Return the kind of one of our own questions and what it names; of a relation: one thing, the
    place, the other."""
    language = language_of(asked)
    for kind, patterns in _PATTERNS.items():
        found = re.match(patterns[language == "en"], asked.strip().lower())
        if found:
            groups = list(found.groups())
            return kind, [
                groups[0],
                groups[2],
                groups[1],
            ] if kind == "relation" and language == "ko" else groups
    raise ValueError(asked)


def relation_asked(asked: str) -> tuple[str, str, str] | None:
    """(relation, solid, solid) of a question whether one thing is beside another; None for any
    other sentence."""
    language = language_of(asked)
    found = re.match(_PATTERNS["relation"][language == "en"], asked.strip().lower())
    if not found:
        return None
    a, place, b = found.groups() if language == "en" else (found[1], found[3], found[2])
    solids = {w: s for s, w in SOLID[language].items()}
    return (
        next(r for r, w in PLACE[language].items() if w == place),
        solids[a.split()[-1]],
        solids[b.split()[-1]],
    )


def _answer(
    description: Description, kind: str, groups: list[str], language: Language
) -> str | None:
    things = description.things
    if kind == "count":
        return NUMBERS[language][len(things)]
    if kind == "relation":
        a, place, b = groups if language == "en" else (groups[0], groups[2], groups[1])
        i, j = _find(things, a, language), _find(things, b, language)
        relation = next(r for r, w in PLACE[language].items() if w == place)
        if i is None or j is None:
            return None
        yes = (i, relation, j) in description.relations
        return ("네" if yes else "아니요") if language == "ko" else ("yes" if yes else "no")
    index = _find(things, groups[0], language)
    if index is None:
        return None
    thing = things[index]
    if kind == "color":
        return COLOR_NOUN[thing.color or ""] if language == "ko" else thing.color
    if kind == "solid":
        return SOLID[language][thing.solid or ""]
    if kind == "size":
        return SIZE[language][thing.size or ""]
    verb = VERB[thing.motion or "still"]
    return (
        ("멈춰 있다" if thing.motion == "still" else verb.plain)
        if language == "ko"
        else ("stands still" if thing.motion == "still" else verb.present)
    )


def _find(things: tuple[Traits, ...], words: str, language: Language) -> int | None:
    """The only thing that the words (colour, solid or both) name."""
    colors = {w: c for c, w in COLOR[language].items()}
    solids = {w: s for s, w in SOLID[language].items()}
    wanted = [(colors.get(w), solids.get(w)) for w in words.split()]
    if any(c is None and s is None for c, s in wanted):
        return None
    fits = [
        k
        for k, t in enumerate(things)
        if all((c is None or t.color == c) and (s is None or t.solid == s) for c, s in wanted)
    ]
    return fits[0] if len(fits) == 1 else None


def instruction(scene: Scene, edit: Edit, language: Language, rng: np.random.Generator) -> str:
    """A command that makes the edit, such as "빨간 구를 파란색으로 바꿔라." and "Make the red sphere blue."."""
    thing, value = scene.things[edit.index], edit.value
    name = f"{COLOR[language][thing.color]} {SOLID[language][thing.solid]}"
    if language == "ko":
        name = josa(name, "을/를")
        return {
            "color": lambda: f"{name} {josa(COLOR_NOUN[value], '으로/로')} 바꿔라.",
            "solid": lambda: f"{name} {josa(SOLID['ko'][value], '으로/로')} 바꿔라.",
            "size": lambda: (
                f"{name} {({'small': '작게', 'medium': '중간 크기로', 'large': '크게'})[value]} 해라."
            ),
            "motion": lambda: f"{name} {RESULT[value]} 해라.",
        }[edit.attribute]()
    return {
        "color": lambda: f"Make the {name} {value}.",
        "solid": lambda: f"Turn the {name} into {'an' if value[0] in 'aeiou' else 'a'} {value}.",
        "size": lambda: f"Make the {name} {value}.",
        "motion": lambda: f"Make the {name} {VERB[value].bare}.",
    }[edit.attribute]()


def corpus(scenes: list[Scene]) -> list[str]:
    """Captions, questions, answers and instructions of scenes in both languages, for a
    tokenizer."""
    from onnuri.toyworld.scene import sample_edit
    from onnuri.toyworld.text import caption

    texts = [words for asked, answers in COMPARISONS.values() for words in (asked, *answers)]
    for scene in scenes:
        rng = np.random.default_rng(scene.seed)
        edit = sample_edit(rng, scene, allow_motion=True)
        for language in ("ko", "en"):
            texts += [caption(scene, language, rng), *question(scene, language, rng)]  # type: ignore[arg-type]
            texts += [instruction(scene, edit, language, rng)] if edit else []  # type: ignore[arg-type]
    return texts
