"""This module writes questions with answers, and instructions that change a scene, in Korean and
English.

It knows no tokens. A question names no held-out composition unless the scene itself has it, which
includes the relation that a "is it left of …?" with the answer no asks about. `answer` reads a
question independently, as an oracle of `question`.
"""

from __future__ import annotations

import re

import numpy as np

from onnuri.modality import LANGUAGES, Language, language_of
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
    """Return a random question about a scene and its answer; `motion=False` asks nothing that a
    still picture does not show."""
    kinds = [
        k for k in KINDS if (motion or k != "motion") and (len(scene.things) > 1 or k != "relation")
    ]
    kind = str(rng.choice(kinds))
    index = int(rng.integers(len(scene.things)))
    question_text = _ask(scene, kind, index, language, rng)
    answer_text = answer(scene.description(), question_text)
    assert answer_text is not None, question_text
    return question_text, answer_text


def _ask(scene: Scene, kind: str, index: int, language: Language, rng: np.random.Generator) -> str:
    """Return a question of a kind about the thing `index`; where its name would not be unique, a
    question about its size."""
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
    """Return the question whether the thing `index` is in some relation to another; half of the
    time it is."""
    others = [k for k in range(len(scene.things)) if k != index]
    other = scene.things[int(rng.choice(others))]
    one, true = scene.things[index], dict(((i, j), r) for i, r, j in scene.relations())
    true_relation = true[(index, scene.things.index(other))]
    relation = true_relation if rng.random() < 0.5 else str(rng.choice(RELATIONS))
    if ("relation", relation, one.solid, other.solid) in HELD_OUT:
        relation = true_relation
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
"""a question about two items, and its answers: the first has more, the second, neither"""


def comparison(first: int, second: int, language: Language) -> tuple[str, str]:
    """Return the question which of two items has more objects, and its answer for two numbers of
    objects."""
    question_text, answers = COMPARISONS[language]
    return question_text, answers[0 if first > second else 1 if second > first else 2]


def answer(description: Description, question_text: str) -> str | None:
    """Return the true answer to a question; None if it is not of the grammar or asks about
    something that is not there."""
    language = language_of(question_text)
    for kind, patterns in _PATTERNS.items():
        match = re.match(patterns[language == "en"], question_text.strip().lower())
        if match:
            return _answer(description, kind, list(match.groups()), language)
    return None


def kind_of(question_text: str) -> tuple[str, list[str]]:
    """Return the kind of a question that `question` wrote and the names in it; for a relation one
    thing, the place, the other thing. Raises ValueError for any other sentence."""
    language = language_of(question_text)
    for kind, patterns in _PATTERNS.items():
        match = re.match(patterns[language == "en"], question_text.strip().lower())
        if match:
            groups = list(match.groups())
            return kind, [
                groups[0],
                groups[2],
                groups[1],
            ] if kind == "relation" and language == "ko" else groups
    raise ValueError(question_text)


def relation_asked(question_text: str) -> tuple[str, str, str] | None:
    """Return the (relation, solid, solid) of a question whether one thing is beside another; None
    for any other sentence."""
    language = language_of(question_text)
    match = re.match(_PATTERNS["relation"][language == "en"], question_text.strip().lower())
    if not match:
        return None
    a, place, b = match.groups() if language == "en" else (match[1], match[3], match[2])
    solids = {w: s for s, w in SOLID[language].items()}
    return (
        next(r for r, w in PLACE[language].items() if w == place),
        solids[a.split()[-1]],
        solids[b.split()[-1]],
    )


def _answer(
    description: Description, kind: str, groups: list[str], language: Language
) -> str | None:
    """Return the answer to a question of a kind about a description; `groups` are the names that
    its pattern captured. None if they name nothing or several things."""
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
    """Return the index of the only thing that the words (colour, solid or both) name; None if there
    is none or several."""
    colors = {w: c for c, w in COLOR[language].items()}
    solids = {w: s for s, w in SOLID[language].items()}
    word_meanings = [(colors.get(w), solids.get(w)) for w in words.split()]
    if any(c is None and s is None for c, s in word_meanings):
        return None
    fits = [
        k
        for k, t in enumerate(things)
        if all(
            (c is None or t.color == c) and (s is None or t.solid == s) for c, s in word_meanings
        )
    ]
    return fits[0] if len(fits) == 1 else None


def instruction(scene: Scene, edit: Edit, language: Language, rng: np.random.Generator) -> str:
    """Return a command that makes the edit, such as "빨간 구를 파란색으로 바꿔라." or "Make the red sphere
    blue."."""
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
    """Return captions, questions, answers and instructions of scenes in both languages, on which a
    tokenizer is trained."""
    from onnuri.toyworld.scene import sample_edit
    from onnuri.toyworld.text import caption

    texts = [
        words
        for question_text, answers in COMPARISONS.values()
        for words in (question_text, *answers)
    ]
    for scene in scenes:
        rng = np.random.default_rng(scene.seed)
        edit = sample_edit(rng, scene, allow_motion=True)
        for language in LANGUAGES:
            texts += [caption(scene, language, rng), *question(scene, language, rng)]
            texts += [instruction(scene, edit, language, rng)] if edit else []
    return texts
