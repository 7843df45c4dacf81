"""Which sequences are made of a scene: pairs, chains, translations, questions, edits, by weight. Knows no network.

A sequence is a list of segments, each with a weight in the loss; what a still medium opens goes on with what a still
can know: a moving scene's picture is never followed by its motion.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from onnuri import config
from onnuri.data.table import CAPTIONS, Table
from onnuri.modality import LANGUAGES, MEDIA, TABLE, Language, Medium

STILL: tuple[Medium, ...] = tuple(m for m in MEDIA if "motion" not in TABLE[m].carries)


@dataclasses.dataclass(frozen=True)
class Segment:
    """One item in a sequence."""

    medium: Medium
    codes: np.ndarray
    language: Language | None
    weight: float
    """in the loss, of its codes and its closing token"""


class MixConfig(config.Config):
    """Weights of the kinds of sequence, and of the media within them."""

    pair: float = 0.60
    chain: float = 0.14
    alone: float = 0.06
    """a medium without a source: what guidance is measured against"""
    translate_text: float = 0.02
    translate_audio: float = 0.05
    ask: float = 0.04
    edit: float = 0.09
    source_text: float = 1.0
    source_image: float = 1.0
    source_audio: float = 1.0
    source_video: float = 0.8
    source_shape: float = 1.0
    target_text: float = 0.9
    target_image: float = 1.2
    target_audio: float = 1.0
    target_video: float = 1.2
    target_shape: float = 1.2
    source_loss: float = 0.15
    """weight in the loss of what is given"""


class Mixer:
    """Draws sequences from a table."""

    def __init__(self, settings: MixConfig, table: Table) -> None:
        self.settings, self.table = settings, table
        self.still_rows, self.edited = table.having("still"), table.having("edit_video")
        self.still_edited, self.spoken = table.having("edit_image"), table.having("say_ko")
        kinds = ("pair", "chain", "alone", "translate_text", "translate_audio", "ask", "edit")
        self.kinds = kinds, _shares([getattr(settings, k) for k in kinds])
        self.sources = _shares([getattr(settings, f"source_{m}") for m in MEDIA])
        self.targets = np.array([getattr(settings, f"target_{m}") for m in MEDIA])

    def draw(self, rng: np.random.Generator) -> list[Segment]:
        """One sequence's segments."""
        kind = str(rng.choice(self.kinds[0], p=self.kinds[1]))
        return getattr(self, f"_{kind}")(rng)  # type: ignore[no-any-return]

    def _pair(self, rng: np.random.Generator) -> list[Segment]:
        source = int(rng.choice(len(MEDIA), p=self.sources))
        weights = self.targets * (np.arange(len(MEDIA)) != source)
        return self._of(rng, [MEDIA[source], MEDIA[int(rng.choice(len(MEDIA), p=_shares(list(weights))))]])

    def _chain(self, rng: np.random.Generator) -> list[Segment]:
        count = int(rng.integers(3, len(MEDIA) + 1))
        return self._of(rng, [MEDIA[int(k)] for k in rng.permutation(len(MEDIA))[:count]])

    def _alone(self, rng: np.random.Generator) -> list[Segment]:
        medium = MEDIA[int(rng.integers(len(MEDIA)))]
        return [self._item(rng, int(rng.integers(self.table.rows)), medium, None, False, 1.0)]

    def _of(self, rng: np.random.Generator, media: list[Medium]) -> list[Segment]:
        """The media of one scene, the first as given and the others as wanted."""
        from_still = media[0] in STILL
        unknown = from_still and any(m in ("audio", "video") for m in media)
        row = int(rng.choice(self.still_rows)) if unknown else int(rng.integers(self.table.rows))
        language: Language = LANGUAGES[int(rng.integers(2))]
        made = []
        for k, medium in enumerate(media):
            own = language if rng.random() < 0.75 else LANGUAGES[int(rng.integers(2))]
            paired = "text" in media and "audio" in media and own == language
            made.append(self._item(rng, row, medium, own, from_still, 1.0 if k else self.settings.source_loss,
                                   sentence=0 if paired else None, given=k == 0))
        return made

    def _item(self, rng: np.random.Generator, row: int, medium: Medium, language: Language | None, still: bool,
              weight: float, sentence: int | None = None, given: bool = False) -> Segment:
        """An item of a scene: what is given may leave a size out, what is wanted says all that can be known."""
        if TABLE[medium].grid:
            return Segment(medium, self.table.get(row, medium), None, weight)
        language = language or LANGUAGES[int(rng.integers(2))]
        if medium == "audio":
            return Segment(medium, self.table.get(row, f"audio_{language}"), language, weight)
        which = sentence if sentence is not None else int(rng.integers(CAPTIONS if given else CAPTIONS - 1))
        return Segment(medium, self.table.get(row, f"{language}_{'s' if still else which}"), language, weight)

    def _translate_text(self, rng: np.random.Generator) -> list[Segment]:
        return self._translate(rng, "text")

    def _translate_audio(self, rng: np.random.Generator) -> list[Segment]:
        return self._translate(rng, "audio")

    def _translate(self, rng: np.random.Generator, medium: Medium) -> list[Segment]:
        row, first = int(rng.integers(self.table.rows)), int(rng.integers(2))
        return [self._item(rng, row, medium, LANGUAGES[first], False, self.settings.source_loss),
                self._item(rng, row, medium, LANGUAGES[1 - first], False, 1.0)]

    def _ask(self, rng: np.random.Generator) -> list[Segment]:
        """Something of a scene, a question in text or speech, the answer."""
        context = MEDIA[int(rng.integers(len(MEDIA)))]
        aloud = rng.random() < 0.25
        row = int(rng.choice(self.spoken)) if aloud else int(rng.integers(self.table.rows))
        language: Language = LANGUAGES[int(rng.integers(2))]
        given = self.settings.source_loss
        asked = Segment("audio", self.table.get(row, f"say_{language}"), language, given) if aloud else \
            Segment("text", self.table.get(row, f"ask_{language}"), language, given)
        about = self._item(rng, row, context, language, False, given, sentence=0)
        return [about, asked, Segment("text", self.table.get(row, f"tell_{language}"), language, 1.0)]

    def _edit(self, rng: np.random.Generator) -> list[Segment]:
        """A medium, an instruction, the medium as it then is."""
        medium: Medium = ("image", "video", "shape")[int(rng.integers(3))]
        row = int(rng.choice(self.edited if medium == "video" else self.still_edited))
        language: Language = LANGUAGES[int(rng.integers(2))]
        given = self.settings.source_loss
        return [Segment(medium, self.table.get(row, medium), None, given),
                Segment("text", self.table.get(row, f"edit_{language}"), language, given),
                Segment(medium, self.table.get(row, f"edit_{medium}"), None, 1.0)]


def _shares(weights: list[float]) -> np.ndarray:
    values = np.asarray(weights, dtype=float)
    return values / values.sum()
