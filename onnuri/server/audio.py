"""`/v1/audio/speech`, `/v1/audio/transcriptions` and `/v1/audio/translations`: sentences to sound and sound to sentences."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any, Literal

import numpy as np

from onnuri.errors import MediaError
from onnuri.modality import AUDIO_HZ, TABLE, Language, language_of
from onnuri.model.answer import Context
from onnuri.server import intake
from onnuri.server.chat import base64_of, usage_of
from onnuri.server.problems import Problem
from onnuri.server.schemas import SpeechRequest
from onnuri.server.service import Item, Sound, Stream, Wish, Words
from onnuri.server.sound import TYPES, Pcm, encoded
from onnuri.server.state import Caller, State

VOICES = ("default",)
"""the model's own; OpenAI's names of voices are taken for it"""
NAMES = {"ko": "korean", "en": "english"}
"""languages, as a transcription names them"""
Task = Literal["transcribe", "translate"]


async def speech(request: SpeechRequest, state: State, caller: Caller) -> tuple[bytes, str]:
    """A whole sound as a file, and its media type."""
    form = request.response_format or "mp3"
    item, sentence = None, _sentence(request, state)
    async with contextlib.aclosing(_spoken(request, sentence, state, caller)) as made:
        async for event in made:
            if isinstance(event, Item):
                item = event
    assert item
    await state.spend(caller, len(sentence) + item.tokens)
    return await state.service.aside(encoded, item.item, form), TYPES[form]


async def pcm(request: SpeechRequest, state: State, caller: Caller) -> Stream[bytes]:
    """Raw samples as they come."""
    samples, sentence = Pcm(), _sentence(request, state)
    async with contextlib.aclosing(_spoken(request, sentence, state, caller)) as made:
        async for event in made:
            if isinstance(event, Sound) and (data := samples.send(event.samples)):
                yield data
            elif isinstance(event, Item):
                await state.spend(caller, len(sentence) + event.tokens)
                yield samples.end()


async def speech_events(request: SpeechRequest, state: State, caller: Caller) -> Stream[dict[str, Any] | None]:
    """`speech.audio.delta` with raw samples, then `speech.audio.done`."""
    samples, sentence = Pcm(), _sentence(request, state)
    yield {}
    async with contextlib.aclosing(_spoken(request, sentence, state, caller)) as made:
        async for event in made:
            if isinstance(event, Sound) and (data := samples.send(event.samples)):
                yield {"type": "speech.audio.delta", "audio": base64_of(data)}
            elif isinstance(event, Item):
                await state.spend(caller, len(sentence) + event.tokens)
                if rest := samples.end():
                    yield {"type": "speech.audio.delta", "audio": base64_of(rest)}
                yield {"type": "speech.audio.done", "usage": {"input_tokens": len(sentence), "output_tokens": event.tokens,
                                                              "total_tokens": len(sentence) + event.tokens}}
    yield None


def _sentence(request: SpeechRequest, state: State) -> np.ndarray:
    """Text codes of what is to be spoken. Raises Problem where it is too long."""
    if request.speed not in (None, 1):
        raise Problem(400, f"speed {request.speed:g}: this model speaks at its own pace; give 1", "invalid_value", "speed")
    codes: np.ndarray = state.model.codecs["text"].encode(" ".join(request.input.split()))
    most = TABLE["text"].max_tokens
    if len(codes) > most:
        raise Problem(400, f"input of {len(codes)} tokens: at most {most} are spoken at once; send it in parts",
                      "invalid_value", "input")
    return codes


async def _spoken(request: SpeechRequest, sentence: np.ndarray, state: State, caller: Caller) -> Stream[Any]:
    seed = request.seed if request.seed is not None else secrets.randbits(31)
    wish = Wish(to="audio", language=request.language or language_of(request.input), seed=seed,
                temperature=request.temperature, top_p=request.top_p)
    first = state.metrics.first(caller.began)
    async with contextlib.aclosing(state.service.answer(Context([], 0), wish, sentence)) as made:
        async for event in made:
            first.see("audio", isinstance(event, Sound))
            yield event


async def transcribe(data: bytes, name: str, state: State, caller: Caller) -> tuple[Language, str, float]:
    """Language, words and seconds of a sound."""
    _, samples = await state.service.decoded(intake.item, data, "audio", name, state.settings)
    codes = await state.service.aside(state.model.encode, "audio", samples)
    language, words = await state.service.drive(state.model.answers.hear(codes))
    await state.spend(caller, len(codes) + len(words))
    return language, state.model.codecs["text"].decode(words), len(samples) / AUDIO_HZ


async def translate(data: bytes, name: str, state: State, caller: Caller) -> tuple[str, float]:
    """What a sound says, in English, and its seconds. What is English already is said again."""
    _, samples = await state.service.decoded(intake.item, data, "audio", name, state.settings)
    context = await state.service.read([("audio", samples)])
    item = await state.service.item(context, Wish(to="text", language="en"))
    await state.spend(caller, usage_of(context, [item])["total_tokens"])
    return item.item, len(samples) / AUDIO_HZ


def transcription(form: str, task: Task, language: Language, text: str, seconds: float) -> Any:
    """An answer in the form that was asked for, in words of the language."""
    usage = {"type": "duration", "seconds": max(1, round(seconds))}
    if form == "text":
        return text + "\n"
    if form == "verbose_json":
        segment = {"id": 0, "seek": 0, "start": 0.0, "end": round(seconds, 3), "text": text, "tokens": [],
                   "temperature": 0.0, "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0}
        return {"task": task, "language": NAMES[language], "duration": round(seconds, 3), "text": text,
                "segments": [segment], "words": None, "usage": usage}
    return {"text": text, "usage": usage}


async def transcription_events(data: bytes, name: str, state: State,
                               caller: Caller) -> Stream[dict[str, Any] | None]:
    """`transcript.text.delta` word by word, then `transcript.text.done`."""
    if not data:
        raise MediaError(name, "is empty", "give a sound")
    _, samples = await state.service.decoded(intake.item, data, "audio", name, state.settings)
    yield {}
    codes = await state.service.aside(state.model.encode, "audio", samples)
    whole, used = "", 0
    async with contextlib.aclosing(state.service.listen(codes)) as made:
        async for event in made:
            if isinstance(event, Item):
                whole, used = event.item, event.tokens
            elif isinstance(event, Words):
                yield {"type": "transcript.text.delta", "delta": event.text}
    await state.spend(caller, len(codes) + used)
    yield {"type": "transcript.text.done", "text": whole,
           "usage": {"type": "tokens", "input_tokens": len(codes), "output_tokens": used, "total_tokens": len(codes) + used}}
    yield None
