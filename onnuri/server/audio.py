"""The routes `/v1/audio/speech`, `/v1/audio/transcriptions` and `/v1/audio/translations`: text to
speech and speech to text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Literal

import numpy as np

from onnuri.media.writing import check_answer
from onnuri.modality import AUDIO_HZ, Language, language_of
from onnuri.model.answer import Context
from onnuri.server import unheeded
from onnuri.server.errors import JSON, invalid
from onnuri.server.events import AudioDelta, FinalItem, OutputSpec, Stream, TextDelta
from onnuri.server.schemas import SpeechRequest
from onnuri.server.sound import TYPES, Pcm, encode_sound
from onnuri.server.state import Caller, State
from onnuri.server.streaming import base64_of
from onnuri.server.usage import token_counts

NAMES = {"ko": "korean", "en": "english"}
"""languages, as a transcription names them"""
PIECE_BYTES = 3 * 4096
"""of a file in one event; a multiple of three, so that pieces in base64 can be joined"""
Task = Literal["transcribe", "translate"]


class Speech:
    """The answer to `/v1/audio/speech`. Raises APIError where the sentence is too long or a field
    cannot be followed."""

    def __init__(self, request: SpeechRequest, state: State, caller: Caller) -> None:
        """Check the request and encode its sentence. Raises APIError."""
        self.request, self.state, self.caller = request, state, caller
        self.format = request.response_format or "mp3"
        unheeded.refuse(request.model_extra, unheeded.SPEECH)
        if request.speed not in (None, 1):
            raise invalid(
                f"speed {request.speed:g}",
                "this model speaks at its own pace; give 1",
                field="speed",
            )
        sentence = " ".join(request.input.split())
        self.codes: np.ndarray = state.model.codecs["text"].encode(sentence)
        most = state.model.layout.spec("text").max_codes
        if len(self.codes) > most:
            raise invalid(
                f"input of {len(self.codes)} tokens",
                f"at most {most} are spoken at once; send it in parts",
                field="input",
            )

    async def whole(self) -> tuple[bytes, str]:
        """Return the whole sound as a file, and its media type."""
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, FinalItem):
                    item = event
        check_answer(item.item, "audio")
        await self._spend(item)
        data = await self.state.service.run_in_pool(encode_sound, item.item, self.format)
        return data, TYPES[self.format]

    async def pcm(self) -> Stream[bytes]:
        """Yield raw samples (16 bit) as they are decoded."""
        samples = Pcm()
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, AudioDelta) and (data := samples.send(event.samples)):
                    yield data
                elif isinstance(event, FinalItem):
                    await self._spend(event)
                    yield samples.end()

    async def events(self) -> Stream[JSON | None]:
        """Yield `speech.audio.delta` events, then `speech.audio.done`. Raw samples are sent as they
        are decoded; any other format's file once it is whole."""
        raw, samples = self.format in ("pcm", "pcm16"), Pcm()

        def delta(data: bytes) -> JSON:
            """Return an event with a part of the sound."""
            return {"type": "speech.audio.delta", "audio": base64_of(data)}

        yield {}
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, AudioDelta) and raw and (data := samples.send(event.samples)):
                    yield delta(data)
                elif isinstance(event, FinalItem):
                    usage = await self._spend(event)
                    check_answer(event.item, "audio")
                    rest = samples.end()
                    if not raw:
                        rest = await self.state.service.run_in_pool(
                            encode_sound, event.item, self.format
                        )
                    for at in range(0, len(rest), PIECE_BYTES):
                        yield delta(rest[at : at + PIECE_BYTES])
                    yield {"type": "speech.audio.done", "usage": usage}
        yield None

    async def _events(self) -> Stream[Any]:
        """Yield the model's events of the sound, and record when the first came."""
        request, state = self.request, self.state
        language = request.language or language_of(request.input)
        spec = request.output_spec("audio", language, request.seed_or_any())
        first = state.metrics.first(self.caller.began)
        events = state.service.answer(Context([], 0), spec, self.codes)
        async with aclosing(events):
            async for event in events:
                first.see("audio", isinstance(event, AudioDelta))
                yield event

    async def _spend(self, item: FinalItem) -> JSON:
        """Count the tokens towards the caller's limit, and return them as the usage."""
        await self.state.spend(self.caller, len(self.codes) + item.tokens)
        return token_counts(len(self.codes), item.tokens)


async def transcribe(
    samples: np.ndarray, state: State, caller: Caller
) -> tuple[Language, str, float]:
    """Return the language of a sound [T] at 16 kHz, its words, and its length in seconds."""
    codes = await state.service.run_in_pool(state.model.encode, "audio", samples)
    language, words = await state.service.run_pipeline(state.model.answers.hear(codes))
    await state.spend(caller, len(codes) + len(words))
    return language, state.model.codecs["text"].decode(words), len(samples) / AUDIO_HZ


async def translate(
    samples: np.ndarray, state: State, caller: Caller
) -> tuple[Language, str, float]:
    """Return "en", the English words for what a sound [T] at 16 kHz says, and its length in
    seconds; English is written as it is heard."""
    context = await state.service.read([("audio", samples)])
    item = await state.service.item(context, OutputSpec(to="text", language="en"))
    await state.account(caller, context, [item])
    return "en", item.item, len(samples) / AUDIO_HZ


def transcription(form: str, task: Task, language: Language, text: str, seconds: float) -> Any:
    """Return a transcription in the format `form`: a string, or JSON fields."""
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
    """Return a transcription as subtitles (`srt` or `vtt`) with one cue for the whole sound."""
    whole, rest = divmod(round(seconds * 1000), 1000)
    comma = "," if form == "srt" else "."
    end = f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{comma}{rest:03}"
    cue = f"00:00:00{comma}000 --> {end}\n{text}\n"
    return f"1\n{cue}" if form == "srt" else f"WEBVTT\n\n{cue}"


def check_transcription(fields: Mapping[str, Any]) -> None:
    """Raise APIError for fields of a transcription request that ask for something that is not
    done."""
    unheeded.refuse(fields, unheeded.TRANSCRIPTION)
    if "word" in (fields.get("timestamp_granularities") or ()):
        raise invalid(
            "timestamp_granularities 'word'",
            "the times of words are not known; give 'segment'",
            field="timestamp_granularities",
            code="unsupported_value",
        )
    if fields.get("language") not in (None, "", *NAMES):
        raise invalid(
            f"language {fields['language']!r:.40}",
            f"is not heard here; give {' or '.join(NAMES)}, or nothing",
            field="language",
        )


async def transcription_events(
    samples: np.ndarray, state: State, caller: Caller
) -> Stream[JSON | None]:
    """Yield `transcript.text.delta` events word by word, then `transcript.text.done`."""
    yield {}
    codes = await state.service.run_in_pool(state.model.encode, "audio", samples)
    whole, output_tokens = "", 0
    async with aclosing(state.service.listen(codes)) as events:
        async for event in events:
            if isinstance(event, FinalItem):
                whole, output_tokens = event.item, event.tokens
            elif isinstance(event, TextDelta):
                yield {"type": "transcript.text.delta", "delta": event.text}
    await state.spend(caller, len(codes) + output_tokens)
    usage = {"type": "tokens", **token_counts(len(codes), output_tokens)}
    yield {"type": "transcript.text.done", "text": whole, "usage": usage}
    yield None
