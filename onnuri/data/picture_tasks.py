"""This module draws sequences about named pictures: a name and its picture, a picture and its name,
a picture and the same thing in another style, a name in another language.

It knows no network and no package: names come from the pictures' store, codes from theirs
(`code_store.py`), words for styles from whoever calls. What people write around a name (`PLAIN`,
`STYLED`, `RESTYLE`, `ASKED`) is drawn anew each time, all of it in small letters.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np

from onnuri.config import Config
from onnuri.data.collage.scene import CollageScene
from onnuri.data.collage.words import Names, tell
from onnuri.data.korean import particle
from onnuri.data.picture_store import PictureItem
from onnuri.data.segment import Segment
from onnuri.errors import ConfigError
from onnuri.modality import LANGUAGES, Language, Task, fold, language_of

Words = Mapping[str, Mapping[Language, str]]
"""a style's word in each language, in small letters"""
NO_WORDS: Words = MappingProxyType({})
TOLD = 4000
"""collages from whose sentences a text codec learns"""
ASKING: Task = "describe"
"""what a picture alone asks for"""
KINDS = ("draw", "name", "restyle", "translate", "unconditional", "compose", "caption")
OF_COLLAGES = ("compose", "caption")
"""kinds that need collages"""

PLAIN: Mapping[Language, tuple[str, ...]] = MappingProxyType(
    {
        "ko": ("{n}", "{n}", "{n} 그림", "{n} 그려 줘", "{n}{을} 그려 줘", "{n} 하나 그려줘"),
        "en": ("{n}", "{n}", "a {n}", "a picture of a {n}", "draw {n}", "draw a {n}, please"),
    }
)
"""how a picture is asked for; {n} is its name, {을} the particle that fits it"""
STYLED: Mapping[Language, tuple[str, ...]] = MappingProxyType(
    {
        "ko": ("{s} {n}", "{n}, {s}", "{s} 스타일의 {n}", "{s} 스타일로 {n}{을} 그려 줘"),
        "en": ("{s} {n}", "{n}, {s}", "{n} in {s} style", "draw {n} in {s} style"),
    }
)
"""how a picture in a style is asked for; {s} is the style's word"""
RESTYLE: Mapping[Language, tuple[str, ...]] = MappingProxyType(
    {
        "ko": ("{s} 스타일로", "{s} 스타일로 바꿔 줘", "{s} 스타일로 그려 줘"),
        "en": ("in {s} style", "make it {s}", "redraw it in {s} style"),
    }
)
"""how another style of a given picture is asked for"""
ASKED: Mapping[Language, tuple[str, ...]] = MappingProxyType(
    {
        "ko": ("이게 뭐야?", "이건 뭐야?", "무엇이 보여?", "이 그림을 설명해 줘"),
        "en": ("what is this?", "what do you see?", "describe it", "what's in this picture"),
    }
)
"""how a given picture's name is asked for"""


class PictureMixture(Config):
    """A PictureMixture holds the weights of the kinds of sequence, and of what is in them."""

    draw: float = 0.42
    """a name, then its picture"""
    name: float = 0.38
    """a picture, then its name"""
    restyle: float = 0.06
    """a picture and the word of another style, then the same thing in that"""
    translate: float = 0.06
    """a name or a request in one language, then the name in the other or in the same"""
    unconditional: float = 0.03
    """a picture without input, which classifier-free guidance needs"""
    compose: float = 0.09
    """a sentence about a collage, then the collage"""
    caption: float = 0.09
    """a collage, then a sentence about it"""
    styles: dict[str, float] = dataclasses.field(default_factory=dict)
    """weights of styles' pictures, where they are not 1"""
    tags: float = 0.2
    """share of drawings that are asked for by tags too, or by them alone"""
    asked: float = 0.3
    """share of pictures whose name is asked for in words"""
    pictured: float = 0.3
    """share of pictures to be named that are learned too, as pictures without input are"""
    both: float = 0.8
    """share of names that are followed by the name in the other language: two answers for the cost
    of one picture"""
    answered: float = 0.3
    """share of asked names that answer a question about the picture, of any words"""
    requested: float = 0.5
    """share of translations that begin with a request instead of a name"""
    same: float = 0.25
    """share of translations that stay in the language"""
    styled: float = 0.75
    """share of drawings whose style is asked for, where it has a word"""
    loss_text: float = 5.0
    """weight in the loss of each id of a text, where a picture's have 1"""
    source_loss: float = 0.1
    """weight in the loss of inputs, relative to targets"""


class Pictures(Protocol):
    """A Pictures says what pictures are, by their numbers (`picture_store.PictureStore`)."""

    items: list[PictureItem]

    def of_split(self, split: str) -> np.ndarray:
        """Return the numbers int64 [n] of the pictures of a split."""


class PictureCodes(Protocol):
    """A PictureCodes gives codes int64 [K] of views of pictures (`code_store.CodeStore`)."""

    def drawn(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Return the codes of a view that the model is to draw."""

    def seen(self, number: int, rng: np.random.Generator) -> np.ndarray:
        """Return the codes of a view that the model is shown."""


class Collages(Protocol):
    """A Collages holds collages' scenes, their codes, and names of what they show
    (`collage.store.CollageStore`)."""

    scenes: list[CollageScene]
    codes: np.ndarray
    """[N, K]"""
    names: Names


class ItemNames(NamedTuple):
    """A ItemNames holds an item's names: by language, the name and the other words for it."""

    name: str
    tags: tuple[str, ...]


class PictureTasks:
    """A PictureTasks draws sequences about some pictures of a store; `text` encodes sentences, and
    without it they have no codes."""

    def __init__(
        self,
        mixture: PictureMixture,
        store: Pictures,
        codes: PictureCodes,
        text: Any,
        words: Words = NO_WORDS,
        numbers: Sequence[int] | None = None,
        collages: Collages | None = None,
    ) -> None:
        """Draw from the pictures of `numbers`; None: from those that are trained on. Without
        collages there are no sequences about them. Raises ConfigError if no picture has a name."""
        self.mixture, self.store, self.codes, self.text = mixture, store, codes, text
        self.collages = collages if collages and collages.scenes else None
        self.words = words
        all_numbers = store.of_split("train") if numbers is None else numbers
        self.names = {
            int(k): names for k in all_numbers if (names := names_of(store.items[int(k)]))
        }
        if not self.names:
            raise ConfigError("the pictures", "have no names to learn", "give a table with some")
        self.numbers = np.array(list(self.names))
        weights = np.array(
            [mixture.styles.get(store.items[int(k)].style, 1.0) for k in self.numbers]
        )
        self.chances = weights / weights.sum()
        self.of_concept: dict[str, list[int]] = defaultdict(list)
        for number in self.names:
            self.of_concept[store.items[number].concept].append(number)
        left_out = () if self.collages else OF_COLLAGES
        shares = np.array([0.0 if kind in left_out else getattr(mixture, kind) for kind in KINDS])
        self.shares = shares / shares.sum()
        self.encode = functools.lru_cache(maxsize=200_000)(text.encode if text else _no_codes)

    def sample(self, rng: np.random.Generator) -> list[Segment]:
        """Return the segments of one random sequence."""
        kind = KINDS[int(rng.choice(len(KINDS), p=self.shares))]
        number = int(rng.choice(self.numbers, p=self.chances))
        segments: list[Segment] = getattr(self, f"_{kind}")(number, rng)
        return segments

    def _draw(self, number: int, rng: np.random.Generator) -> list[Segment]:
        """Return what asks for a picture, and the picture."""
        language = self._language(number, rng)
        sentence = self.request(number, language, rng)
        return [self._text(sentence, language, False), self._picture(number, rng, True)]

    def _name(self, number: int, rng: np.random.Generator) -> list[Segment]:
        """Return a picture, sometimes a question, and the picture's name in one language or in
        both."""
        names = self.names[number]
        language = self._language(number, rng)
        asked, task = [], ASKING
        if rng.random() < self.mixture.asked:
            asked = [self._text(_choice(rng, ASKED[language]), language, False)]
            task = "answer" if rng.random() < self.mixture.answered else ASKING
        told = [language]
        if rng.random() < self.mixture.both:
            told += [other for other in names if other != language]
        answers = [self._text(names[each].name, each, True, task) for each in told]
        shown = self._picture(number, rng, rng.random() < self.mixture.pictured)
        return [shown, *asked, *answers]

    def _restyle(self, number: int, rng: np.random.Generator) -> list[Segment]:
        """Return a picture, the word of another style, and a picture in that; a drawing where there
        is no other."""
        item = self.store.items[number]
        others = [
            other
            for other in self.of_concept[item.concept]
            if self.store.items[other].style != item.style
            and self.store.items[other].style in self.words
        ]
        if not others:
            return self._draw(number, rng)
        other = int(rng.choice(others))
        language = LANGUAGES[int(rng.integers(2))]
        word = self.words[self.store.items[other].style][language]
        sentence = _choice(rng, RESTYLE[language]).format(s=word)
        return [
            self._picture(number, rng, False),
            self._text(sentence, language, False),
            self._picture(other, rng, True, "edit"),
        ]

    def _translate(self, number: int, rng: np.random.Generator) -> list[Segment]:
        """Return a name, or a request for its picture, and the name in the other language, or in
        the same; a drawing where it has but one."""
        names = self.names[number]
        if len(names) < 2:
            return self._draw(number, rng)
        first, second = rng.permutation(LANGUAGES).tolist()
        asked = names[first].name
        if rng.random() < self.mixture.requested:
            asked = _choice(rng, PLAIN[first]).format(n=asked, 을=particle(asked, "을/를"))
        task: Task = "translate"
        if rng.random() < self.mixture.same:
            second, task = first, "describe"
        return [self._text(asked, first, False), self._text(names[second].name, second, True, task)]

    def _unconditional(self, number: int, rng: np.random.Generator) -> list[Segment]:
        """Return a picture alone."""
        return [self._picture(number, rng, True)]

    def _compose(self, _: int, rng: np.random.Generator) -> list[Segment]:
        """Return a sentence about a collage, and the collage."""
        sentence, language, codes = self._collage(rng)
        return [self._text(sentence, language, False), Segment("image", codes, None, 1.0)]

    def _caption(self, _: int, rng: np.random.Generator) -> list[Segment]:
        """Return a collage and a sentence about it."""
        sentence, language, codes = self._collage(rng)
        return [
            Segment("image", codes, None, self.mixture.source_loss),
            self._text(sentence, language, True, ASKING),
        ]

    def _collage(self, rng: np.random.Generator) -> tuple[str, Language, np.ndarray]:
        """Return a sentence about a random collage, its language, and the codes [K]."""
        assert self.collages
        k, language = int(rng.integers(len(self.collages.scenes))), LANGUAGES[int(rng.integers(2))]
        sentence = tell(self.collages.scenes[k], self.collages.names, language, rng)
        return sentence, language, np.asarray(self.collages.codes[k], np.int64)

    def request(self, number: int, language: Language, rng: np.random.Generator) -> str:
        """Return a random sentence that asks for a picture by its name, tags and style."""
        name, tags = self.names[number][language]
        said = name
        if tags and rng.random() < self.mixture.tags:
            some = rng.permutation(tags)[: int(rng.integers(1, 4))].tolist()
            said = ", ".join(some if len(some) > 1 and rng.random() < 0.4 else [name, *some])
        word = self.words.get(self.store.items[number].style, {}).get(language)
        if word and rng.random() < self.mixture.styled:
            sentence = _choice(rng, STYLED[language])
        else:
            sentence = _choice(rng, PLAIN[language])
        return sentence.format(s=word, n=said, 을=particle(said, "을/를"))

    def _language(self, number: int, rng: np.random.Generator) -> Language:
        """Return one of the languages in which a picture has a name."""
        return list(self.names[number])[int(rng.integers(len(self.names[number])))]

    def _text(
        self, sentence: str, language: Language, is_target: bool, task: Task | None = None
    ) -> Segment:
        """Return the segment of a sentence."""
        weight = self.mixture.loss_text * (1.0 if is_target else self.mixture.source_loss)
        return Segment("text", self.encode(sentence), language, weight, task=task)

    def _picture(
        self, number: int, rng: np.random.Generator, is_target: bool, task: Task | None = None
    ) -> Segment:
        """Return the segment of a view of a picture: one to draw, or one to be shown."""
        codes = self.codes.drawn(number, rng) if is_target else self.codes.seen(number, rng)
        weight = 1.0 if is_target else self.mixture.source_loss
        return Segment("image", codes, None, weight, task=task)


def names_of(item: PictureItem) -> dict[Language, ItemNames]:
    """Return an item's name and other words in each language that it has a name in, folded to
    small letters and single spaces."""
    by_language: dict[Language, list[str]] = {}
    for text in item.names:
        folded = fold(text)
        words = by_language.setdefault(language_of(folded), [])
        if folded and folded not in words:
            words.append(folded)
    return {
        language: ItemNames(words[0], tuple(words[1:]))
        for language, words in sorted(by_language.items())
        if words
    }


def sentences(tasks: PictureTasks, rounds: int = 2) -> list[str]:
    """Return sentences from which a text codec learns its words: each picture's names, tags and
    requests for it."""
    rng = np.random.default_rng(11)
    texts = [text for asked in ASKED.values() for text in asked]
    for word in tasks.words.values():
        for language, styled in word.items():
            texts += [sentence.format(s=styled) for sentence in RESTYLE[language]]
    if tasks.collages:
        for scene in tasks.collages.scenes[:TOLD]:
            texts += [tell(scene, tasks.collages.names, language, rng) for language in LANGUAGES]
    for number, names in tasks.names.items():
        for language, (name, tags) in names.items():
            texts += [name, name, *tags]
            texts += [tasks.request(number, language, rng) for _ in range(rounds)]
    return texts


def _no_codes(sentence: str) -> np.ndarray:
    """Return no codes, where there is no text codec yet."""
    return np.zeros(0, np.int64)


def _choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Return one of some sentences."""
    return options[int(rng.integers(len(options)))]
