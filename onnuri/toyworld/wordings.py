"""This module says a scene in the wordings of people: names, requests, endings, order, counts and
negation in Korean and English.

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
    """Return a random sentence that states the scene as people say it.

    `held_out`: in a wording that training never uses. `held_names`: with one name that training
    never uses. `full=False` leaves out some sizes and colours; `motion=False` leaves out motions.
    """
    speaker = SPEAKERS[language](scene, rng, full, motion, held_names)
    sentence = speaker.sentence(held_out)
    if not held_out and rng.random() < 0.05:
        filler = str(rng.choice(_FILLERS[language]))
        sentence = f"{filler} {sentence}" if rng.random() < 0.6 else f"{sentence} {filler}"
    return " ".join(sentence.split())


def doubled(scene: Scene, language: Language, rng: np.random.Generator) -> str:
    """Return a sentence for things that are alike, such as "two red balls" or "balls": the scene's
    first thing, as often as the scene has things, two or three. Sometimes size and colour are left
    out."""
    speaker = SPEAKERS[language](scene, rng, False, False, False)
    return speaker.alike()


def look(language: Language, rng: np.random.Generator, held_out: bool = False) -> str:
    """Return a random request to describe what is shown."""
    options = training(LOOK[language], held_out)
    return options[int(rng.integers(len(options)))]


def word_question(
    kind: str,
    groups: list[str],
    language: Language,
    rng: np.random.Generator,
    held_out: bool = False,
) -> str:
    """Return a question of a kind in a random wording; `groups` are the names in it, as
    `tasks.kind_of` returns them."""
    return _filled(training(QUESTIONS[language][kind], held_out), groups, rng)


def word_instruction(
    attribute: str,
    name: str,
    value: str,
    language: Language,
    rng: np.random.Generator,
    held_out: bool = False,
) -> str:
    """Return an instruction in a random wording: `name` is the thing to change, `value` what it
    becomes."""
    text = _filled(training(EDITS[language][attribute], held_out), [name, value], rng)
    return text if language == "ko" else text.replace(" a o", " an o").replace(" a a", " an a")


def _filled(options: list[str], groups: list[str], rng: np.random.Generator) -> str:
    """Return a random option with the names filled in, each with the Korean particle that its place
    asks for."""
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
    """Return a question about the scene as people ask it, and the answer as the world gives it."""
    own_question, answer = tasks.question(scene, language, rng, motion)
    kind, groups = tasks.kind_of(own_question)
    return word_question(
        kind,
        [_with_peoples_names(group, language, rng) for group in groups],
        language,
        rng,
        held_out,
    ), answer


def _with_peoples_names(words: str, language: Language, rng: np.random.Generator) -> str:
    """Return words in which some of the world's names of colours and solids are replaced by
    people's."""
    renamed_words = []
    for word in words.split():
        for own_names, names in ((COLOR, COLORS), (SOLID, SOLIDS)):
            key = next((k for k, w in own_names[language].items() if w == word), None)
            if key and rng.random() < 0.4:
                word = str(
                    names[language][key].known[int(rng.integers(len(names[language][key].known)))]
                )
                break
        renamed_words.append(word)
    return " ".join(renamed_words)


def instruct(
    scene: Scene, edit: Edit, language: Language, rng: np.random.Generator, held_out: bool = False
) -> str:
    """Return an instruction as people give it that makes the edit."""
    speaker = SPEAKERS[language](scene, rng, False, False, False)
    name = f"{speaker.call(edit.index, 'color')} {speaker.call(edit.index, 'solid')}"
    value = edit.value
    if edit.attribute == "color":
        names = COLORS[language][value].known
        value_words = (
            COLOR_NOUN[value]
            if language == "ko" and rng.random() < 0.6
            else value
            if language == "en" and rng.random() < 0.5
            else names[int(rng.integers(len(names)))]
        )
    elif edit.attribute == "solid":
        names = SOLIDS[language][value].known
        value_words = (
            SOLID[language][value] if rng.random() < 0.5 else names[int(rng.integers(len(names)))]
        )
    elif edit.attribute == "size":
        usual = {
            "small": ("small", "tiny"),
            "medium": ("medium", "medium-sized"),
            "large": ("large", "big"),
        }
        value_words = (GROWN if language == "ko" else usual)[value][int(rng.integers(2))]
    else:
        value_words = RESULT[value] if language == "ko" else VERB[value].bare
    return word_instruction(edit.attribute, name, value_words, language, rng, held_out)


def templates() -> tuple[int, int]:
    """Return the number of wordings in all, and the number of them that are held out."""
    option_lists = [
        options
        for table in (QUESTIONS, EDITS)
        for kinds in table.values()
        for options in kinds.values()
    ] + list(LOOK.values())
    held_count = sum(w.held_out for w in WORDINGS) + sum(
        len(training(options, True)) for options in option_lists
    )
    return len(WORDINGS) + sum(map(len, option_lists)), held_count
