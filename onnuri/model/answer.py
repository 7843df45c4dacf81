"""How an answer comes about: what is asked of the engine, in which order. Knows no threads: whoever
drives it decides.

Every part is a generator that yields requests and is sent their tickets when they have ended.
`run_pipelines` runs any number of them side by side and waits; a server awaits them one by one.
Speech meets words only, as in training: the model first writes down what it hears, and goes on with
that; it writes what it is going to say, and then speaks it word by word.
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
"""yields requests, is sent their tickets, returns a T"""
Inputs = Sequence[Any]
"""inputs [(modality, item), …]; a text may be (modality, item, language) to say its language"""
Listener = Callable[[int], None]
HEARING = SamplingConfig(temperature=0.0)
"""how a sound's words are drawn"""
FEWEST = 16
"""positions beside the codes of one item: what begins, opens, asks and closes"""
LONGEST_WORD = 75
"""codes of a spoken word: three seconds"""


@dataclasses.dataclass
class Context:
    """What has been given, as ids, and its last input."""

    ids: list[int]
    count: int
    """inputs"""
    language: Language | None = None
    """of the last input, if that is text or a sound"""
    heard: bool = False
    """whether that is a sound"""
    words: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    """its codes of text"""
    given: dict[Modality, int] = dataclasses.field(default_factory=dict)
    """codes of each modality"""
    inputs: list[tuple[Modality, str]] = dataclasses.field(default_factory=list)
    """media in their order, with the words of a text or a sound"""
    readings: list[Reading] = dataclasses.field(default_factory=list)
    """every text as the model reads it"""
    seen: list[Seen] = dataclasses.field(default_factory=list)
    """what is to be seen"""
    logprobs: dict[Modality, list[float]] = dataclasses.field(default_factory=dict)
    """of every id that was drawn for an answer, by the answer's modality"""

    def says(self, language: Language) -> bool:
        """Whether all that was given is a sentence in that language."""
        return self.count == 1 and self.language == language


class Answers:
    """What a token layout and codecs make of questions."""

    def __init__(
        self, layout: TokenLayout, codecs: dict[str, Any], positions: int, front_end: FrontEnd
    ) -> None:
        self.layout, self.codecs, self.positions = layout, codecs, positions
        self.front_end = front_end
        for spec in layout.codecs:
            if (
                spec.name in codecs
                and spec.modality != "text"
                and spec.max_codes > positions - FEWEST
            ):
                raise ConfigError(
                    f"codec {spec.name!r} of up to {spec.max_codes} codes",
                    f"does not fit the {positions} positions of the model",
                    "make the codec with smaller limits",
                )
        self.scored = True
        """whether the engine is asked how likely what it draws was"""

    @property
    def room(self) -> int:
        """Most tokens of inputs: what is left beside the longest answer in one of the five media,
        and what is heard or said."""
        return self.positions - 2 * max(
            spec.max_codes for spec in self.layout.codecs if spec.name in MEDIA
        )

    def read(self, given: Inputs) -> Pipeline[Context]:
        """Inputs as ids, in their order; of a sound what the model hears in it. Raises
        ConfigError."""
        context = Context([self.layout.special("<bos>")], len(given))
        for modality, item, *tongue in given:
            known(modality, self.layout)
            codes, language, heard = self.encode(modality, item), None, modality == "audio"
            context.given[modality] = context.given.get(modality, 0) + len(codes)
            read = codes
            words = ""
            if heard:
                language, codes = yield from self.hear(codes)
                words = self.codecs["text"].decode(codes)
                read = self._read(words, context)
            elif modality == "text":
                words = wish_of(item[:LONGEST_SENTENCE])[1] or item[:LONGEST_SENTENCE]
                language = tongue[0] if tongue else language_spoken(words)
                read = self._read(item if words == item[:LONGEST_SENTENCE] else words, context)
            else:
                context.seen.append((modality, item, codes))
            context.inputs.append((modality, words))
            context.ids = context.ids + self.layout.segment(
                "text" if heard else modality, read, language
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

    def _read(self, words: str, context: Context) -> np.ndarray:
        """Return the codes of words as the text front end leaves them."""
        reading = self.front_end.read(words)
        context.readings.append(reading)
        codes = self.front_end.encode(reading.text, self.codecs["text"])
        return codes[: self.layout.spec("text").max_codes]

    def hear(
        self, codes: np.ndarray, on_token: Listener | None = None
    ) -> Pipeline[tuple[Language, np.ndarray]]:
        """Of a sound's codes the language and the text codes that the model hears."""
        v = self.layout
        prompt = [
            v.special("<bos>"),
            *v.segment("audio", codes),
            *v.task("transcribe"),
            v.special(v.spec("text").open),
        ]
        token_constraint = dataclasses.replace(
            self.token_constraint("text"), first_range=v.languages
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
        language = next(x for x in LANGUAGES if v.special(LANGUAGE_TOKENS[x]) == ids[0])
        return language, v.codes("text", np.array(ids[1:], dtype=np.int64))

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
        """Text codes that answer: of a lone sound its words, of a lone sentence that is to be
        spoken (not `only_heard`) itself, if it is in the language that is asked for; to a greeting
        or a question about nothing that was shown what can be done; else what the model writes, as
        `make` does."""
        refusal = self.refusal(context, language)
        if only_heard and not context.heard and refusal:
            text: np.ndarray = self.codecs["text"].encode(refusal)
            return text
        if context.says(language) and (context.heard or not only_heard):
            return context.words
        return (yield from self.make("text", context, language, sampling, seed, on_token, **more))

    def refusal(self, context: Context, language: Language) -> str | None:
        """Return what is said to words that come alone and ask for nothing that the model can do;
        None where something can be done."""
        if context.count != 1 or not context.readings:
            return None
        words = context.inputs[0][1]
        return self.front_end.refusal(words, context.readings[0], language)

    def notices(self, context: Context, language: Language) -> list[Notice]:
        """Return what is not known of what was given, and of what came of it, in the language of
        the answer."""
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
        """A sentence's sound, every word put in before what it sounds like."""
        if not len(sentence):
            return np.zeros(0, np.int64)
        v = self.layout
        most = self.layout.spec("text").max_codes
        sentence = self.front_end.spoken(sentence, self.codecs["text"])[:most]
        if not len(sentence):
            return np.zeros(0, np.int64)
        prompt = [
            v.special("<bos>"),
            *v.segment("text", sentence, language),
            *v.opening("audio", language),
        ]
        forced_segments = [
            v.ids("text", word).tolist() for word in self.codecs["text"].words(sentence)
        ]
        token_constraint = dataclasses.replace(
            self.token_constraint("audio"), end=v.special("<|word|>"), max_segment=LONGEST_WORD
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
        """Codes of any modality but sound that follow what was given; `more` are other fields of the
        request."""
        opening = self.layout.opening(to, language)
        asked = self.layout.task(task_of(to, context.inputs, context.says(language)))
        most = self.positions - self.layout.spec(to).max_codes - FEWEST
        if to not in MEDIA and len(context.ids) > most:
            raise ConfigError(
                f"inputs of {len(context.ids)} tokens",
                f"leave no room for an answer of {to!r}, {most} at most fit",
                "give fewer or shorter inputs",
                code="too_many_tokens",
                most=most,
            )
        request = Request(
            prompt=context.ids + asked + opening,
            token_constraint=self.token_constraint(to),
            sampling=sampling,
            seed=seed,
            kind=to,
            on_token=on_token,
            unconditional_prompt=[self.layout.special("<bos>"), *opening],
        )
        request = dataclasses.replace(request, **more)
        if (
            self.scored and not request.constraint
        ):  # what a grammar forces is no answer of the model's own
            drawn, told = context.logprobs.setdefault(to, []), request.on_score

            def hear(score: TokenScore) -> None:
                drawn.append(score.logprob)
                if told:
                    told(score)

            request = dataclasses.replace(request, on_score=hear)
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
        """Text codes that go on within a text that begins with `codes`; `more` are other fields of
        the request."""
        v = self.layout
        prompt = [v.special("<bos>"), *v.opening("text", language), *v.ids("text", codes).tolist()]
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
        given: Inputs,
        language: Language,
        sampling: dict[str, SamplingConfig],
        seed: int = 0,
        listen: Callable[[Context], None] | None = None,
    ) -> Pipeline[np.ndarray]:
        """Codes of a modality, from inputs: all of the above, as it is needed. `listen` is told what
        was given, as read."""
        context = yield from self.read(given)
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
        """Codes of an item; speech and text are cut at the modality's longest."""
        codes: np.ndarray = self.codecs[modality].encode(item)
        return codes[: self.layout.spec(modality).max_codes]

    def token_constraint(self, to: Modality) -> TokenConstraint:
        """What may be generated for a modality."""
        spec, allowed = self.layout.spec(to), self.layout.allowed(to)
        if allowed and spec.slots:
            return TokenConstraint(position_ranges=tuple(allowed), slot_gates=spec.slots.slot_gates)
        lo, hi = self.layout.own(to)
        return TokenConstraint(
            vocab_range=(lo, hi), end=self.layout.special(spec.close), max_tokens=spec.max_codes
        )

    def _codes(self, modality: Modality, handle: RequestHandle) -> np.ndarray:
        return self.layout.codes(modality, np.array(handle.ids, dtype=np.int64))


def run_pipelines(engine: Engine, everyone: Sequence[Pipeline[T]]) -> list[T]:
    """What each of them returns; their requests are decoded together."""
    results: dict[int, T] = {}
    open_: dict[int, RequestHandle] = {}

    def go_on(k: int, handle: RequestHandle | None) -> None:
        try:
            open_[k] = engine.submit(everyone[k].send(handle), bounded=False)  # type: ignore[arg-type]
        except StopIteration as end:
            results[k] = end.value

    try:
        for k in range(len(everyone)):
            go_on(k, None)
        while open_:
            engine.step()
            for k in [k for k, handle in open_.items() if handle.done]:
                go_on(k, open_.pop(k))
    finally:
        for handle in open_.values():
            handle.cancel()
    return [results[k] for k in range(len(everyone))]


def known(name: str, layout: TokenLayout) -> None:
    """Raise ConfigError for what is neither a modality nor another codec of the model."""
    if name not in layout.names:
        raise ConfigError(repr(name), "is not a modality", f"use one of {', '.join(layout.names)}")
