"""Which sequences are made of a scene, by weight: pairs, chains, questions, edits, speech. Knows no network.

A sequence is a list of segments, each with a weight in the loss. What a still medium opens goes on with what a still
can know: a moving scene's picture is never followed by its motion. Speech meets words only: a given sound is followed by
its transcript, and the model's own speech follows the sentence that it speaks, with every word before its sound. So all
that must be learned of sound is to hear (any voice) and to speak (one voice); the rest is knowledge of words.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from onnuri import config
from onnuri.data.table import CAPTIONS, Table
from onnuri.modality import LANGUAGES, MEDIA, TABLE, Language, Medium

STILL: tuple[Medium, ...] = tuple(m for m in MEDIA if "motion" not in TABLE[m].carries)
SIGHTS: tuple[Medium, ...] = tuple(m for m in MEDIA if TABLE[m].grid)
"""media that are seen"""
SILENT: tuple[Medium, ...] = tuple(m for m in MEDIA if m != "audio")
KINDS = ("draw", "describe", "convert", "chain", "alone", "translate", "ask", "edit", "compare", "hear", "speak")


@dataclasses.dataclass(frozen=True)
class Words:
    """The sentence that a sound speaks, and how many of the sound's codes each of its words has."""

    codes: np.ndarray
    beats: np.ndarray


@dataclasses.dataclass(frozen=True)
class Segment:
    """One item in a sequence."""

    medium: Medium
    codes: np.ndarray
    language: Language | None
    weight: float
    """in the loss, of its codes and its closing token"""
    words: Words | None = None
    """of the model's own speech"""


class MixConfig(config.Config):
    """Weights of the kinds of sequence, and of the media within them."""

    draw: float = 0.33
    """from words to what is seen"""
    describe: float = 0.22
    """from what is seen to words"""
    convert: float = 0.07
    """from one thing that is seen to another: learned soonest"""
    chain: float = 0.05
    """three or four media of one scene"""
    alone: float = 0.04
    """a medium without a source: what guidance is measured against"""
    translate: float = 0.05
    ask: float = 0.06
    edit: float = 0.08
    compare: float = 0.01
    """two pictures or shapes and the question which has more objects"""
    hear: float = 0.05
    speak: float = 0.06
    loss_text: float = 2.0
    """weight in the loss of a medium's items, wanted or given; text is also what answers and instructions are in"""
    loss_image: float = 1.0
    loss_audio: float = 0.8
    loss_video: float = 1.0
    loss_shape: float = 1.0
    source_loss: float = 0.15
    """weight in the loss of what is given"""
    soft: bool = False
    """whether targets whose codes are in order (places, sides) are spread over their neighbours"""
    loss_place: float = 1.0
    """weight in the loss of codes that are in order"""
    single: float = 1.0
    """share of the scenes of one object that are drawn from: two and three have more to learn"""
    video: float = 1 / 3
    """share of video among what is seen"""
    given_sound: float = 0.0
    """weight in the loss of a given sound: nobody asks for voices other than the model's own"""


class Mixer:
    """Draws sequences from a table."""

    def __init__(self, settings: MixConfig, table: Table) -> None:
        self.settings, self.table = settings, table
        every = _thinned(table, settings.single)
        self.filmed, self.spoken = (np.intersect1d(table.having(c), every) for c in ("video", "voice_ko"))
        self.asked = table.having("say_ko")
        self.filmed_still = np.intersect1d(self.filmed, table.having("still"))
        self.edited = {m: np.intersect1d(table.having(f"edit_{m}"), self.filmed if m == "video" else every) for m in SIGHTS}
        self.rows = {m: self.filmed if m == "video" else every for m in SILENT}
        self.shares = _shares([getattr(settings, k) for k in KINDS])
        self.sights = _shares([settings.video if m == "video" else (1 - settings.video) / (len(SIGHTS) - 1) for m in SIGHTS])

    def draw(self, rng: np.random.Generator) -> list[Segment]:
        """One sequence's segments."""
        kind = KINDS[int(rng.choice(len(KINDS), p=self.shares))]
        made: list[Segment] = getattr(self, f"_{kind}")(rng)
        return [dataclasses.replace(s, weight=s.weight * getattr(self.settings, f"loss_{s.medium}")) for s in made]

    def _draw(self, rng: np.random.Generator) -> list[Segment]:
        return self._of(rng, ["text", self._sight(rng)])

    def _describe(self, rng: np.random.Generator) -> list[Segment]:
        return self._of(rng, [self._sight(rng), "text"])

    def _sight(self, rng: np.random.Generator) -> Medium:
        return SIGHTS[int(rng.choice(len(SIGHTS), p=self.sights))]

    def _convert(self, rng: np.random.Generator) -> list[Segment]:
        first, second = rng.permutation(len(SIGHTS))[:2]
        return self._of(rng, [SIGHTS[first], SIGHTS[second]])

    def _chain(self, rng: np.random.Generator) -> list[Segment]:
        return self._of(rng, [SILENT[int(k)] for k in rng.permutation(len(SILENT))[: int(rng.integers(3, 5))]])

    def _alone(self, rng: np.random.Generator) -> list[Segment]:
        return self._of(rng, [_one(rng, SILENT)], given=False)

    def _of(self, rng: np.random.Generator, media: list[Medium], given: bool = True) -> list[Segment]:
        """The media of one scene, the first as given and the others as wanted."""
        still = media[0] in STILL
        rows = self.rows["text"] if "video" not in media else self.filmed_still if still else self.filmed
        row = int(rng.choice(rows))
        return [self._item(rng, row, m, still and k > 0, given and k == 0) for k, m in enumerate(media)]

    def _item(self, rng: np.random.Generator, row: int, medium: Medium, still: bool, given: bool) -> Segment:
        """An item of a scene: what is given may leave a size out, what is wanted says all that can be known."""
        weight = self.settings.source_loss if given else 1.0
        if medium != "text":
            return Segment(medium, self.table.get(row, medium), None, weight)
        language: Language = _one(rng, LANGUAGES)
        which = "s" if still else int(rng.integers(CAPTIONS if given else CAPTIONS - 1))
        return Segment(medium, self.table.get(row, f"{language}_{which}"), language, weight)

    def _words(self, row: int, column: str, language: Language, weight: float) -> Segment:
        return Segment("text", self.table.get(row, column), language, weight)

    def _translate(self, rng: np.random.Generator) -> list[Segment]:
        """A whole sentence and the same in the other language."""
        row, first = int(rng.integers(self.table.rows)), int(rng.integers(2))
        which = [int(rng.integers(CAPTIONS - 1)) for _ in range(2)]
        one, other = LANGUAGES[first], LANGUAGES[1 - first]
        return [self._words(row, f"{one}_{which[0]}", one, self.settings.source_loss),
                self._words(row, f"{other}_{which[1]}", other, 1.0)]

    def _hear(self, rng: np.random.Generator) -> list[Segment]:
        """A sound in any voice and its transcript, whose language nothing tells."""
        ask = rng.random() < 0.15
        row, language = int(rng.choice(self.asked if ask else self.spoken)), _one(rng, LANGUAGES)
        column, words = ("say", f"ask_{language}") if ask else ("audio", f"{language}_0")
        return [Segment("audio", self.table.get(row, f"{column}_{language}"), None, self.settings.given_sound),
                self._words(row, words, language, 1.0)]

    def _speak(self, rng: np.random.Generator) -> list[Segment]:
        """A sentence and its sound in the model's own voice."""
        reply = rng.random() < 0.15
        row, language = int(rng.choice(self.asked if reply else self.spoken)), _one(rng, LANGUAGES)
        sound, beats, words = ("reply", "tap", f"tell_{language}") if reply else ("voice", "beat", f"{language}_0")
        sentence = self._words(row, words, language, self.settings.source_loss)
        return [sentence, Segment("audio", self.table.get(row, f"{sound}_{language}"), language, 1.0,
                                  Words(sentence.codes, self.table.get(row, f"{beats}_{language}")))]

    def _ask(self, rng: np.random.Generator) -> list[Segment]:
        """Something of a scene, a question, the answer."""
        about = _one(rng, SILENT)
        row, language = int(rng.choice(self.rows[about])), _one(rng, LANGUAGES)
        given = self.settings.source_loss
        context = self._words(row, f"{language}_{int(rng.integers(CAPTIONS - 1))}", language, given) if about == "text" \
            else Segment(about, self.table.get(row, about), None, given)
        return [context, self._words(row, f"ask_{language}", language, given),
                self._words(row, f"tell_{language}", language, 1.0)]

    def _compare(self, rng: np.random.Generator) -> list[Segment]:
        """Two still media of different scenes, the question which has more objects, the answer."""
        rows = [int(k) for k in rng.integers(self.table.rows, size=2)]
        language: Language = _one(rng, LANGUAGES)
        medium: Medium = _one(rng, STILL)
        a, b = (int(self.table.get(row, "count")[0]) for row in rows)
        answer = 0 if a > b else 1 if b > a else 2
        given = self.settings.source_loss
        return [*(Segment(medium, self.table.get(row, medium), None, given) for row in rows),
                Segment("text", self.table.phrase(f"which_{language}"), language, given),
                Segment("text", self.table.phrase(f"more{answer}_{language}"), language, 1.0)]

    def _edit(self, rng: np.random.Generator) -> list[Segment]:
        """A medium, an instruction, the medium as it then is."""
        medium = self._sight(rng)
        row, language = int(rng.choice(self.edited[medium])), _one(rng, LANGUAGES)
        given = self.settings.source_loss
        return [Segment(medium, self.table.get(row, medium), None, given),
                self._words(row, f"edit_{language}", language, given),
                Segment(medium, self.table.get(row, f"edit_{medium}"), None, 1.0)]


def _thinned(table: Table, single: float) -> np.ndarray:
    """Rows, of those with one object only a share, always the same."""
    rows, counts = np.arange(table.rows), table.column("count")
    return rows[(counts > 1) | (np.random.default_rng(0).random(table.rows) < single)]


def _one(rng: np.random.Generator, among: tuple[Any, ...]) -> Any:
    return among[int(rng.integers(len(among)))]


def _shares(weights: list[float]) -> np.ndarray:
    values = np.asarray(weights, dtype=float)
    return values / values.sum()
