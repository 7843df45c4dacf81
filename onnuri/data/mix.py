"""Which sequences are made of a scene: pairs, chains, translations, questions, edits, by weight. Knows no network.

A sequence is a list of segments, each with a weight in the loss. What a still medium opens goes on with what a still
can know: a moving scene's picture is never followed by its motion. Speech stands beside its words: a given sound, whose
language nothing tells, is followed by its transcript, and a wanted one follows the sentence that it speaks. So all that
a model must learn of sound is to hear (any voice) and to speak (its own); the rest of its knowledge is of words.
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
    compare: float = 0.01
    """two pictures or shapes and the question which has more objects"""
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
    loss_text: float = 2.0
    """weight in the loss of a medium's items, wanted or given; text is also what answers and instructions are in"""
    loss_image: float = 1.0
    loss_audio: float = 1.2
    loss_video: float = 1.0
    loss_shape: float = 1.0
    source_loss: float = 0.15
    """weight in the loss of what is given"""
    given_sound: float = 0.0
    """weight in the loss of a given sound: nobody asks for voices other than the model's own"""


class Mixer:
    """Draws sequences from a table."""

    def __init__(self, settings: MixConfig, table: Table) -> None:
        self.settings, self.table = settings, table
        self.still_rows, self.edited = table.having("still"), table.having("edit_video")
        self.still_edited, self.spoken = table.having("edit_image"), table.having("say_ko")
        kinds = ("pair", "chain", "alone", "translate_text", "translate_audio", "ask", "edit", "compare")
        self.kinds = kinds, _shares([getattr(settings, k) for k in kinds])
        self.sources = _shares([getattr(settings, f"source_{m}") for m in MEDIA])
        self.targets = np.array([getattr(settings, f"target_{m}") for m in MEDIA])

    def draw(self, rng: np.random.Generator) -> list[Segment]:
        """One sequence's segments."""
        kind = str(rng.choice(self.kinds[0], p=self.kinds[1]))
        made: list[Segment] = getattr(self, f"_{kind}")(rng)
        return [dataclasses.replace(s, weight=s.weight * getattr(self.settings, f"loss_{s.medium}")) for s in made]

    def _pair(self, rng: np.random.Generator) -> list[Segment]:
        source = int(rng.choice(len(MEDIA), p=self.sources))
        weights = self.targets * (np.arange(len(MEDIA)) != source)
        return self._of(rng, [MEDIA[source], MEDIA[int(rng.choice(len(MEDIA), p=_shares(list(weights))))]])

    def _chain(self, rng: np.random.Generator) -> list[Segment]:
        silent = [m for m in MEDIA if m != "audio"]
        return self._of(rng, [silent[int(k)] for k in rng.permutation(len(silent))[: int(rng.integers(3, 5))]])

    def _alone(self, rng: np.random.Generator) -> list[Segment]:
        medium = MEDIA[int(rng.integers(len(MEDIA)))]
        return [self._item(rng, int(rng.integers(self.table.rows)), medium, None, False, 1.0)]

    def _of(self, rng: np.random.Generator, media: list[Medium]) -> list[Segment]:
        """The media of one scene, the first as given and the others as wanted."""
        from_still = media[0] in STILL
        unknown = from_still and any(m in ("audio", "video") for m in media)
        row = int(rng.choice(self.still_rows)) if unknown else int(rng.integers(self.table.rows))
        language: Language = LANGUAGES[int(rng.integers(2))]
        made: list[Segment] = []
        for k, medium in enumerate(media):
            own = language if rng.random() < 0.75 else LANGUAGES[int(rng.integers(2))]
            read_aloud = "audio" in media[k + 1 :]
            weight = 1.0 if k else self.settings.source_loss
            if medium == "audio":
                made = [*made, *self._heard(row, own)] if k == 0 else self._spoken(made, row, own)
            elif medium == "text" and made and made[-1].medium == "text" and made[-1].language == own:
                continue  # the transcript is the sentence
            else:
                made.append(self._item(rng, row, medium, own, from_still, weight, sentence=0 if read_aloud else None,
                                       given=k == 0))
        return made

    def _heard(self, row: int, language: Language, what: str = "audio") -> list[Segment]:
        """A given sound and its transcript."""
        words = f"{language}_0" if what == "audio" else f"ask_{language}"
        return [Segment("audio", self.table.get(row, f"{what}_{language}"), None, self.settings.given_sound),
                Segment("text", self.table.get(row, words), language, 1.0)]

    def _spoken(self, before: list[Segment], row: int, language: Language) -> list[Segment]:
        """What came before, the sentence unless it stands there, and its sound."""
        sentence = Segment("text", self.table.get(row, f"{language}_0"), language, 1.0)
        stands = before and before[-1].medium == "text" and before[-1].language == language
        return [*before, *([] if stands else [sentence]),
                Segment("audio", self.table.get(row, f"voice_{language}"), language, 1.0)]

    def _item(self, rng: np.random.Generator, row: int, medium: Medium, language: Language | None, still: bool,
              weight: float, sentence: int | None = None, given: bool = False) -> Segment:
        """An item of a scene: what is given may leave a size out, what is wanted says all that can be known."""
        if TABLE[medium].grid:
            return Segment(medium, self.table.get(row, medium), None, weight)
        language = language or LANGUAGES[int(rng.integers(2))]
        if medium == "audio":
            return Segment(medium, self.table.get(row, f"voice_{language}"), language, weight)
        which = sentence if sentence is not None else int(rng.integers(CAPTIONS if given else CAPTIONS - 1))
        return Segment(medium, self.table.get(row, f"{language}_{'s' if still else which}"), language, weight)

    def _translate_text(self, rng: np.random.Generator) -> list[Segment]:
        row, first = int(rng.integers(self.table.rows)), int(rng.integers(2))
        return [self._item(rng, row, "text", LANGUAGES[first], False, self.settings.source_loss),
                self._item(rng, row, "text", LANGUAGES[1 - first], False, 1.0)]

    def _translate_audio(self, rng: np.random.Generator) -> list[Segment]:
        row, first = int(rng.integers(self.table.rows)), int(rng.integers(2))
        return self._spoken(self._heard(row, LANGUAGES[first]), row, LANGUAGES[1 - first])

    def _ask(self, rng: np.random.Generator) -> list[Segment]:
        """Something of a scene, a question in text or speech, the answer."""
        context = MEDIA[int(rng.integers(len(MEDIA)))]
        aloud = rng.random() < 0.25
        row = int(rng.choice(self.spoken)) if aloud else int(rng.integers(self.table.rows))
        language: Language = LANGUAGES[int(rng.integers(2))]
        given = self.settings.source_loss
        about = self._heard(row, language) if context == "audio" else \
            [self._item(rng, row, context, language, False, given, sentence=0)]
        asked = self._heard(row, language, "say") if aloud else \
            [Segment("text", self.table.get(row, f"ask_{language}"), language, given)]
        told = [Segment("text", self.table.get(row, f"tell_{language}"), language, 1.0)]
        if aloud and rng.random() < 0.5:
            told.append(Segment("audio", self.table.get(row, f"reply_{language}"), language, 1.0))
        return [*about, *asked, *told]

    def _compare(self, rng: np.random.Generator) -> list[Segment]:
        """Two still media of different scenes, the question which has more objects, the answer."""
        rows = [int(k) for k in rng.integers(self.table.rows, size=2)]
        language: Language = LANGUAGES[int(rng.integers(2))]
        medium: Medium = ("image", "shape")[int(rng.integers(2))]
        a, b = (int(self.table.get(row, "count")[0]) for row in rows)
        answer = 0 if a > b else 1 if b > a else 2
        given = self.settings.source_loss
        return [*(Segment(medium, self.table.get(row, medium), None, given) for row in rows),
                Segment("text", self.table.phrase(f"which_{language}"), language, given),
                Segment("text", self.table.phrase(f"more{answer}_{language}"), language, 1.0)]

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
