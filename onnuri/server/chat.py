"""`/v1/chat/completions`: a conversation in, any media out, whole or streamed.

What the model is asked about is the last user's message; where that is a question or an instruction
in words only, the last thing that was shown in the conversation before it goes in too ("make it
blue"). A small model knows no more of a conversation than that.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from onnuri import media
from onnuri.errors import MediaError
from onnuri.modality import LANGUAGES, TABLE, Language, Medium
from onnuri.model.answer import Context
from onnuri.model.asking import LONGEST_SENTENCE, language_asked, wish_of
from onnuri.model.front_end import Notice
from onnuri.server import intake, unheeded
from onnuri.server.beside import beside
from onnuri.server.complaints import rule_of
from onnuri.server.logprobs import logprobs_of
from onnuri.server.pool import kind
from onnuri.server.problems import Problem, problem_of
from onnuri.server.schemas import MEDIUM, ChatRequest, Message, Said
from onnuri.server.service import Item, Picture, Sound, Stream, Wish, Words
from onnuri.server.sound import PCM_HZ, Pcm, encoded
from onnuri.server.state import Caller, State
from onnuri.server.structure import Structure
from onnuri.server.tools import Calling, call_of, structure_of

SHOWN = {"image": "images", "video": "videos", "shape": "meshes"}
"""a message's fields of media"""
URL = {"image": "image_url", "video": "video_url", "shape": "mesh_url"}
_INSTRUCTION = re.compile(
    r"^(please |now )*(make|change|turn|move|replace|add|remove|put|let|set|paint|color|colour|swap|delete|"
    r"describe|translate)\b|(라|해|줘|주세요|십시오|하세요|보세요|세요)$"
)
"""how an instruction begins in English and ends in Korean"""
SILENT = {
    "type": "audio",
    "message": "the answer (audio): has nothing to be heard in it; ask for something else",
}
EXPIRES = 3600
"""seconds for which an answer's sound can be referred to by its id"""


@dataclasses.dataclass
class Turn:
    """What is asked."""

    given: list[Any]
    language: Language
    """of the answer"""
    only_words: bool
    """whether it is a lone sentence"""
    asker: Language
    """in which the asker is told what the model does not know"""
    structure: Structure | None = None
    """of the answer's text"""

    @property
    def calls(self) -> bool:
        """Whether a tool is called instead of saying something."""
        return self.structure is not None and self.structure.calls


@dataclasses.dataclass
class Reply:
    """The answer as it grows."""

    id: str
    content: str | None = None
    sound_id: str = ""
    transcript: str = ""
    finish: str = "stop"
    items: list[Item] = dataclasses.field(default_factory=list)
    scores: list[Any] = dataclasses.field(default_factory=list)
    """of the words, in the client's fields"""
    only: bool = True
    """whether one medium is all that is wanted"""

    def again(self) -> Reply:
        """Another choice of the same answer, with nothing in it yet."""
        return Reply(self.id, sound_id=f"audio_{secrets.token_hex(12)}", only=self.only)


async def turn_of(request: ChatRequest, state: State, field: str = "messages") -> Turn:
    """The inputs of the last user's message, and of what it speaks about; errors call the messages
    by their `field`. Raises Problem and MediaError."""
    at = max((k for k, m in enumerate(request.messages) if m.role == "user"), default=None)
    if at is None:
        raise Problem(
            400, f"{field}: none is the user's; add one with role 'user'", "invalid_value", field
        )
    given = await _inputs(request.messages[at], f"{field}[{at}]", state)
    words = [item for medium, item in given if medium == "text"]
    if not given:
        raise Problem(
            400, f"{field}[{at}]: is empty; say something or attach a file", "invalid_value", field
        )
    if all(medium == "text" for medium, _ in given) and refers(" ".join(words)):
        given = [*await _shown_before(request.messages[:at], state, field), *given]
    language = request.language or (language_asked(words[-1]) if words else None) or LANGUAGES[0]
    return Turn(given, language, len(given) == 1 and bool(words), language)


def refers(said: str) -> bool:
    """Whether words speak of what was shown before: a question or an instruction does, a statement
    says something new."""
    return bool(
        re.search(r"[?？]\s*$", said) or _INSTRUCTION.search(said.strip().rstrip(".!。").lower())
    )


async def _inputs(message: Message, name: str, state: State) -> list[Any]:
    """[(medium, item), …] of a message, media before words: so the model has learned to be
    asked."""
    if isinstance(message.content, str):
        return [("text", message.content)] if message.content.strip() else []
    words: list[str] = []
    found: list[Any] = []
    intake.check_count(message.content or [], state.model.answers, f"{name}.content")
    for k, part in enumerate(message.content or []):
        here = f"{name}.content[{k}]"
        if part.get("type") == "text":
            words.append(_said(part.get("text"), here))
        else:
            found.append(await state.service.decoded(intake.load, part, here, state.settings))
    said = " ".join(" ".join(words).split())
    return [*found, *([("text", said)] if said else [])]


def _said(text: Any, name: str) -> str:
    try:
        return TypeAdapter(Said).validate_python(text, strict=True)
    except ValidationError as error:
        rule, repair = rule_of(error.errors())
        raise Problem(
            400, f"{name}: {rule}; {repair or 'give a string'}", "invalid_value", name
        ) from None


async def _shown_before(messages: list[Message], state: State, field: str) -> list[Any]:
    """The last thing that can be seen in earlier messages, of whichever side."""
    for k, message in reversed(list(enumerate(messages))):
        parts = [p for field in SHOWN.values() for p in getattr(message, field) or []]
        if isinstance(message.content, list):
            parts += [p for p in message.content if p.get("type") in URL.values()]
        if parts:
            return [
                await state.service.decoded(intake.load, parts[-1], f"{field}[{k}]", state.settings)
            ]
    return []


def wishes(request: ChatRequest, turn: Turn) -> list[Wish]:
    """One for each medium that is wanted, words first: what is spoken is what is written."""
    wanted = list(dict.fromkeys(request.modalities or ["text"]))
    seed = request.seed if request.seed is not None else secrets.randbits(31)
    likeliest = (request.top_logprobs or 0) if request.logprobs and not turn.calls else None
    order = sorted((MEDIUM[w] for w in wanted), key=list(MEDIUM.values()).index)
    return [
        Wish(
            to=m,
            language=turn.language,
            seed=seed,
            temperature=request.temperature,
            top_p=request.top_p,
            guidance=request.guidance,
            partial=(request.partial_images or 0) if request.stream else 0,
            structure=turn.structure,
            longest=_limit(request),
            likeliest=likeliest,
        )
        for m in order
    ]


def _limit(request: ChatRequest) -> int | None:
    return request.max_completion_tokens or request.max_tokens


async def choices(
    request: ChatRequest, turn: Turn, context: Context, state: State
) -> Stream[tuple[int, Any]]:
    """(choice, (medium, event)) of all `n` answers, side by side, each with a seed of its own."""
    seed = request.seed if request.seed is not None else secrets.randbits(31)
    async with contextlib.aclosing(
        beside(
            [
                events(request.model_copy(update={"seed": seed + k}), turn, context, state)
                for k in range(request.n or 1)
            ]
        )
    ) as made:
        async for event in made:
            yield event


async def events(request: ChatRequest, turn: Turn, context: Context, state: State) -> Stream[Any]:
    """(medium, event) of all that is wanted, side by side, but speech after the text that it
    speaks."""
    wanted = wishes(request, turn)
    written: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    has_text = wanted[0].to == "text"

    async def one(wish: Wish) -> Stream[Any]:
        sentence = None
        if wish.to == "audio" and has_text:
            sentence = state.model.codecs["text"].encode(await asyncio.shield(written))
        async with contextlib.aclosing(state.service.answer(context, wish, sentence)) as made:
            words = wish.to == "text" and not turn.structure
            async for event in stopped(made, request.stop, _limit(request)) if words else made:
                if wish.to == "text" and isinstance(event, Item):
                    written.set_result(event.item)
                yield wish.to, event

    async with contextlib.aclosing(beside([one(wish) for wish in wanted])) as made:
        async for _, event in made:
            yield event


async def stopped(
    made: Stream[Any], stop: str | list[str] | None, limit: int | None
) -> Stream[Any]:
    """Words until a stop sequence, which is not told, or until there are `limit` of them. Words
    that may be the beginning of a stop sequence are held back."""
    stops = [s for s in ([stop] if isinstance(stop, str) else stop or []) if s]
    whole = told = ""
    pieces, begins = 0, list[tuple[int, Any]]()
    """of every score that is not told, where its token begins"""

    def until(end: int) -> Words:
        scores = [score for begin, score in begins if begin < end]
        del begins[: len(scores)]
        return Words(whole[len(told) : end], tuple(scores))

    async for event in made:
        if isinstance(event, Words):
            begins += [(len(whole), score) for score in event.scores]
            whole, pieces = whole + event.text, pieces + 1
            cut = min((at for s in stops if (at := whole.find(s)) >= 0), default=None)
            if cut is not None or (limit is not None and pieces >= limit):
                end = len(whole) if cut is None else cut
                if end > len(told):
                    yield until(end)
                yield Item("text", whole[:end], pieces, "stop" if cut is not None else "length")
                return
            held = max(
                (n for s in stops for n in range(1, len(s)) if whole.endswith(s[:n])), default=0
            )
            if len(whole) - held > len(told):
                yield until(len(whole) - held)
                told = whole[: len(whole) - held]
        elif isinstance(event, Item):
            if len(whole) > len(told):
                yield until(len(whole))
            yield event


async def complete(request: ChatRequest, state: State, caller: Caller) -> dict[str, Any]:
    """The whole answer."""
    turn, context, reply = await _begin(request, state, caller)
    replies = [reply.again() for _ in range(request.n or 1)]
    async with contextlib.aclosing(choices(request, turn, context, state)) as made:
        async for k, (medium, event) in made:
            if isinstance(event, Item):
                _take(replies[k], event)
            elif isinstance(event, Words) and medium == "text":
                replies[k].scores += logprobs_of(event.scores, state.model.codecs["text"])
    usage = usage_of(context, [item for r in replies for item in r.items])
    await state.spend(caller, usage["total_tokens"])
    return {
        "id": reply.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": state.settings.name,
        "choices": [
            {"index": k, **await _choice(r, request, turn, state)} for k, r in enumerate(replies)
        ],
        "usage": usage,
        **await unknown(context, turn.asker, state),
    }


async def unknown(context: Context, language: Language, state: State) -> dict[str, Any]:
    """The field `onnuri` of an answer: what the model does not know of what it was given; none
    where it knows all."""
    return field_of(await state.service.aside(state.model.answers.notices, context, language))


def field_of(found: Sequence[Notice], before: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Return notices, behind those that were told before, as the field `onnuri`; nothing where
    there are none."""
    told = [*before, *(notice.to_json() for notice in found)]
    return {"onnuri": {"notices": told}} if told else {}


async def _choice(reply: Reply, request: ChatRequest, turn: Turn, state: State) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": None}
    form = request.audio.format if request.audio else "wav"
    for item in reply.items:
        if item.medium == "text" and turn.calls:
            message |= {"content": None, "tool_calls": call_of(item.item) or None}
        elif item.medium == "audio":
            if media.is_silent(item.item):
                message["failures"] = [*message.get("failures", []), SILENT]
                continue
            data = await state.service.aside(encoded, item.item, form)
            message["audio"] = {
                "id": reply.sound_id,
                "data": base64_of(data),
                "transcript": item.transcript,
                "expires_at": int(time.time()) + EXPIRES,
            }
        elif item.medium in SHOWN:
            field, part = await _shown_or_why_not(item, reply, state)
            message[field] = [*message.get(field, []), part]
    return {
        "message": message,
        "finish_reason": _finish(reply, turn),
        "logprobs": _logprobs(reply.scores),
    }


async def stream(
    request: ChatRequest, state: State, caller: Caller
) -> Stream[dict[str, Any] | None]:
    """Chunks; the first once inputs are read, so that what is wrong with them is still an error
    with a status."""
    turn, context, reply = await _begin(request, state, caller)
    created, first = int(time.time()), state.metrics.first(caller.began)
    telling = [_Telling(reply.again(), turn, state) for _ in range(request.n or 1)]

    def chunk(
        k: int, delta: dict[str, Any], finish: str | None = None, scores: Any = ()
    ) -> dict[str, Any]:
        return {
            "id": reply.id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": state.settings.name,
            "choices": [
                {"index": k, "delta": delta, "finish_reason": finish, "logprobs": _logprobs(scores)}
            ],
        }

    for k in range(len(telling)):
        yield chunk(k, {"role": "assistant", "content": None})
    async with contextlib.aclosing(choices(request, turn, context, state)) as made:
        async for k, (medium, event) in made:
            first.see(medium, isinstance(event, Sound))
            scores = (
                logprobs_of(event.scores, state.model.codecs["text"])
                if isinstance(event, Words)
                else []
            )
            for delta in await telling[k].deltas(medium, event):
                yield chunk(k, delta, scores=scores)
    more = await unknown(context, turn.asker, state)
    for k, told in enumerate(telling):
        yield {**chunk(k, {}, _finish(told.reply, turn)), **more}
    usage = usage_of(context, [item for told in telling for item in told.reply.items])
    await state.spend(caller, usage["total_tokens"])
    if request.stream_options and request.stream_options.include_usage:
        yield {**chunk(0, {}), "choices": [], "usage": usage}
    yield None


class _Telling:
    """One choice of a stream: what its chunks tell."""

    def __init__(self, reply: Reply, turn: Turn, state: State) -> None:
        self.reply, self.state, self.pcm, self.seen = reply, state, Pcm(), 0
        self.calling = Calling() if turn.calls else None

    async def deltas(self, medium: Medium, event: Any) -> list[dict[str, Any]]:
        """What an event adds."""
        if isinstance(event, Words):
            if medium == "audio":
                return [{"audio": {"id": self.reply.sound_id, "transcript": event.text}}]
            return (
                [{"tool_calls": [part]} for part in self.calling.send(event.text)]
                if self.calling
                else [{"content": event.text}]
            )
        if isinstance(event, Sound):
            data = self.pcm.send(event.samples)
            return [{"audio": {"id": self.reply.sound_id, "data": base64_of(data)}}] if data else []
        if isinstance(event, Picture):
            self.seen += 1
            return [
                {
                    "images": [
                        {
                            "index": self.seen - 1,
                            "partial_image_index": event.index,
                            **await _shown(event.image, "image", self.state),
                        }
                    ]
                }
            ]
        _take(self.reply, event)
        if medium == "audio":
            return [
                {
                    "audio": {
                        "id": self.reply.sound_id,
                        "data": base64_of(self.pcm.end()),
                        "expires_at": int(time.time()) + EXPIRES,
                    }
                }
            ]
        if medium in SHOWN:
            field, part = await _shown_or_why_not(event, self.reply, self.state)
            return [{field: [{"index": self.seen if medium == "image" else 0, **part}]}]
        return []


def _finish(reply: Reply, turn: Turn) -> str:
    return "tool_calls" if turn.calls and reply.finish == "stop" else reply.finish


def _logprobs(scores: Any) -> dict[str, Any] | None:
    """Words that were not drawn (a sentence that is said again) have none."""
    return {"content": list(scores), "refusal": None} if scores else None


async def _begin(request: ChatRequest, state: State, caller: Caller) -> tuple[Turn, Context, Reply]:
    if (
        request.stream
        and request.audio
        and request.audio.format not in ("pcm16", "pcm")
        and "audio" in (request.modalities or [])
    ):
        raise Problem(
            400,
            f"audio.format {request.audio.format!r}: a stream's sound is pcm16, at {PCM_HZ} Hz; give 'pcm16'",
            "invalid_value",
            "audio.format",
        )
    kind.set(
        max((MEDIUM[w] for w in request.modalities or ["text"]), key=list(MEDIUM.values()).index)
    )
    unheeded.refuse(request.model_extra, unheeded.CHAT)
    turn = await turn_of(request, state)
    if (made := structure_of(request)) is not None:
        turn.structure = await state.service.aside(lambda: made(state.service.structures))
    context = await context_of(request, turn, state)
    only = len(set(request.modalities or ["text"])) == 1
    return (
        turn,
        context,
        Reply(
            f"chatcmpl-{secrets.token_hex(12)}",
            sound_id=f"audio_{secrets.token_hex(12)}",
            only=only,
        ),
    )


async def context_of(request: ChatRequest, turn: Turn, state: State) -> Context:
    """A turn's inputs, read; the turn's language is then the answer's."""
    context = await state.service.read(turn.given)
    if (
        context.heard
        and not any(m == "text" for m, *_ in turn.given)
        and request.language is None
        and context.language
    ):
        turn.language = turn.asker = context.language
    elif (
        turn.only_words and request.language is None and "text" in (request.modalities or ["text"])
    ):
        wished = wish_of(str(turn.given[0][1])[:LONGEST_SENTENCE])[0] is not None
        if not (
            wished or state.model.layout.tasks or state.model.answers.refusal(context, turn.asker)
        ):
            turn.language = _answering(turn)
    return context


def _answering(turn: Turn) -> Language:
    """A lone statement is answered in words by its translation, where the model was not taught to
    say it again in the asker's language (`TokenLayout.tasks`)."""
    said = str(turn.given[0][1])
    return turn.language if "?" in said else next(x for x in LANGUAGES if x != turn.language)


def _take(reply: Reply, item: Item) -> None:
    reply.items.append(item)
    if item.medium == "text":
        reply.content = item.item
    if item.finish == "length":
        reply.finish = "length"


async def _shown_or_why_not(item: Item, reply: Reply, state: State) -> tuple[str, dict[str, Any]]:
    """A message's field and what it has more. One medium that came to nothing (a shape without
    surface) does not take the others with it. Raises MediaError where it was the only one."""
    try:
        await state.service.aside(media.check_answer, item.item, item.medium)
        return SHOWN[item.medium], await _shown(item.item, item.medium, state)
    except MediaError as error:
        if reply.only:
            raise
        return "failures", {"type": URL[item.medium], "message": str(error)}


async def _shown(item: Any, medium: Medium, state: State) -> dict[str, Any]:
    row = TABLE[medium]
    data = await state.service.aside(media.to_bytes, item, row.suffixes[0])
    return {
        "type": URL[medium],
        URL[medium]: {"url": f"data:{row.media_type};base64,{base64_of(data)}"},
    }


def usage_of(context: Context, items: list[Item]) -> dict[str, Any]:
    """Tokens by medium, in the client's fields; boundaries count as text."""
    names = {medium: f"{name}_tokens" for name, medium in MEDIUM.items()}
    given = {names[m]: context.given.get(m, 0) for m in names}
    given["text_tokens"] += max(0, len(context.ids) - sum(given.values()))
    made = {name: 0 for name in names.values()}
    for item in items:
        made[names[item.medium]] += item.tokens
    reused = min(max((item.reused for item in items), default=0), sum(given.values()))
    return {
        "prompt_tokens": sum(given.values()),
        "completion_tokens": sum(made.values()),
        "total_tokens": sum(given.values()) + sum(made.values()),
        "prompt_tokens_details": {"cached_tokens": reused, **given},
        "completion_tokens_details": {"reasoning_tokens": 0, **made},
    }


def error_of(problem: Problem) -> dict[str, Any]:
    """What goes wrong in a stream, as its last event."""
    return problem.body


async def sse(
    chunks: Stream[dict[str, Any] | None], failed: Callable[[Problem], dict[str, Any]] = error_of
) -> Stream[bytes]:
    """Server-sent events of chunks; what goes wrong on the way is the last of them."""
    async with contextlib.aclosing(chunks) as made:
        try:
            async for chunk in made:
                yield b"data: [DONE]\n\n" if chunk is None else _event(chunk)
        except Exception as error:
            yield _event(failed(problem_of(error)))


def _event(body: dict[str, Any]) -> bytes:
    named = f"event: {body['type']}\n" if "type" in body else ""
    return f"{named}data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()
