"""The route `/v1/chat/completions`: a conversation in, any media out, whole or streamed."""

from __future__ import annotations

import dataclasses
import secrets
import time
from contextlib import aclosing
from typing import Any

from onnuri.errors import MediaError
from onnuri.media import writing
from onnuri.media.audio import is_silent
from onnuri.modality import TABLE, Modality
from onnuri.model.answer import Context
from onnuri.server import unheeded
from onnuri.server.conversation import (
    SHOWN,
    URL,
    Turn,
    answer_events,
    context_of,
    notices_of_unknown,
    turn_of,
)
from onnuri.server.errors import JSON, invalid
from onnuri.server.events import AudioDelta, FinalItem, PartialImage, Stream, TextDelta
from onnuri.server.logprobs import logprobs_of
from onnuri.server.merge_streams import merge_streams
from onnuri.server.pool import kind
from onnuri.server.schemas import MODALITY, ChatRequest
from onnuri.server.sound import PCM_HZ, Pcm, encode_sound
from onnuri.server.state import Caller, State
from onnuri.server.streaming import base64_of
from onnuri.server.tools import ToolCall, call_of, grammar_of
from onnuri.server.usage import TokenUsage

SILENT = {
    "type": "audio",
    "message": "the answer (audio): has nothing to be heard in it; ask for something else",
}
EXPIRES = 3600
"""seconds for which an answer's sound can be referred to by its id"""


@dataclasses.dataclass
class ChatChoice:
    """One choice of an answer as it grows."""

    only: bool
    """whether one modality is all that is wanted"""
    sound_id: str = dataclasses.field(default_factory=lambda: f"audio_{secrets.token_hex(12)}")
    content: str | None = None
    finish: str = "stop"
    items: list[FinalItem] = dataclasses.field(default_factory=list)
    scores: list[Any] = dataclasses.field(default_factory=list)
    """of the words, in the client's fields"""

    def add(self, item: FinalItem) -> None:
        """Add a whole item to the choice; a text becomes its content, and a cut item its reason to
        end."""
        self.items.append(item)
        if item.modality == "text":
            self.content = item.item
        if item.finish == "length":
            self.finish = "length"

    def finish_reason(self, turn: Turn) -> str:
        """Return why the choice ended, in OpenAI's terms."""
        return "tool_calls" if turn.calls and self.finish == "stop" else self.finish


class ChatAnswer:
    """The answer to one request, whole or in chunks."""

    def __init__(self, request: ChatRequest, state: State, caller: Caller) -> None:
        """Take a request, the state of its model, and its caller."""
        self.request, self.state, self.caller = request, state, caller
        self.id, self.created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        self.choices: list[ChatChoice] = []

    async def whole(self) -> JSON:
        """Return the whole answer. Raises APIError and MediaError."""
        turn, context = await self._prepare()
        async with aclosing(self._events(turn, context)) as events:
            async for k, (modality, event) in events:
                if isinstance(event, FinalItem):
                    self.choices[k].add(event)
                elif isinstance(event, TextDelta) and modality == "text":
                    self.choices[k].scores += self._scores(event)
        usage = await self._spend(context)
        choices = [
            {"index": k, **await whole_choice(choice, self.request, turn, self.state)}
            for k, choice in enumerate(self.choices)
        ]
        more = await notices_of_unknown(context, turn.asker, self.state, turn.missing)
        return {**self._response_fields("chat.completion", choices), "usage": usage.chat(), **more}

    async def chunks(self) -> Stream[JSON | None]:
        """Yield the chunks of a stream; the first once inputs are read, so that an error in them
        still has a status. The last is None."""
        turn, context = await self._prepare()
        first = self.state.metrics.first(self.caller.began)
        streams = [StreamedChoice(choice, turn, self.state) for choice in self.choices]

        def chunk(*choices: JSON) -> JSON:
            """Return a chunk with some choices."""
            return self._response_fields("chat.completion.chunk", list(choices))

        def delta(k: int, delta: JSON, scores: Any = ()) -> JSON:
            """Return a choice of a chunk with what it adds."""
            return {
                "index": k,
                "delta": delta,
                "finish_reason": None,
                "logprobs": _logprobs(scores),
            }

        for k in range(len(streams)):
            yield chunk(delta(k, {"role": "assistant", "content": None}))
        async with aclosing(self._events(turn, context)) as events:
            async for k, (modality, event) in events:
                first.see(modality, isinstance(event, AudioDelta))
                scores = self._scores(event) if isinstance(event, TextDelta) else []
                for part in await streams[k].deltas(modality, event):
                    yield chunk(delta(k, part, scores))
        more = await notices_of_unknown(context, turn.asker, self.state, turn.missing)
        for k, choice in enumerate(self.choices):
            finish_reason = choice.finish_reason(turn)
            yield {**chunk({**delta(k, {}), "finish_reason": finish_reason}), **more}
        usage = await self._spend(context)
        if self.request.stream_options and self.request.stream_options.include_usage:
            yield {**chunk(), "usage": usage.chat()}
        yield None

    async def _prepare(self) -> tuple[Turn, Context]:
        """Check the request, and read its inputs into the model's context. Raises APIError and
        MediaError."""
        request, state = self.request, self.state
        audio = request.audio
        streams_file = request.stream and audio and audio.format not in ("pcm16", "pcm")
        if streams_file and "audio" in request.wanted:
            assert audio
            raise invalid(
                f"audio.format {audio.format!r}",
                f"a stream's sound is pcm16, at {PCM_HZ} Hz; give 'pcm16'",
                field="audio.format",
            )
        order = list(MODALITY)
        kind.set(MODALITY[max(request.wanted, key=order.index)])
        unheeded.refuse(request.model_extra, unheeded.CHAT)
        turn = await turn_of(request, state)
        wanted = {MODALITY[name] for name in request.wanted}
        self.state = state = await state.ask(wanted, turn.inputs)
        turn.missing = tuple(m for m in MODALITY.values() if m in wanted - {*state.model.codecs})
        only = len(wanted - {*turn.missing}) == 1
        self.choices = [ChatChoice(only) for _ in range(request.n or 1)]
        if (compile_grammar := grammar_of(request)) is not None:
            turn.grammar = await state.service.run_in_pool(
                lambda: compile_grammar(state.service.grammars)
            )
        return turn, await context_of(request, turn, state)

    async def _events(self, turn: Turn, context: Context) -> Stream[tuple[int, Any]]:
        """Yield (index of the choice, (modality, event)) of all choices as they come, each sampled
        with a seed of its own."""
        seed = self.request.seed_or_any()
        streams = []
        for k in range(len(self.choices)):
            request = self.request.model_copy(update={"seed": seed + k})
            streams.append(answer_events(request, turn, context, self.state))
        async with aclosing(merge_streams(streams)) as merged:
            async for event in merged:
                yield event

    def _response_fields(self, object: str, choices: list[JSON]) -> JSON:
        """Return the fields of an answer or of a chunk, with its choices."""
        return {
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.state.name,
            "choices": choices,
        }

    def _scores(self, event: TextDelta) -> list[JSON]:
        """Return the scores of a part of a text in the client's fields."""
        return logprobs_of(event.scores, self.state.model.codecs["text"])

    async def _spend(self, context: Context) -> TokenUsage:
        """Count the tokens of all choices towards the caller's limit, and return them."""
        items = [item for choice in self.choices for item in choice.items]
        return await self.state.account(self.caller, context, items)


async def whole_choice(choice: ChatChoice, request: ChatRequest, turn: Turn, state: State) -> JSON:
    """Return a choice in the client's fields. Raises MediaError where the only modality that was
    asked for came out empty."""
    message: JSON = {"role": "assistant", "content": choice.content, "refusal": None}

    def add(field: str, part: JSON) -> None:
        """Append a part to a list in the message."""
        message[field] = [*message.get(field, []), part]

    for item in choice.items:
        if item.modality == "text" and turn.calls:
            message |= {"content": None, "tool_calls": call_of(item.item) or None}
        elif item.modality == "audio" and is_silent(item.item):
            add("failures", SILENT)
        elif item.modality == "audio":
            form = request.audio.format if request.audio else "wav"
            data = await state.service.run_in_pool(encode_sound, item.item, form)
            message["audio"] = {
                "id": choice.sound_id,
                "data": base64_of(data),
                "transcript": item.transcript,
                "expires_at": int(time.time()) + EXPIRES,
            }
        elif item.modality in SHOWN:
            add(*await _media_or_failure(item, choice, state))
    return {
        "message": message,
        "finish_reason": choice.finish_reason(turn),
        "logprobs": _logprobs(choice.scores),
    }


class StreamedChoice:
    """One choice of a stream: turns the answer's events into what its chunks add."""

    def __init__(self, choice: ChatChoice, turn: Turn, state: State) -> None:
        self.choice, self.state, self.pcm, self.pictures = choice, state, Pcm(), 0
        self.call = ToolCall() if turn.calls else None

    async def deltas(self, modality: Modality, event: Any) -> list[JSON]:
        """Return what an event adds to the message, as a list of deltas."""
        if isinstance(event, TextDelta):
            if modality == "audio":
                return [self._audio(transcript=event.text)]
            if self.call:
                return [{"tool_calls": [part]} for part in self.call.send(event.text)]
            return [{"content": event.text}]
        if isinstance(event, AudioDelta):
            data = self.pcm.send(event.samples)
            return [self._audio(data=base64_of(data))] if data else []
        if isinstance(event, PartialImage):
            part = await _media_part(event.image, "image", self.state)
            place = {"index": self.pictures, "partial_image_index": event.index}
            self.pictures += 1
            return [{"images": [{**place, **part}]}]
        self.choice.add(event)
        if modality == "audio":
            rest = base64_of(self.pcm.end())
            return [self._audio(data=rest, expires_at=int(time.time()) + EXPIRES)]
        if modality in SHOWN:
            field, part = await _media_or_failure(event, self.choice, self.state)
            index = self.pictures if modality == "image" else 0
            return [{field: [{"index": index, **part}]}]
        return []

    def _audio(self, **fields: Any) -> JSON:
        """Return a delta of the choice's sound."""
        return {"audio": {"id": self.choice.sound_id, **fields}}


def _logprobs(scores: Any) -> JSON | None:
    """Return scores as a choice has them, None where there are none: words that were not sampled (a
    sentence that is repeated) have none."""
    return {"content": list(scores), "refusal": None} if scores else None


async def _media_or_failure(item: FinalItem, choice: ChatChoice, state: State) -> tuple[str, JSON]:
    """Return the message's field for an item, and the part to append to it: the file, or why there
    is none. An item that came out empty (a shape without surface) does not take the others with it.
    Raises MediaError where it is the only one."""
    try:
        await state.service.run_in_pool(writing.check_answer, item.item, item.modality)
        return SHOWN[item.modality], await _media_part(item.item, item.modality, state)
    except MediaError as error:
        if choice.only:
            raise
        return "failures", {"type": URL[item.modality], "message": str(error)}


async def _media_part(item: Any, modality: Modality, state: State) -> JSON:
    """Return a picture, video or shape as a part of a message, with its file as a data URI."""
    row, name = TABLE[modality], URL[modality]
    data = await state.service.run_in_pool(writing.to_bytes, item, row.suffixes[0])
    return {"type": name, name: {"url": f"data:{row.media_type};base64,{base64_of(data)}"}}
