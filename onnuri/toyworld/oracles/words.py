"""This module measures whole scenes from words: as the world says them, changed in one way, and in
wordings that training never used.

It knows a model only as something with `generate_batch`, and no wordings but those of
`toyworld/text.py`: every change is made to the world's own sentence by a rule of its own, so that
it does not follow how training data was made. A whole scene is right if an oracle sees all that was
said and nothing more.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from onnuri.errors import ConfigError
from onnuri.evaluation.interval import wilson
from onnuri.evaluation.machine import machine
from onnuri.files import check_place, write_json
from onnuri.modality import LANGUAGES, Language, Modality
from onnuri.toyworld import wordings
from onnuri.toyworld.oracles.matrix import OBSERVE, Model, counted
from onnuri.toyworld.oracles.score import Score, score
from onnuri.toyworld.scene import Description, Scene, Traits, sample_scene
from onnuri.toyworld.text import caption
from onnuri.toyworld.words import COLOR, COLOR_NOUN, SOLID

FIRST = 400_000
"""seed of the first scene"""
SEEDS_ALONE = 4
"""number of items for each form of a name that is said alone"""
_ALONE: dict[Language, tuple[str, ...]] = {"en": ("{}", "draw {}"), "ko": ("{}", "{} 그려줘")}
Change = Callable[[str, Language, np.random.Generator], str]
_ENDINGS = (
    ("습니다", "어요"),
    ("갑니다", "가요"),
    ("돕니다", "돌아요"),
    ("튑니다", "튀어요"),
    ("집니다", "져요"),
    ("있다", "있어요"),
    ("간다", "가요"),
    ("돈다", "돌아요"),
    ("튄다", "튀어요"),
    ("진다", "져요"),
)
_OTHER_NAMES = {
    "구": "공",
    "정육면체": "상자",
    "도넛": "고리",
    "sphere": "ball",
    "cube": "box",
    "torus": "ring",
    "octahedron": "diamond",
    "large": "big",
    "small": "tiny",
    "below": "under",
    "above": "over",
    "circles": "spins",
    "circling": "spinning",
    "purple": "violet",
    "하얀": "흰",
    "검은": "까만",
    "초록": "녹색",
}
"""other names, which `toyworld/words.py` lists as understood"""


def _unchanged(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence as it is."""
    return text


def _colors(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence with colours named otherwise: 빨간색 for 빨간, or in the other language."""
    for key, word in COLOR[language].items():
        foreign_word = COLOR["en" if language == "ko" else "ko"][key]
        replacement = COLOR_NOUN[key] if language == "ko" and rng.random() < 0.5 else foreign_word
        text = re.sub(rf"(?<![\w가-힣]){word}(?![\w가-힣])", replacement, text)
    return text


def _no_articles(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence without its articles, in Korean without "그"."""
    return (
        re.sub(r"\b(an?|the)\s", "", text, flags=re.IGNORECASE)
        if language == "en"
        else text.replace("그 ", "")
    )


def _lower(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence in lower case without its full stop."""
    return text.lower().rstrip(".")


def _very(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence with "very" before small and large."""
    if language == "en":
        return re.sub(r"\b(small|large)\b", r"very \1", text)
    return re.sub(r"(?<![가-힣])(작은|큰)(?![가-힣])", r"아주 \1", text)


def _upper(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence in upper case, in Korean with exclamation marks."""
    return text.upper() if language == "en" else f"{text.rstrip('.')}!!"


def _casual(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence with a casual ending in Korean (-어요), with "I see" in English."""
    if language == "en":
        return f"I see {text[0].lower()}{text[1:]}".replace("I see there is ", "I see ")
    body = text.rstrip(".")
    for formal, casual in _ENDINGS:
        if body.endswith(formal):
            return body[: -len(formal)] + casual
    return body


def _definite(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence with definite articles for indefinite ones, in Korean with "그" before
    it."""
    return (
        re.sub(r"\ban?\b", "the", text, flags=re.IGNORECASE) if language == "en" else f"그 {text}"
    )


def _typo(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence with a slip in one long word: two neighbouring letters swapped, in Korean
    another vowel."""
    words = text.split()
    long_words = [k for k, w in enumerate(words) if len(w) >= (4 if language == "en" else 2)]
    k = long_words[int(rng.integers(len(long_words)))]
    position = (
        int(rng.integers(1, len(words[k].rstrip(".")) - 1)) if len(words[k].rstrip(".")) > 2 else 0
    )
    letters = list(words[k])
    if language == "en":
        letters[position], letters[position + 1] = letters[position + 1], letters[position]
    else:
        code = ord(letters[position]) - 0xAC00
        vowel = (
            code % 588 // 28 + 1
        ) % 21  # Unicode: syllable = base + 588 consonant + 28 vowel + final
        letters[position] = chr(0xAC00 + code // 588 * 588 + vowel * 28 + code % 28)
    words[k] = "".join(letters)
    return " ".join(words)


def _request(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence as a request to draw."""
    return (
        f"Please draw {text[0].lower()}{text[1:]}".replace("draw there is", "draw")
        if language == "en"
        else f"{_noun_ending(text)} 그려줘"
    )


def _noun_ending(text: str) -> str:
    """Return a Korean sentence as the noun phrase of what is to be drawn, "…가 있는 그림"."""
    body = text.rstrip(".")
    for end, modifying in (
        ("있습니다", "있는"),
        ("있다", "있는"),
        ("갑니다", "가는"),
        ("간다", "가는"),
        ("돕니다", "도는"),
        ("돈다", "도는"),
        ("튑니다", "튀는"),
        ("튄다", "튀는"),
        ("집니다", "지는"),
        ("진다", "지는"),
    ):
        if body.endswith(end):
            return f"{body[: -len(end)]}{modifying} 그림"
    return body


def _names(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence with other names for solids, sizes, places and colours."""
    for own_name, other_name in _OTHER_NAMES.items():
        text = re.sub(
            rf"(?<![\w가-힣]){own_name}(?=$|[\s.]|[이가은는와과](?![가-힣]))", other_name, text
        )
    return text


def _no_spaces(text: str, language: Language, rng: np.random.Generator) -> str:
    """Return the sentence without spaces."""
    return text.replace(" ", "")


CHANGES: dict[str, Change] = {
    "none": _unchanged,
    "color words": _colors,
    "no articles": _no_articles,
    "lower case, no full stop": _lower,
    "very": _very,
    "UPPER CASE": _upper,
    "casual ending, I see": _casual,
    "the for a": _definite,
    "one typo": _typo,
    "Please draw": _request,
    "synonyms": _names,
    "no spaces": _no_spaces,
}


def right(
    model: Model, to: Modality, scenes: list[Scene], sentences: list[str], languages: list[Language]
) -> list[Score]:
    """Return the score of what a model makes of each sentence against its scene."""
    generated = model.generate_batch(
        to, [[("text", s)] for s in sentences], language=languages, seeds=list(range(len(scenes)))
    )
    attributes = counted("text", to)
    return [
        score(scene.description(), OBSERVE[to](item), attributes, frozenset(scene.stated))
        for scene, item in zip(scenes, generated, strict=True)
    ]


def names_alone(model: Model, to: Modality) -> dict[str, Any]:
    """Return the share of items with one thing of the right solid, by language, from its name alone
    ("cube", "공 그려줘")."""
    attributes = counted("text", to)
    rows: dict[str, Any] = {}
    for language in LANGUAGES:
        scores: list[Score] = []
        for solid, own_name in SOLID[language].items():
            names = [own_name, *([_OTHER_NAMES[own_name]] if own_name in _OTHER_NAMES else [])]
            sentences = [
                form.format(name)
                for name in names
                for form in _ALONE[language]
                for _ in range(SEEDS_ALONE)
            ]
            items = model.generate_batch(
                to,
                [[("text", s)] for s in sentences],
                language=[language] * len(sentences),
                seeds=list(range(len(sentences))),
            )
            expected = Description(things=(Traits(solid=solid),))
            scores += [score(expected, OBSERVE[to](item), attributes) for item in items]
        rows[language] = row(scores)
    return rows


def row(scores: Iterable[Score]) -> dict[str, Any]:
    """Return the shares of whole scenes and of attributes right, with the 95 % interval of the
    scenes."""
    all_scores = list(scores)
    whole = sum(s.scene for s in all_scores)
    right_count, asked_count = (sum(s.attributes[k] for s in all_scores) for k in (0, 1))
    return {
        "n": len(all_scores),
        "scenes": whole / max(len(all_scores), 1),
        "interval": list(wilson(whole, len(all_scores))),
        "attributes": right_count / max(asked_count, 1),
    }


def measure(model: Model, items: int, to: Modality = "image") -> dict[str, Any]:
    """Return the shares of whole scenes right by change of wording, relation and number of objects,
    in held-out wordings, and of names alone."""
    began = time.time()
    scenes = [sample_scene(FIRST + k, "seen") for k in range(items)]
    languages = [LANGUAGES[k % 2] for k in range(items)]
    own_sentences = [
        caption(s, x, np.random.default_rng([5, s.seed]))
        for s, x in zip(scenes, languages, strict=True)
    ]
    run = functools.partial(right, model, to)

    def changed(change: Change) -> list[str]:
        """Return the world's own sentences after a change."""
        return [
            change(t, x, np.random.default_rng([6, s.seed]))
            for t, x, s in zip(own_sentences, languages, scenes, strict=True)
        ]

    changes = {
        name: row(run(scenes, changed(change), languages)) for name, change in CHANGES.items()
    }
    people_sentences = {
        name: [
            wordings.say(s, x, np.random.default_rng([8, s.seed]), **how)
            for s, x in zip(scenes, languages, strict=True)
        ]
        for name, how in (
            ("wordings of training", {}),
            ("wordings held out", {"held_out": True}),
            ("names held out", {"held_names": True}),
        )
    }
    people_scores = {
        name: run(scenes, sentences, languages) for name, sentences in people_sentences.items()
    }
    objects = {
        name: {
            str(n): row(
                s for s, scene in zip(scores, scenes, strict=True) if len(scene.things) == n
            )
            for n in (1, 2, 3)
        }
        for name, scores in {"own": run(scenes, own_sentences, languages), **people_scores}.items()
    }
    return {
        "to": to,
        "items": items,
        "machine": machine(),
        "changes": changes,
        "people": {k: row(v) for k, v in people_scores.items()},
        "objects": objects,
        "relations": relations(run, items),
        "names alone": names_alone(model, to),
        "seconds": round(time.time() - began, 1),
    }


def relations(run: Callable[..., list[Score]], items: int) -> dict[str, Any]:
    """Return the shares of whole scenes and of the relation right, by relation, for scenes of two
    objects."""
    rows: dict[str, Any] = {}
    for relation in ("left_of", "right_of", "above", "below"):
        scenes: list[Scene] = []
        seed = FIRST
        while len(scenes) < max(items // 4, 1):
            scene = sample_scene(seed, "seen", objects=2)
            if scene.stated[0][1] == relation:
                scenes.append(scene)
            seed += 1
        languages = [LANGUAGES[k % 2] for k in range(len(scenes))]
        sentences = [
            caption(s, x, np.random.default_rng([5, s.seed]))
            for s, x in zip(scenes, languages, strict=True)
        ]
        scores = run(scenes, sentences, languages)
        rows[relation] = {
            **row(scores),
            "relation": float(
                np.mean([s.right["relation"] == s.asked["relation"] for s in scores])
            ),
        }
    return rows


def run(model: Any, items: int, to: Modality, path: Path | None) -> dict[str, Any]:
    """Measure `items` scenes from words to a visual modality, print the shares and write them to
    `path` as JSON. Raises ConfigError for wrong options."""
    if items < 1:
        raise ConfigError(f"--items {items}", "at least one item is needed", "give 1 or more")
    if to in ("text", "audio"):
        raise ConfigError(
            f"--to {to}",
            "is not seen, and whole scenes are judged by sight",
            "use image, video or shape",
        )
    check_place(path)
    result = measure(model, items, to)
    show(result)
    if path:
        write_json(result, path, indent=2)
    return result


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    console = Console()
    table = Table(
        "sentence",
        "whole scenes, %",
        "95 %",
        "attributes, %",
        title=f"words to {result['to']}, {result['items']} scenes",
    )
    for name, values in {**result["changes"], **result["people"], **result["relations"]}.items():
        low, high = values["interval"]
        table.add_row(
            name,
            f"{values['scenes'] * 100:.0f}",
            f"{low * 100:.0f}–{high * 100:.0f}",
            f"{values['attributes'] * 100:.0f}",
        )
    console.print(table)
    console.print(
        "a name and nothing more: "
        + ", ".join(
            f"{language} {r['scenes']:.0%} of {r['n']}"
            for language, r in result["names alone"].items()
        )
    )
    for name, rows in result["objects"].items():
        console.print(
            f"{name}: "
            + ", ".join(f"{n} objects {r['scenes']:.0%} of {r['n']}" for n, r in rows.items())
        )
