"""A scene in the wordings of people: names, requests, endings, order, counts and negation in Korean
and English.

`text.py` writes the world's own sentences, which are what the model answers with; this module says
the same in the ways in which people ask. A wording is a frame ("please draw {}", "{} 그려줘") around a
body ("{B} with {A} above it"). A fifth of them, chosen by hash, is held out of training
(`wordings_tables.Wording.held_out`), and so is a fifth of the names (`synonyms.py`).
"""

from __future__ import annotations

import numpy as np

from onnuri.modality import Language
from onnuri.toyworld import tasks
from onnuri.toyworld.scene import Edit, Scene
from onnuri.toyworld.synonyms import COLORS, SOLIDS
from onnuri.toyworld.wordings_en import English
from onnuri.toyworld.wordings_ko import GROWN, Korean
from onnuri.toyworld.wordings_speaker import Speaker
from onnuri.toyworld.wordings_tables import EDITS, LOOK, QUESTIONS, WORDINGS, training
from onnuri.toyworld.words import COLOR, COLOR_NOUN, RESULT, SOLID, VERB, josa

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


SPEAKERS: dict[Language, type[Speaker]] = {"en": English, "ko": Korean}


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
    speaker = SPEAKERS[language](scene, rng, full, motion, held_names)
    sentence = speaker.sentence(held_out)
    if not held_out and rng.random() < 0.05:
        filler = str(rng.choice(_FILLERS[language]))
        sentence = f"{filler} {sentence}" if rng.random() < 0.6 else f"{sentence} {filler}"
    return " ".join(sentence.split())


def doubled(scene: Scene, language: Language, rng: np.random.Generator) -> str:
    """Return a sentence for things that are alike, such as "two red balls" or "balls": the scene's
    first thing, as often as it has things, two or three. Sizes and colours are left out at
    times."""
    speaker = SPEAKERS[language](scene, rng, False, False, False)
    return speaker.alike()


def look(language: Language, rng: np.random.Generator, held_out: bool = False) -> str:
    """Return a request to describe what is shown."""
    options = training(LOOK[language], held_out)
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
    return _filled(training(QUESTIONS[language][kind], held_out), groups, rng)


def told_to(
    attribute: str,
    name: str,
    value: str,
    language: Language,
    rng: np.random.Generator,
    held_out: bool = False,
) -> str:
    """Return an instruction in some wording: what is named, and what it becomes."""
    text = _filled(training(EDITS[language][attribute], held_out), [name, value], rng)
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
    speaker = SPEAKERS[language](scene, rng, False, False, False)
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
        said = (GROWN if language == "ko" else usual)[value][int(rng.integers(2))]
    else:
        said = RESULT[value] if language == "ko" else VERB[value].bare
    return told_to(edit.attribute, name, said, language, rng, held_out)


def templates() -> tuple[int, int]:
    """Return how many wordings there are in all, and how many of them are held out."""
    rest = [
        options
        for table in (QUESTIONS, EDITS)
        for kinds in table.values()
        for options in kinds.values()
    ] + list(LOOK.values())
    held = sum(w.held_out for w in WORDINGS) + sum(len(training(options, True)) for options in rest)
    return len(WORDINGS) + sum(map(len, rest)), held
