"""This module samples training sequences from a token table, by kind: pairs, chains, questions,
edits, speech. It knows no network.

A sequence is a list of segments, each with a weight in the loss. With `people`, an input sentence
is worded as people word it, drawn anew from the scene's record each time, while an answer is worded
as the world words it. A sequence that starts with a still modality continues only with what a still
can show: a moving scene's picture is never followed by its motion. Speech meets words only: a given
sound is followed by its transcript, and the model's own speech follows the sentence that it speaks,
with every word before its sound. So all that must be learned of sound is to hear (any voice) and to
speak (one voice); the rest is knowledge of words.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnuri import config
from onnuri.codecs.spec import SlotLayout
from onnuri.data.segment import Segment, SpokenWords
from onnuri.modality import LANGUAGES, MEDIA, Language, Modality, Task
from onnuri.toyworld import wordings
from onnuri.toyworld.attributes import STATIC_MODALITIES
from onnuri.toyworld.data.token_store import CAPTIONS, TokenStore, edit_of
from onnuri.toyworld.front_end.spelling import COMMON, REAL
from onnuri.toyworld.front_end.toy import ToyFrontEnd
from onnuri.toyworld.scene import HELD_OUT, Scene
from onnuri.toyworld.tasks import COMPARISONS

VISUAL_MODALITIES: tuple[Modality, ...] = ("image", "video", "shape")
NOT_AUDIO: tuple[Modality, ...] = tuple(m for m in MEDIA if m != "audio")
KINDS = (
    "text_to_x",
    "caption",
    "convert",
    "chain",
    "unconditional",
    "translate",
    "ask",
    "edit",
    "compare",
    "asr",
    "tts",
    "double",
)


class MixtureWeights(config.Config):
    """A MixtureWeights holds the weights of the kinds of sequence, and of the modalities within
    them."""

    text_to_x: float = 0.33
    """a sentence, then a picture, video or shape"""
    caption: float = 0.22
    """a picture, video or shape, then a sentence"""
    convert: float = 0.07
    """one visual modality, then another; learned soonest"""
    chain: float = 0.05
    """one scene in three or four modalities"""
    unconditional: float = 0.04
    """one modality without input, which classifier-free guidance needs"""
    translate: float = 0.05
    ask: float = 0.06
    edit: float = 0.08
    compare: float = 0.01
    """two pictures or shapes and the question which has more objects"""
    asr: float = 0.05
    tts: float = 0.06
    double: float = 0.0
    """a sentence, then two or three things that are alike; as no scene has such things, they are
    made from the codes of a scene of as many"""
    people: float = 0.0
    """share of the input sentences that are in the wordings of people, drawn anew each time; the
    rest are the world's own"""
    slips: float = 0.0
    """share of the input sentences of people with a slip of the keyboard that the text front end
    did not mend"""
    noise: float = 0.0
    """share of the input sentences of people with up to three words that mean nothing here, as
    people say more than is asked"""
    loss_text: float = 2.0
    """weight in the loss of a modality's items, inputs and targets; text is also what answers and
    instructions are in"""
    loss_image: float = 1.0
    loss_audio: float = 0.8
    loss_video: float = 1.0
    loss_shape: float = 1.0
    source_loss: float = 0.15
    """weight in the loss of input items, relative to targets"""
    soft: bool = False
    """whether the targets of ordinal codes (places, sides) are smoothed over neighbouring codes"""
    loss_place: float = 1.0
    """weight in the loss of ordinal codes"""
    single: float = 1.0
    """share of the scenes of one object that are used: those of two and three teach more"""
    video: float = 1 / 3
    """share of video among visual items"""
    given_sound: float = 0.0
    """weight in the loss of an input sound: nobody asks for voices other than the model's own"""


class TaskSampler:
    """A TaskSampler draws training sequences from a token table; `text` encodes sentences, and
    `layouts` describe the codes of pictures and shapes."""

    def __init__(
        self,
        settings: MixtureWeights,
        store: TokenStore,
        text: Any,
        front_end: ToyFrontEnd,
        layouts: Mapping[str, SlotLayout],
    ) -> None:
        self.settings, self.store, self.layouts = settings, store, layouts
        self.text, self.front_end = text, front_end
        every = _rows_used(store, settings.single)
        self.has_video, self.has_speech = (
            np.intersect1d(store.rows_with(c), every) for c in ("video", "voice_ko")
        )
        self.has_question = store.rows_with("say_ko")
        self.video_with_static = np.intersect1d(self.has_video, store.rows_with("still"))
        self.has_edit = {
            m: np.intersect1d(
                store.rows_with(f"edit_{m}"), self.has_video if m == "video" else every
            )
            for m in VISUAL_MODALITIES
        }
        self.rows = {m: self.has_video if m == "video" else every for m in NOT_AUDIO}
        self.has_several = np.flatnonzero(store.column("count") > 1)
        self.task_shares = _shares([getattr(settings, k) for k in KINDS])
        self.visual_shares = _shares(
            [
                settings.video
                if m == "video"
                else (1 - settings.video) / (len(VISUAL_MODALITIES) - 1)
                for m in VISUAL_MODALITIES
            ]
        )
        self._scene = functools.lru_cache(maxsize=None)(store.scene)
        known = front_end.spelling.counts if front_end.spelling is not None else {}
        foreign = sorted(word for word in COMMON | REAL if word not in known)
        self.noise = {
            language: [w for w in foreign if w.isascii() == (language == "en")]
            for language in LANGUAGES
        }

    def sample(self, rng: np.random.Generator) -> list[Segment]:
        """Return the segments of one random sequence."""
        kind = KINDS[int(rng.choice(len(KINDS), p=self.task_shares))]
        segments: list[Segment] = getattr(self, f"_{kind}")(rng)
        return [
            dataclasses.replace(s, weight=s.weight * getattr(self.settings, f"loss_{s.codec}"))
            for s in segments
        ]

    def _text_to_x(self, rng: np.random.Generator) -> list[Segment]:
        """Return a sentence and something visual that it describes."""
        return self._one_scene(rng, ["text", self._random_visual_modality(rng)])

    def _caption(self, rng: np.random.Generator) -> list[Segment]:
        """Return something visual and its description, sometimes with a request for one in
        between."""
        visual, description = self._one_scene(rng, [self._random_visual_modality(rng), "text"])
        description = dataclasses.replace(description, task="describe")
        assert description.language
        if rng.random() >= 0.4 * self.settings.people:
            return [visual, description]
        request = wordings.look(description.language, rng)
        return [visual, self._input_sentence(request, description.language), description]

    def _random_visual_modality(self, rng: np.random.Generator) -> Modality:
        """Return a random visual modality."""
        return VISUAL_MODALITIES[int(rng.choice(len(VISUAL_MODALITIES), p=self.visual_shares))]

    def _convert(self, rng: np.random.Generator) -> list[Segment]:
        """Return one scene in two different visual modalities."""
        first, second = rng.permutation(len(VISUAL_MODALITIES))[:2]
        return self._one_scene(rng, [VISUAL_MODALITIES[first], VISUAL_MODALITIES[second]])

    def _chain(self, rng: np.random.Generator) -> list[Segment]:
        """Return one scene in three or four modalities."""
        return self._one_scene(
            rng,
            [NOT_AUDIO[int(k)] for k in rng.permutation(len(NOT_AUDIO))[: int(rng.integers(3, 5))]],
        )

    def _unconditional(self, rng: np.random.Generator) -> list[Segment]:
        """Return a scene in one modality without any input before it."""
        return self._one_scene(rng, [_choice(rng, NOT_AUDIO)], has_input=False)

    def _one_scene(
        self, rng: np.random.Generator, media: list[Modality], has_input: bool = True
    ) -> list[Segment]:
        """Return one random scene in the given modalities: with `has_input`, the first is an input
        and the others are targets."""
        static = media[0] in STATIC_MODALITIES
        rows = (
            self.rows["text"]
            if "video" not in media
            else self.video_with_static
            if static
            else self.has_video
        )
        row = int(rng.choice(rows))
        moves = any(
            m not in STATIC_MODALITIES for m in media[1:]
        )  # a person who asks for a picture seldom says how things move
        return [
            self._scene_segment(rng, row, m, static and k > 0, has_input and k == 0, moves)
            for k, m in enumerate(media)
        ]

    def _scene_segment(
        self,
        rng: np.random.Generator,
        row: int,
        modality: Modality,
        static: bool,
        is_input: bool,
        moves: bool,
    ) -> Segment:
        """Return the segment of one modality of a scene.

        An input (`is_input`) may leave out a size, and a motion unless the target `moves`; a target
        states all that can be known.
        """
        weight = self.settings.source_loss if is_input else 1.0
        if modality != "text":
            return Segment(modality, self.store.get(row, modality), None, weight)
        language: Language = _choice(rng, LANGUAGES)
        if is_input and self._words_as_people(rng):
            sentence = wordings.say(
                self._scene(row),
                language,
                rng,
                full=rng.random() < 0.7,
                motion=moves or rng.random() < 0.5,
            )
            return self._input_sentence(
                self._with_slip(self._with_noise(sentence, language, rng), rng), language
            )
        which = "s" if static else int(rng.integers(CAPTIONS if is_input else CAPTIONS - 1))
        sentence = self.store.text(row, f"{language}_{which}")
        return (
            self._input_sentence(sentence, language)
            if is_input
            else self._target_sentence(sentence, language)
        )

    def _words_as_people(self, rng: np.random.Generator) -> bool:
        """Return whether an input sentence is worded as people word it."""
        return bool(self.settings.people) and rng.random() < self.settings.people

    def _input_sentence(self, sentence: str, language: Language) -> Segment:
        """Return the segment of an input sentence, as the text front end passes it to the model."""
        codes = self.front_end.encode(self.front_end.plain(sentence), self.text)
        return Segment("text", codes, language, self.settings.source_loss)

    def _target_sentence(
        self, sentence: str, language: Language, task: Task | None = None
    ) -> Segment:
        """Return the segment of a target sentence."""
        return Segment("text", self.text.encode(sentence), language, 1.0, task=task)

    def _with_noise(self, sentence: str, language: Language, rng: np.random.Generator) -> str:
        """Return the sentence, sometimes with up to three words before, after or within it that
        name nothing of the world."""
        if rng.random() >= self.settings.noise:
            return sentence
        extra = [str(word) for word in rng.choice(self.noise[language], int(rng.integers(1, 4)))]
        words = sentence.split()
        position = (0, len(words), int(rng.integers(len(words) + 1)))[
            int(rng.choice(3, p=(0.45, 0.45, 0.1)))
        ]
        return " ".join([*words[:position], *extra, *words[position:]])

    def _with_slip(self, sentence: str, rng: np.random.Generator) -> str:
        """Return the sentence, sometimes with a letter left out, doubled or swapped with the
        next."""
        if rng.random() >= self.settings.slips:
            return sentence
        position = int(rng.integers(len(sentence) - 1))
        a, b = sentence[position], sentence[position + 1]
        return sentence[:position] + _choice(rng, (b, a + a + b, b + a)) + sentence[position + 2 :]

    def _translate(self, rng: np.random.Generator) -> list[Segment]:
        """Return a sentence and its translation; sometimes a sentence of people and the world's own
        wording in the same language."""
        row, first = int(rng.integers(self.store.rows)), int(rng.integers(2))
        which = [int(rng.integers(CAPTIONS - 1)) for _ in range(2)]
        language, target_language = LANGUAGES[first], LANGUAGES[1 - first]
        people = self._words_as_people(rng)
        source = (
            wordings.say(self._scene(row), language, rng)
            if people
            else self.store.text(row, f"{language}_{which[0]}")
        )
        if people and rng.random() < 0.35:
            return [
                self._input_sentence(source, language),
                self._target_sentence(
                    self.store.text(row, f"{language}_{which[1]}"), language, "describe"
                ),
            ]
        return [
            self._input_sentence(source, language),
            self._target_sentence(
                self.store.text(row, f"{target_language}_{which[1]}"), target_language, "translate"
            ),
        ]

    def _asr(self, rng: np.random.Generator) -> list[Segment]:
        """Return a sound in any voice and its transcript; no token says which language it is."""
        is_question = rng.random() < 0.15
        row, language = (
            int(rng.choice(self.has_question if is_question else self.has_speech)),
            _choice(rng, LANGUAGES),
        )
        column, words = ("say", "ask") if is_question else ("audio", "spoken")
        return [
            Segment(
                "audio",
                self.store.get(row, f"{column}_{language}"),
                None,
                self.settings.given_sound,
            ),
            self._target_sentence(
                self.store.text(row, f"{words}_{language}"), language, "transcribe"
            ),
        ]

    def _tts(self, rng: np.random.Generator) -> list[Segment]:
        """Return a sentence and its sound in the model's own voice."""
        is_answer = rng.random() < 0.15
        row, language = (
            int(rng.choice(self.has_question if is_answer else self.has_speech)),
            _choice(rng, LANGUAGES),
        )
        sound, frames_per_word, words = (
            ("reply", "tap", "tell") if is_answer else ("voice", "beat", "spoken")
        )
        sentence = self._input_sentence(self.store.text(row, f"{words}_{language}"), language)
        return [
            sentence,
            Segment(
                "audio",
                self.store.get(row, f"{sound}_{language}"),
                language,
                1.0,
                SpokenWords(sentence.codes, self.store.get(row, f"{frames_per_word}_{language}")),
            ),
        ]

    def _ask(self, rng: np.random.Generator) -> list[Segment]:
        """Return a scene in some modality but audio, a question about it, and the answer."""
        modality = _choice(rng, NOT_AUDIO)
        row, language = int(rng.choice(self.rows[modality])), _choice(rng, LANGUAGES)
        question_text, answer_text = (
            self.store.text(row, f"{column}_{language}") for column in ("ask", "tell")
        )
        people = self._words_as_people(rng)
        if people:
            scene = self._scene(row)
            question_text, answer_text = wordings.inquire(
                scene, language, rng, motion=modality in ("text", "video")
            )
        if modality != "text":
            context = Segment(
                modality, self.store.get(row, modality), None, self.settings.source_loss
            )
        elif people and rng.random() < 0.5:
            context = self._input_sentence(wordings.say(self._scene(row), language, rng), language)
        else:
            context = self._input_sentence(
                self.store.text(row, f"{language}_{int(rng.integers(CAPTIONS - 1))}"), language
            )
        return [
            context,
            self._input_sentence(question_text, language),
            self._target_sentence(answer_text, language, "answer"),
        ]

    def _compare(self, rng: np.random.Generator) -> list[Segment]:
        """Return two pictures or shapes of different scenes, the question which has more objects,
        and the answer."""
        rows = [int(k) for k in rng.integers(self.store.rows, size=2)]
        language: Language = _choice(rng, LANGUAGES)
        modality: Modality = _choice(rng, STATIC_MODALITIES)
        a, b = (int(self.store.get(row, "count")[0]) for row in rows)
        question, answers = COMPARISONS[language]
        input_weight = self.settings.source_loss
        return [
            *(Segment(modality, self.store.get(row, modality), None, input_weight) for row in rows),
            self._input_sentence(question, language),
            self._target_sentence(answers[0 if a > b else 1 if b > a else 2], language, "answer"),
        ]

    def _edit(self, rng: np.random.Generator) -> list[Segment]:
        """Return a scene in a visual modality, an instruction, and the scene as it then is."""
        modality = self._random_visual_modality(rng)
        row, language = int(rng.choice(self.has_edit[modality])), _choice(rng, LANGUAGES)
        instruction = self.store.text(row, f"edit_{language}")
        if self._words_as_people(rng):
            scene = self._scene(row)
            edit = edit_of(scene)
            assert edit
            instruction = wordings.instruct(scene, edit, language, rng)
        return [
            Segment(modality, self.store.get(row, modality), None, self.settings.source_loss),
            self._input_sentence(instruction, language),
            Segment(modality, self.store.get(row, f"edit_{modality}"), None, 1.0, task="edit"),
        ]

    def _double(self, rng: np.random.Generator) -> list[Segment]:
        """Return words for two or three things that are alike, and codes that show the same thing
        at every place of a scene."""
        language: Language = _choice(rng, LANGUAGES)
        modality: Modality = _choice(rng, STATIC_MODALITIES)
        while True:
            row = int(rng.choice(self.has_several))
            scene = self._scene(row)
            first, *others = scene.things
            alike = dataclasses.replace(
                scene,
                things=(
                    first,
                    *(
                        dataclasses.replace(
                            thing, **{k: getattr(first, k) for k in ("solid", "color", "size")}
                        )
                        for thing in others
                    ),
                ),
            )
            # a larger thing could reach into its neighbour; two of a solid beside each other may be
            # held out
            if all(first.radius <= thing.radius for thing in others) and not any(
                ("relation", r, first.solid, first.solid) in HELD_OUT
                for _, r, _ in scene.relations()
            ):
                break
        codes = alike_codes(self.store.get(row, modality), self.layouts[modality], scene)
        return [
            self._input_sentence(wordings.doubled(alike, language, rng), language),
            Segment(modality, codes, None, 1.0),
        ]


def alike_codes(codes: np.ndarray, layout: SlotLayout, scene: Scene) -> np.ndarray:
    """Return the codes [K] of a picture or shape of two or three objects, changed so that the
    scene's first thing is at every place.

    Objects are in the order of right plus down (`toyworld.codecs.objects.ObjectOrder`), and an
    object's codes are the same wherever it stands, except for its place.
    """
    common_fields = [name for name in layout.order if not layout.field(name).optional]
    common_codes = sum(layout.field(name).count for name in common_fields)
    slots = codes[common_codes:].reshape(layout.slots, -1).copy()
    order = sorted(range(len(scene.things)), key=lambda k: scene.things[k].x - scene.things[k].z)
    names = layout.order[len(common_fields) :][
        : (len(layout.order) - len(common_fields)) // layout.slots
    ]
    columns = [name for name in names for _ in range(layout.field(name).count)]
    is_place = np.array([name in ("x", "y", "center") for name in columns])
    source = slots[order.index(0)].copy()
    for slot in range(len(order)):
        slots[slot] = np.where(is_place, slots[slot], source)
    return np.concatenate([codes[:common_codes], slots.ravel()])


def _rows_used(store: TokenStore, single: float) -> np.ndarray:
    """Return all rows of several objects and a share `single` of those with one object, always the
    same ones."""
    rows, counts = np.arange(store.rows), store.column("count")
    return rows[(counts > 1) | (np.random.default_rng(0).random(store.rows) < single)]


def _choice(rng: np.random.Generator, among: tuple[Any, ...]) -> Any:
    """Return one of the options, each equally likely."""
    return among[int(rng.integers(len(among)))]


def _shares(weights: list[float]) -> np.ndarray:
    """Return weights scaled to sum to 1, float64 [N]."""
    values = np.asarray(weights, dtype=float)
    return values / values.sum()
