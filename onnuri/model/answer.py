"""This module answers questions: it turns inputs into prompts and sends the engine its requests in
the right order.

It knows no threads. Every part is a generator that yields requests and is sent their handles when
they have ended. `run_pipelines` runs any number of them side by side and waits; a server awaits
them one by one. Speech is connected to words alone, as in training: the model first writes down
what it hears and goes on with that text; it writes what it is going to say, and then speaks it word
by word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import numpy as np

from onnuri.errors import ConfigError
from onnuri.inference.engine import Engine
from onnuri.inference.request import (
    Request,
    RequestHandle,
    SamplingConfig,
    TokenConstraint,
    TokenScore,
)
from onnuri.modality import LANGUAGE_TOKENS, LANGUAGES, MEDIA, Language, Modality
from onnuri.model.asking import LONGEST_SENTENCE, language_spoken, task_of, wish_of
from onnuri.model.front_end import FrontEnd, Notice, Reading, Seen
from onnuri.model.token_layout import TokenLayout

T = TypeVar("T")
Pipeline = Generator[Request, RequestHandle, T]
"""yields requests, is sent their handles when they have ended, returns a T"""
Inputs = Sequence[Any]
"""inputs [(modality, item), …]; a text may be (modality, item, language) to say its language"""
Listener = Callable[[int], None]
"""is called with every id that is generated"""
HEARING = SamplingConfig(temperature=0.0)
"""sampling settings with which speech is transcribed"""
RESERVED_POSITIONS = 16
"""positions that a sequence needs beside the codes of one item: `<bos>`, boundary, language and
task tokens"""
MAX_WORD_CODES = 75
"""most audio codes of one spoken word: three seconds"""


@dataclasses.dataclass
class Context:
    """A Context holds the inputs of a question as the model reads them, and what is known of the
    last one."""

    ids: list[int]
    """`<bos>` and the segments of all inputs"""
    count: int
    """number of inputs"""
    language: Language | None = None
    """language of the last input, if that is text or a sound"""
    heard: bool = False
    """whether the last input is a sound"""
    words: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    """text codes of the last input, if that is text or a sound"""
    given: dict[Modality, int] = dataclasses.field(default_factory=dict)
    """number of input codes by modality"""
    inputs: list[tuple[Modality, str]] = dataclasses.field(default_factory=list)
    """(modality, words) of the inputs in their order; "" for those that are neither text nor
    sound"""
    readings: list[Reading] = dataclasses.field(default_factory=list)
    """every text as the model reads it"""
    seen: list[Seen] = dataclasses.field(default_factory=list)
    """pictures, videos and shapes among the inputs"""
    logprobs: dict[Modality, list[float]] = dataclasses.field(default_factory=dict)
    """log probability of every id that was drawn for an answer, by the answer's modality"""

    def says(self, language: Language) -> bool:
        """Return whether a single sentence or sound in a language is all the input."""
        return self.count == 1 and self.language == language


class Answers:
    """An Answers builds prompts and decodes answers for one model: its token layout, codecs and
    text front end, and the number of its positions."""

    def __init__(
        self, layout: TokenLayout, codecs: dict[str, Any], positions: int, front_end: FrontEnd
    ) -> None:
        """Take a model's parts. Raises ConfigError for a codec whose longest item does not fit the
        positions."""
        self.layout, self.codecs, self.positions = layout, codecs, positions
        self.front_end = front_end
        for spec in layout.codecs:
            if (
                spec.name in codecs
                and spec.modality != "text"
                and spec.max_codes > positions - RESERVED_POSITIONS
            ):
                raise ConfigError(
                    f"codec {spec.name!r} of up to {spec.max_codes} codes",
                    f"does not fit the {positions} positions of the model",
                    "make the codec with smaller limits",
                )
        self.scored = True
        """whether the log probability of every drawn id is requested, for notices of unsure
        answers"""

    @property
    def room(self) -> int:
        """Return the most tokens that inputs may have: what the positions leave beside the longest
        answer in one of the five media, and as much again for speech's words."""
        return self.positions - 2 * max(
            spec.max_codes for spec in self.layout.codecs if spec.name in MEDIA
        )

    def read(self, inputs: Inputs) -> Pipeline[Context]:
        """Return inputs as ids in their order; a sound counts as the words that the model hears in
        it.

        Raises ConfigError for an unknown modality and for inputs that leave no room for an answer.
        """
        context = Context([self.layout.special("<bos>")], len(inputs))
        for modality, item, *tongue in inputs:
            known(modality, self.layout)
            codes, language, heard = self.encode(modality, item), None, modality == "audio"
            context.given[modality] = context.given.get(modality, 0) + len(codes)
            segment_codes = codes
            words = ""
            if heard:
                language, codes = yield from self.hear(codes)
                words = self.codecs["text"].decode(codes)
                segment_codes = self._read_words(words, context)
            elif modality == "text":
                sentence = item[:LONGEST_SENTENCE]
                words = wish_of(sentence)[1] or sentence
                language = tongue[0] if tongue else language_spoken(words)
                segment_codes = self._read_words(item if words == sentence else words, context)
            else:
                context.seen.append((modality, item, codes))
            context.inputs.append((modality, words))
            context.ids = context.ids + self.layout.segment(
                "text" if heard else modality, segment_codes, language
            )
            context.language, context.heard = language, heard
            context.words = codes if heard or modality == "text" else context.words[:0]
        if len(context.ids) > self.room:
            raise ConfigError(
                f"inputs of {len(context.ids)} tokens",
                f"leave no room, {self.room} at most fit",
                "give fewer or shorter inputs",
                code="too_many_tokens",
                most=self.room,
            )
        return context

    def _read_words(self, words: str, context: Context) -> np.ndarray:
        """Return the text codes int64 [K] of a sentence as the front end corrects it, and add its
        reading to the context."""
        reading = self.front_end.read(words)
        context.readings.append(reading)
        codes = self.front_end.encode(reading.text, self.codecs["text"])
        return codes[: self.layout.spec("text").max_codes]

    def hear(
        self, codes: np.ndarray, on_token: Listener | None = None
    ) -> Pipeline[tuple[Language, np.ndarray]]:
        """Return the language and the text codes int64 [K] of the words that the model hears in a
        sound's codes."""
        layout = self.layout
        prompt = [
            layout.special("<bos>"),
            *layout.segment("audio", codes),
            *layout.task("transcribe"),
            layout.special(layout.spec("text").open),
        ]
        token_constraint = dataclasses.replace(
            self.token_constraint("text"), first_range=layout.languages
        )
        ids = (
            yield Request(
                prompt=prompt,
                token_constraint=token_constraint,
                sampling=HEARING,
                kind="text",
                on_token=on_token,
            )
        ).ids
        language = next(x for x in LANGUAGES if layout.special(LANGUAGE_TOKENS[x]) == ids[0])
        return language, layout.codes("text", np.array(ids[1:], dtype=np.int64))

    def write(
        self,
        context: Context,
        language: Language,
        sampling: SamplingConfig,
        seed: int = 0,
        only_heard: bool = False,
        on_token: Listener | None = None,
        **more: Any,
    ) -> Pipeline[np.ndarray]:
        """Return the text codes int64 [K] of an answer in a language.

        A single sound in that language is answered by its words, and so is a single sentence that
        is to be spoken (not `only_heard`); words alone that ask for nothing that the model can do
        get the front end's refusal; all else is generated as `make` does, with `more` fields of the
        request.
        """
        refusal = self.refusal(context, language)
        if only_heard and not context.heard and refusal:
            text: np.ndarray = self.codecs["text"].encode(refusal)
            return text
        if context.says(language) and (context.heard or not only_heard):
            return context.words
        return (yield from self.make("text", context, language, sampling, seed, on_token, **more))

    def refusal(self, context: Context, language: Language) -> str | None:
        """Return the reply to words that come alone and ask for nothing that the model can do, such
        as a greeting; None for all other inputs."""
        if context.count != 1 or not context.readings:
            return None
        words = context.inputs[0][1]
        return self.front_end.refusal(words, context.readings[0], language)

    def notices(self, context: Context, language: Language) -> list[Notice]:
        """Return what the model did not know of the inputs, and whether the answer is improbable,
        in the language of the answer."""
        front_end = self.front_end
        notices = [
            *front_end.notices(context.readings, context.seen, self.codecs, language),
            *front_end.unsure(context.logprobs, language),
        ]
        refusal = self.refusal(context, language)
        if refusal:
            notices.append(Notice("outside", refusal))
        return notices

    def speak(
        self,
        sentence: np.ndarray,
        language: Language,
        sampling: SamplingConfig,
        seed: int = 0,
        on_token: Listener | None = None,
    ) -> Pipeline[np.ndarray]:
        """Return the audio codes int64 [K] of a sentence of text codes, generated with each word's
        text forced before its sound; empty for no words."""
        if not len(sentence):
            return np.zeros(0, np.int64)
        layout = self.layout
        max_codes = self.layout.spec("text").max_codes
        sentence = self.front_end.spoken(sentence, self.codecs["text"])[:max_codes]
        if not len(sentence):
            return np.zeros(0, np.int64)
        prompt = [
            layout.special("<bos>"),
            *layout.segment("text", sentence, language),
            *layout.opening("audio", language),
        ]
        forced_segments = [
            layout.ids("text", word).tolist() for word in self.codecs["text"].words(sentence)
        ]
        token_constraint = dataclasses.replace(
            self.token_constraint("audio"),
            end=layout.special("<|word|>"),
            max_segment=MAX_WORD_CODES,
        )
        return self._codes(
            "audio",
            (
                yield Request(
                    prompt=prompt,
                    token_constraint=token_constraint,
                    sampling=sampling,
                    seed=seed,
                    forced_segments=forced_segments,
                    kind="audio",
                    on_token=on_token,
                )
            ),
        )

    def make(
        self,
        to: Modality,
        context: Context,
        language: Language,
        sampling: SamplingConfig,
        seed: int = 0,
        on_token: Listener | None = None,
        **more: Any,
    ) -> Pipeline[np.ndarray]:
        """Return the codes int64 [K] that the model generates for a modality, other than audio,
        after the context.

        `more` are other fields of the request. Raises ConfigError if inputs leave no room for an
        item of a codec that is none of the five media.
        """
        opening = self.layout.opening(to, language)
        task = self.layout.task(task_of(to, context.inputs, context.says(language)))
        most = self.positions - self.layout.spec(to).max_codes - RESERVED_POSITIONS
        if to not in MEDIA and len(context.ids) > most:
            raise ConfigError(
                f"inputs of {len(context.ids)} tokens",
                f"leave no room for an answer of {to!r}, {most} at most fit",
                "give fewer or shorter inputs",
                code="too_many_tokens",
                most=most,
            )
        request = Request(
            prompt=context.ids + task + opening,
            token_constraint=self.token_constraint(to),
            sampling=sampling,
            seed=seed,
            kind=to,
            on_token=on_token,
            unconditional_prompt=[self.layout.special("<bos>"), *opening],
        )
        request = dataclasses.replace(request, **more)
        # what a grammar forces does not tell whether the model is sure
        if self.scored and not request.constraint:
            logprobs, on_score = context.logprobs.setdefault(to, []), request.on_score

            def record(score: TokenScore) -> None:
                """Keep an id's log probability and pass the score on to the request's listener."""
                logprobs.append(score.logprob)
                if on_score:
                    on_score(score)

            request = dataclasses.replace(request, on_score=record)
        return self._codes(to, (yield request))

    def go_on(
        self,
        codes: np.ndarray,
        language: Language,
        sampling: SamplingConfig,
        seed: int,
        longest: int,
        on_token: Listener | None = None,
        **more: Any,
    ) -> Pipeline[np.ndarray]:
        """Return the text codes int64 [K] that continue a text that begins with `codes`, at most
        `longest`; `more` are other fields of the request."""
        layout = self.layout
        prompt = [
            layout.special("<bos>"),
            *layout.opening("text", language),
            *layout.ids("text", codes).tolist(),
        ]
        token_constraint = dataclasses.replace(self.token_constraint("text"), max_tokens=longest)
        return self._codes(
            "text",
            (
                yield Request(
                    prompt=prompt,
                    token_constraint=token_constraint,
                    sampling=sampling,
                    seed=seed,
                    kind="text",
                    on_token=on_token,
                    **more,
                )
            ),
        )

    def answer(
        self,
        to: Modality,
        inputs: Inputs,
        language: Language,
        sampling: dict[str, SamplingConfig],
        seed: int = 0,
        listen: Callable[[Context], None] | None = None,
    ) -> Pipeline[np.ndarray]:
        """Return the codes int64 [K] of an answer in a modality to inputs: reads them, writes,
        speaks or generates as the modality needs.

        `sampling` gives settings by modality; `listen` is called with the inputs as read.
        """
        context = yield from self.read(inputs)
        if listen:
            listen(context)
        if to == "text":
            return (
                yield from self.write(context, language, sampling["text"], seed, only_heard=True)
            )
        if to == "audio":
            sentence = yield from self.write(context, language, sampling["text"], seed)
            return (yield from self.speak(sentence, language, sampling["audio"], seed))
        return (yield from self.make(to, context, language, sampling[to], seed))

    def encode(self, modality: Modality, item: Any) -> np.ndarray:
        """Return the codes int64 [K] of an item; speech and text are cut at their codec's
        longest."""
        codes: np.ndarray = self.codecs[modality].encode(item)
        return codes[: self.layout.spec(modality).max_codes]

    def token_constraint(self, to: Modality) -> TokenConstraint:
        """Return the constraint on the ids that may be generated for an item of a modality."""
        spec, allowed = self.layout.spec(to), self.layout.allowed(to)
        if allowed and spec.slots:
            return TokenConstraint(position_ranges=tuple(allowed), slot_gates=spec.slots.slot_gates)
        lo, hi = self.layout.own(to)
        return TokenConstraint(
            vocab_range=(lo, hi), end=self.layout.special(spec.close), max_tokens=spec.max_codes
        )

    def _codes(self, modality: Modality, handle: RequestHandle) -> np.ndarray:
        """Return the ids that a request generated as codes int64 [K] of a modality."""
        return self.layout.codes(modality, np.array(handle.ids, dtype=np.int64))


def run_pipelines(engine: Engine, pipelines: Sequence[Pipeline[T]]) -> list[T]:
    """Run pipelines to their end and return what each returns; their requests are decoded in one
    batch."""
    results: dict[int, T] = {}
    open_handles: dict[int, RequestHandle] = {}

    def advance(k: int, handle: RequestHandle | None) -> None:
        """Send pipeline k the handle that ended and submit its next request or take its result."""
        try:
            request = pipelines[k].send(handle)  # type: ignore[arg-type]
            open_handles[k] = engine.submit(request, bounded=False)
        except StopIteration as end:
            results[k] = end.value

    try:
        for k in range(len(pipelines)):
            advance(k, None)
        while open_handles:
            engine.step()
            for k in [k for k, handle in open_handles.items() if handle.done]:
                advance(k, open_handles.pop(k))
    finally:
        for handle in open_handles.values():
            handle.cancel()
    return [results[k] for k in range(len(pipelines))]


def known(name: str, layout: TokenLayout) -> None:
    """Raise ConfigError for a name that is neither a modality nor another codec of the model."""
    if name not in layout.names:
        raise ConfigError(repr(name), "is not a modality", f"use one of {', '.join(layout.names)}")
