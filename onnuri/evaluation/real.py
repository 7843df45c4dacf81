"""This module measures a model on real pictures with names that it was not trained on: whether it
draws what a name says, and names what a picture shows.

A pair of a concept and a style is held out if the model knows the concept from other styles alone;
a concept is unseen if it knows no picture of it. Of the pairs, flags, keycaps, clocks, letters and
skin tones are counted apart, for their pictures differ by a detail. A drawing is judged by the real
pictures that it is nearest to (`judges/efficientnet.py`), beside which stand the same judge's
figures on what the codec gives back of the real picture, and on drawings of other names. The module
trains nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from onnuri.config import Config
from onnuri.data.korean import particle
from onnuri.data.picture_store import PictureStore
from onnuri.data.picture_tasks import PLAIN, STYLED, ItemNames, Words, names_of
from onnuri.evaluation.collages import CollageFigures
from onnuri.evaluation.pictures import GivenPicture, of_store
from onnuri.evaluation.retrieval import Share, chance_at, nearest, right_at, share
from onnuri.modality import LANGUAGES, Language, fold

SPECIAL = frozenset({"flag", "keycap", "clock", "letter"})
"""kinds whose pictures differ by a detail"""
SKIN_TONES = re.compile(r"1F3F[B-F]", re.IGNORECASE)
"""code points that give an emoji a skin tone"""
RARE = 0.01
"""largest share of concepts that carry a tag which counts as a name"""
ANSWERS = 12
"""answers that are drawn for a picture, the five most frequent of which are the top five"""
TOP = 5
AT_ONCE = 64
"""answers that are generated together"""
GALLERY = 1500
"""training pictures whose styles a drawing's style is told by"""


class Judge(Protocol):
    """A Judge turns pictures into vectors of length 1."""

    name: str

    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the vectors float32 [n, F] of pictures uint8 [H, W, 3]."""


class HeldOut(NamedTuple):
    """A HeldOut is a real picture that the model was not trained on."""

    concept: str
    style: str
    group: str
    """"pairs", "special" or "unseen" """
    names: Mapping[Language, ItemNames]
    picture: np.ndarray
    """uint8 [S, S, 3], on white"""


class DrawFigures(Config):
    """A DrawFigures holds how drawings of some names are judged."""

    gallery: int
    """real pictures among which a drawing's nearest is looked for"""
    at_1: Share
    """whose nearest real picture is of the name's concept"""
    at_5: Share
    style: Share
    """whose nearest training picture has the style that was asked for"""
    chance_1: float
    chance_5: float
    round_trip_1: Share
    """the same of the real pictures as the codec gives them back"""
    round_trip_style: Share
    shuffled_1: Share
    """the same of drawings of other names"""


class NameFigures(Config):
    """A NameFigures holds how names that were given to some pictures are judged."""

    exact: Share
    top_5: Share
    or_tag: Share
    """that are the name, or a tag that few concepts carry"""
    shuffled: Share
    """that are the name of another picture of these"""


class RealFigures(Config):
    """A RealFigures holds all figures of a model: by group, and for names by language too."""

    split: str
    judge: str
    drawn: dict[str, DrawFigures]
    named: dict[str, NameFigures]
    """by "group language" """
    collages: CollageFigures | None = None
    """None of a store with too few concepts"""
    unsure: dict[str, Share] = dataclasses.field(default_factory=dict)
    """names of which the model says that it may not know what it sees, by group, those that are
    right apart; "photographs" are of other packages and of nothing that it has learned"""


class Drawn(NamedTuple):
    """A Drawn holds a drawing, for people to look at."""

    item: HeldOut
    asked: str
    picture: np.ndarray
    """uint8 [S, S, 3]"""
    is_right: bool
    """whether its nearest real picture is of the name's concept"""


class GivenNames(NamedTuple):
    """A GivenNames holds the names that were given to a picture, for people to look at."""

    item: HeldOut
    language: Language
    answers: tuple[str, ...]
    """the most probable first"""
    is_unsure: bool = False
    """whether the model says that it may not know what it sees"""


def held_out(store: PictureStore, split: str, side: int) -> list[HeldOut]:
    """Return a split's pictures that have a name, as a codec of a side is given them."""
    trained = {item.concept for item in store.items if item.split == "train"}
    numbers = store.of_split(split)
    found = []
    for number, given in zip(numbers, of_store(store, numbers, side), strict=True):
        item = store.items[int(number)]
        if names := names_of(item):
            is_special = item.kind in SPECIAL or SKIN_TONES.search(item.concept)
            group = "pairs" if item.concept in trained else "unseen"
            group = "special" if is_special and group == "pairs" else group
            found.append(HeldOut(item.concept, item.style, group, names, given.pixels))
    return found


def rare_tags(store: PictureStore) -> dict[Language, set[str]]:
    """Return, by language, the tags that at most one concept in a hundred carries."""
    carried: dict[Language, dict[str, set[str]]] = {language: {} for language in LANGUAGES}
    concepts = {item.concept for item in store.items}
    for item in store.items:
        for language, named in names_of(item).items():
            for tag in named.tags:
                carried[language].setdefault(tag, set()).add(item.concept)
    most = RARE * len(concepts)
    return {
        language: {tag for tag, of in tags.items() if len(of) <= most}
        for language, tags in carried.items()
    }


def request(item: HeldOut, language: Language, words: Words) -> str:
    """Return the plainest sentence that asks for a picture of an item in its style."""
    name = item.names[language].name
    word = words.get(item.style, {}).get(language)
    pattern = STYLED[language][0] if word else PLAIN[language][0]
    return pattern.format(s=word, n=name, 을=particle(name, "을/를"))


def draw(
    model: Any, items: Sequence[HeldOut], words: Words, tell: Callable[[int], None] = lambda n: None
) -> tuple[list[str], list[np.ndarray]]:
    """Return what was asked for of each item, in its languages by turns, and what a model drew."""
    asked, pictures = [], []
    for start in range(0, len(items), AT_ONCE):
        sentences = []
        for k, item in enumerate(items[start : start + AT_ONCE], start):
            languages = list(item.names)
            sentences.append(request(item, languages[k % len(languages)], words))
        seeds = list(range(start, start + len(sentences)))
        inputs = [[("text", sentence)] for sentence in sentences]
        pictures += model.generate_batch("image", inputs, seeds=seeds)
        asked += sentences
        tell(len(sentences))
    return asked, pictures


def name(
    model: Any,
    items: Sequence[HeldOut],
    language: Language,
    tell: Callable[[int], None] = lambda n: None,
) -> list[GivenNames]:
    """Return the names that a model gives each item's picture: the one that is most probable at
    every step, then those that it gives most often."""
    given = []
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        firsts = first_names(model, [item.picture for item in some], language)
        for item, first in zip(some, firsts, strict=True):
            drawn = model.generate_batch(
                "text",
                [[("image", item.picture)]] * ANSWERS,
                language=language,
                temperature=0.9,
                seeds=list(range(ANSWERS)),
            )
            often = [text for text, _ in Counter(map(fold, drawn)).most_common()]
            answers = tuple(dict.fromkeys([fold(first.item), *often]))[:TOP]
            given.append(GivenNames(item, language, answers, is_unsure(first)))
            tell(1)
    return given


def first_names(model: Any, pictures: Sequence[np.ndarray], language: Language) -> list[Any]:
    """Return replies with the name of each picture that is most probable at every step."""
    inputs = [[("image", picture)] for picture in pictures]
    replies: list[Any] = model.replies("text", inputs, language=language, temperature=0.0)
    return replies


def is_unsure(reply: Any) -> bool:
    """Return whether a reply says that its model may not know what it was asked."""
    return any(notice.code == "improbable" for notice in reply.notices)


def measure_unsure(
    model: Any, given: Sequence[GivenNames], foreign: Sequence[np.ndarray]
) -> dict[str, Share]:
    """Return the share of names of which a model is unsure: of right ones, of each group, and of
    foreign pictures in all languages."""
    flags: dict[str, list[bool]] = {"right": []}
    for each in given:
        flags.setdefault(each.item.group, []).append(each.is_unsure)
        if each.answers[0] == each.item.names[each.language].name:
            flags["right"].append(each.is_unsure)
    flags["photographs"] = [
        is_unsure(reply)
        for language in LANGUAGES
        for reply in first_names(model, foreign, language)
    ]
    return {group: share(each) for group, each in flags.items()}


def measure_drawn(
    store: PictureStore,
    everyone: Sequence[HeldOut],
    chosen: Sequence[int],
    drawn: Sequence[np.ndarray],
    codec: Any,
    judge: Judge,
    seed: int = 0,
) -> tuple[dict[str, DrawFigures], np.ndarray]:
    """Return figures of drawings by group, and whether each one's nearest real picture is of its
    concept, bool [n]. The drawings are of the items of `everyone` with the numbers `chosen` [n].

    Pairs are looked for among the real pictures of all pairs, special ones too; unseen concepts
    among those of all unseen concepts.
    """
    items = [everyone[k] for k in chosen]
    training = _training_pictures(store, codec.config.side, np.random.default_rng(seed))
    training_features = judge.features([each.pixels for each in training])
    styles = np.array([each.group for each in training])
    asked_styles = np.array([item.style for item in items])
    back = codec.decode_batch(codec.encode_batch([item.picture for item in items]))
    features = {"drawn": judge.features(drawn), "back": judge.features(back)}
    style_right = {
        name: styles[nearest(vectors, training_features, 1)[:, 0]] == asked_styles
        for name, vectors in features.items()
    }
    real = judge.features([item.picture for item in everyone])
    is_unseen = np.array([item.group == "unseen" for item in everyone])
    groups = np.array([item.group for item in items])
    figures, right = {}, np.zeros(len(items), bool)
    for group in sorted(set(groups.tolist())):
        own, among = np.flatnonzero(groups == group), is_unseen == (group == "unseen")
        gallery = real[among], [everyone[k].concept for k in np.flatnonzero(among).tolist()]
        wanted = [items[k].concept for k in own.tolist()]
        of_drawn, of_back = features["drawn"][own], features["back"][own]
        right[own] = right_at(of_drawn, wanted, *gallery, 1)
        figures[group] = DrawFigures(
            gallery=len(gallery[1]),
            at_1=share(right[own]),
            at_5=share(right_at(of_drawn, wanted, *gallery, TOP)),
            style=share(style_right["drawn"][own]),
            chance_1=round(chance_at(wanted, gallery[1], 1), 5),
            chance_5=round(chance_at(wanted, gallery[1], TOP), 5),
            round_trip_1=share(right_at(of_back, wanted, *gallery, 1)),
            round_trip_style=share(style_right["back"][own]),
            shuffled_1=share(right_at(of_drawn, wanted[1:] + wanted[:1], *gallery, 1)),
        )
    return figures, right


def measure_named(
    items: Sequence[HeldOut], answers: Sequence[tuple[str, ...]], language: Language, rare: set[str]
) -> NameFigures:
    """Return figures of the names that were given to items in a language."""
    names = [item.names[language].name for item in items]
    either = [
        {item.names[language].name, *(set(item.names[language].tags) & rare)} for item in items
    ]
    firsts = [each[0] if each else "" for each in answers]
    return NameFigures(
        exact=share([first == name for first, name in zip(firsts, names, strict=True)]),
        top_5=share([name in each for each, name in zip(answers, names, strict=True)]),
        or_tag=share([first in own for first, own in zip(firsts, either, strict=True)]),
        shuffled=share(
            [first == name for first, name in zip(firsts, names[1:] + names[:1], strict=True)]
        ),
    )


def _training_pictures(
    store: PictureStore, side: int, rng: np.random.Generator
) -> list[GivenPicture]:
    """Return up to GALLERY training pictures, drawn without looking; their styles are their
    groups."""
    numbers = store.of_split("train")
    chosen = rng.choice(numbers, min(GALLERY, len(numbers)), replace=False)
    return list(of_store(store, sorted(chosen.tolist()), side))
