"""`/v1/audio/speech`, `/v1/audio/transcriptions` and `/v1/audio/translations`: sentences to sound
and sound to sentences."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from onnuri.media import check_answer
from onnuri.modality import AUDIO_HZ, Language, language_of
from onnuri.model.answer import Context
from onnuri.server import unheeded
from onnuri.server.chat import base64_of, usage_of
from onnuri.server.errors import APIError
from onnuri.server.events import AudioDelta, FinalItem, OutputSpec, Stream, TextDelta
from onnuri.server.schemas import SpeechRequest
from onnuri.server.sound import TYPES, Pcm, encoded
from onnuri.server.state import Caller, State

VOICES = ("default",)
"""the model's own; OpenAI's names of voices are taken for it"""
NAMES = {"ko": "korean", "en": "english"}
"""languages, as a transcription names them"""
PIECE_BYTES = 3 * 4096
"""of a file in one event; a multiple of three, so that pieces in base64 can be joined"""
Task = Literal["transcribe", "translate"]


async def speech(request: SpeechRequest, state: State, caller: Caller) -> tuple[bytes, str]:
    """A whole sound as a file, and its media type."""
    form = request.response_format or "mp3"
    item, sentence = None, _sentence(request, state)
    async with contextlib.aclosing(_spoken(request, sentence, state, caller)) as made:
        async for event in made:
            if isinstance(event, FinalItem):
                item = event
    assert item
    check_answer(item.item, "audio")
    await state.spend(caller, len(sentence) + item.tokens)
    return await state.service.run_in_pool(encoded, item.item, form), TYPES[form]


async def pcm(request: SpeechRequest, state: State, caller: Caller) -> Stream[bytes]:
    """Raw samples as they come."""
    samples, sentence = Pcm(), _sentence(request, state)
    async with contextlib.aclosing(_spoken(request, sentence, state, caller)) as made:
        async for event in made:
            if isinstance(event, AudioDelta) and (data := samples.send(event.samples)):
                yield data
            elif isinstance(event, FinalItem):
                await state.spend(caller, len(sentence) + event.tokens)
                yield samples.end()


async def speech_events(
    request: SpeechRequest, state: State, caller: Caller
) -> Stream[dict[str, Any] | None]:
    """`speech.audio.delta`, then `speech.audio.done`. Raw samples come as they are made; a file's
    bytes, which is what any other format is, once it is whole."""
    raw = request.response_format in ("pcm", "pcm16")
    samples, sentence = Pcm(), _sentence(request, state)
    yield {}
    async with contextlib.aclosing(_spoken(request, sentence, state, caller)) as made:
        async for event in made:
            if isinstance(event, AudioDelta) and raw and (data := samples.send(event.samples)):
                yield {"type": "speech.audio.delta", "audio": base64_of(data)}
            elif isinstance(event, FinalItem):
                await state.spend(caller, len(sentence) + event.tokens)
                check_answer(event.item, "audio")
                form = request.response_format or "mp3"
                rest = (
                    samples.end()
                    if raw
                    else await state.service.run_in_pool(encoded, event.item, form)
                )
                for at in range(0, len(rest), PIECE_BYTES):
                    yield {
                        "type": "speech.audio.delta",
                        "audio": base64_of(rest[at : at + PIECE_BYTES]),
                    }
                yield {
                    "type": "speech.audio.done",
                    "usage": {
                        "input_tokens": len(sentence),
                        "output_tokens": event.tokens,
                        "total_tokens": len(sentence) + event.tokens,
                    },
                }
    yield None


def _sentence(request: SpeechRequest, state: State) -> np.ndarray:
    """Text codes of what is to be spoken. Raises Problem where it is too long."""
    unheeded.refuse(request.model_extra, unheeded.SPEECH)
    if request.speed not in (None, 1):
        raise APIError(
            400,
            f"speed {request.speed:g}: this model speaks at its own pace; give 1",
            "invalid_value",
            "speed",
        )
    codes: np.ndarray = state.model.codecs["text"].encode(" ".join(request.input.split()))
    most = state.model.layout.spec("text").max_codes
    if len(codes) > most:
        raise APIError(
            400,
            f"input of {len(codes)} tokens: at most {most} are spoken at once; send it in parts",
            "invalid_value",
            "input",
        )
    return codes


async def _spoken(
    request: SpeechRequest, sentence: np.ndarray, state: State, caller: Caller
) -> Stream[Any]:
    seed = request.seed if request.seed is not None else secrets.randbits(31)
    spec = OutputSpec(
        to="audio",
        language=request.language or language_of(request.input),
        seed=seed,
        temperature=request.temperature,
        top_p=request.top_p,
    )
    first = state.metrics.first(caller.began)
    async with contextlib.aclosing(state.service.answer(Context([], 0), spec, sentence)) as made:
        async for event in made:
            first.see("audio", isinstance(event, AudioDelta))
            yield event


async def transcribe(
    samples: np.ndarray, state: State, caller: Caller
) -> tuple[Language, str, float]:
    """Language, words and seconds of a sound."""
    codes = await state.service.run_in_pool(state.model.encode, "audio", samples)
    language, words = await state.service.run_pipeline(state.model.answers.hear(codes))
    await state.spend(caller, len(codes) + len(words))
    return language, state.model.codecs["text"].decode(words), len(samples) / AUDIO_HZ


async def translate(samples: np.ndarray, state: State, caller: Caller) -> tuple[str, float]:
    """What a sound says, in English, and its seconds. What is English already is said again."""
    context = await state.service.read([("audio", samples)])
    item = await state.service.item(context, OutputSpec(to="text", language="en"))
    await state.spend(caller, usage_of(context, [item])["total_tokens"])
    return item.item, len(samples) / AUDIO_HZ


def transcription(form: str, task: Task, language: Language, text: str, seconds: float) -> Any:
    """An answer in the form that was asked for, in words of the language."""
    usage = {"type": "duration", "seconds": max(1, round(seconds))}
    if form == "text":
        return text + "\n"
    if form in ("srt", "vtt"):
        return _subtitles(form, text, seconds)
    if form == "verbose_json":
        segment = {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": round(seconds, 3),
            "text": text,
            "tokens": [],
            "temperature": 0.0,
            "avg_logprob": 0.0,
            "compression_ratio": 1.0,
            "no_speech_prob": 0.0,
        }
        return {
            "task": task,
            "language": NAMES[language],
            "duration": round(seconds, 3),
            "text": text,
            "segments": [segment],
            "words": None,
            "usage": usage,
        }
    return {"text": text, "usage": usage}


def _subtitles(form: str, text: str, seconds: float) -> str:
    """The whole sound as one subtitle."""
    whole, rest = divmod(round(seconds * 1000), 1000)
    comma = "," if form == "srt" else "."
    end = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{comma}{rest:03}"
    cue = f"00:00:00{comma}000 --> {end}\n{text}\n"
    return f"1\n{cue}" if form == "srt" else f"WEBVTT\n\n{cue}"


def check_transcription(fields: Mapping[str, Any]) -> None:
    """Raises Problem for what is asked of a transcription and not done."""
    unheeded.refuse(fields, unheeded.TRANSCRIPTION)
    if "word" in (fields.get("timestamp_granularities") or ()):
        raise APIError(
            400,
            "timestamp_granularities 'word': the times of words are not known; give 'segment'",
            "unsupported_value",
            "timestamp_granularities",
        )
    if fields.get("language") not in (None, "", *NAMES):
        raise APIError(
            400,
            f"language {fields['language']!r:.40}: is not heard here; give {' or '.join(NAMES)}, or nothing",
            "invalid_value",
            "language",
        )


async def transcription_events(
    samples: np.ndarray, state: State, caller: Caller
) -> Stream[dict[str, Any] | None]:
    """`transcript.text.delta` word by word, then `transcript.text.done`."""
    yield {}
    codes = await state.service.run_in_pool(state.model.encode, "audio", samples)
    whole, used = "", 0
    async with contextlib.aclosing(state.service.listen(codes)) as made:
        async for event in made:
            if isinstance(event, FinalItem):
                whole, used = event.item, event.tokens
            elif isinstance(event, TextDelta):
                yield {"type": "transcript.text.delta", "delta": event.text}
    await state.spend(caller, len(codes) + used)
    yield {
        "type": "transcript.text.done",
        "text": whole,
        "usage": {
            "type": "tokens",
            "input_tokens": len(codes),
            "output_tokens": used,
            "total_tokens": len(codes) + used,
        },
    }
    yield None
