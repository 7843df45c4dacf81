"""A conversation as inputs of the model, and the model's answer to it, for every API that has
conversations.

The model is asked the last user's message; where that is a question or an instruction in words
only, the last medium that was shown in the conversation before it goes in too ("make it blue"). A
small model knows no more of a conversation than that.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from pydantic import TypeAdapter, ValidationError

from onnuri.inference.constraints import Grammar
from onnuri.modality import LANGUAGES, Language, Modality
from onnuri.model.answer import Context
from onnuri.model.asking import LONGEST_SENTENCE, language_asked, wish_of
from onnuri.model.front_end import Notice
from onnuri.server import inputs
from onnuri.server.complaints import rule_of
from onnuri.server.errors import JSON, invalid
from onnuri.server.events import FinalItem, OutputSpec, Stream, TextDelta
from onnuri.server.merge_streams import merge_streams
from onnuri.server.schemas import API_NAMES, MODALITY, ChatRequest, Message, ValidText
from onnuri.server.state import State
from onnuri.server.words import KINDS

SHOWN = {"image": "images", "video": "videos", "shape": "meshes"}
"""the field of a message for each medium"""
URL = {"image": "image_url", "video": "video_url", "shape": "mesh_url"}
_INSTRUCTION = re.compile(
    r"^(please |now )*(make|change|turn|move|replace|add|remove|put|let|set|paint|color|colour|"
    r"swap|delete|describe|translate)\b|(라|해|줘|주세요|십시오|하세요|보세요|세요)$"
)
"""how an instruction begins in English and ends in Korean"""


@dataclasses.dataclass
class Turn:
    """The inputs that a conversation asks the model about, and how it is to answer."""

    inputs: list[Any]
    language: Language
    """of the answer"""
    only_words: bool
    """whether it is a lone sentence"""
    asker: Language
    """in which the asker is told what the model does not know"""
    grammar: Grammar | None = None
    """of the answer's text"""
    missing: tuple[Modality, ...] = ()
    """modalities that are wanted, and that the model does not have"""

    @property
    def calls(self) -> bool:
        """Return whether the answer is a call of a tool instead of words."""
        return self.grammar is not None and self.grammar.calls


async def turn_of(request: ChatRequest, state: State, field: str = "messages") -> Turn:
    """Return the inputs of the last user's message, with the medium that it refers back to. Errors
    call the messages by the request's `field`. Raises APIError and MediaError."""
    at = max((k for k, m in enumerate(request.messages) if m.role == "user"), default=None)
    if at is None:
        raise invalid(field, "none is the user's; add one with role 'user'")
    own = await _inputs(request.messages[at], f"{field}[{at}]", state)
    words = [item for modality, item in own if modality == "text"]
    if not own:
        raise invalid(f"{field}[{at}]", "is empty; say something or attach a file", field=field)
    if len(words) == len(own) and refers_back(" ".join(words)):
        own = [*await _last_shown(request.messages[:at], state, field), *own]
    language = request.language or (language_asked(words[-1]) if words else LANGUAGES[0])
    return Turn(own, language, len(own) == 1 and bool(words), language)


def refers_back(words: str) -> bool:
    """Return whether words are about what was shown before: a question or an instruction is, a
    statement says something new."""
    bare = words.strip().rstrip(".!。").lower()
    return bool(re.search(r"[?？]\s*$", words) or _INSTRUCTION.search(bare))


async def _inputs(message: Message, name: str, state: State) -> list[Any]:
    """Return [(modality, item), …] of a message, media before words, the order that the model was
    trained on. Raises APIError and MediaError."""
    if isinstance(message.content, str):
        return [("text", message.content)] if message.content.strip() else []
    words: list[str] = []
    media: list[Any] = []
    inputs.check_count(message.content or [], state.model.answers, f"{name}.content")
    for k, part in enumerate(message.content or []):
        here = f"{name}.content[{k}]"
        if part.get("type") == "text":
            words.append(_text(part.get("text"), here))
        else:
            media.append(await state.load(part, here))
    sentence = " ".join(" ".join(words).split())
    return [*media, ("text", sentence)] if sentence else media


def _text(text: Any, name: str) -> str:
    """Return the text of a part. Raises APIError, which calls it `name`, where it is no string."""
    try:
        return TypeAdapter(ValidText).validate_python(text, strict=True)
    except ValidationError as error:
        rule, repair = rule_of(error.errors())
        raise invalid(name, f"{rule}; {repair or 'give a string'}") from None


async def _last_shown(messages: list[Message], state: State, field: str) -> list[Any]:
    """Return, as a list of one input, the last picture, video or shape in earlier messages, of
    whichever role; an empty list where there is none."""
    for k, message in reversed(list(enumerate(messages))):
        parts = [part for name in SHOWN.values() for part in getattr(message, name) or []]
        if isinstance(message.content, list):
            parts += [part for part in message.content if part.get("type") in URL.values()]
        if parts:
            return [await state.load(parts[-1], f"{field}[{k}]")]
    return []


async def context_of(request: ChatRequest, turn: Turn, state: State) -> Context:
    """Return a turn's inputs as the model's context. Where the request names no language, set the
    turn's to the one of the answer."""
    context = await state.service.read(turn.inputs)
    if request.language is not None:
        return context
    if context.heard and context.language and not any(m == "text" for m, *_ in turn.inputs):
        turn.language = turn.asker = context.language
    elif turn.only_words and "text" in request.wanted:
        sentence = str(turn.inputs[0][1])
        wished = wish_of(sentence[:LONGEST_SENTENCE])[0] is not None
        answered = (
            wished or state.model.layout.tasks or state.model.answers.refusal(context, turn.asker)
        )
        # A lone statement is answered in words by its translation, where the model was not taught
        # to say it again in the asker's language (`TokenLayout.tasks`).
        if not answered and "?" not in sentence:
            turn.language = next(other for other in LANGUAGES if other != turn.language)
    return context


async def notices_of_unknown(
    context: Context, language: Language, state: State, missing: Sequence[Modality] = ()
) -> JSON:
    """Return the field `onnuri` of an answer, notices of what the model does not know in its inputs
    and of the modalities that it does not have; no field where it knows and has all."""
    notices = await state.service.run_in_pool(state.model.answers.notices, context, language)
    if missing:
        message = (
            f"{state.name}에는 없는 것: {', '.join(KINDS[modality][0] for modality in missing)}."
            if language == "ko"
            else f"{state.name} has no {', '.join(API_NAMES[modality] for modality in missing)}."
        )
        notices.append(Notice("no_modality", message, tuple(missing)))
    return notices_field(notices)


def notices_field(notices: Sequence[Notice], before: Sequence[JSON] = ()) -> JSON:
    """Return notices, behind those of `before`, as the field `onnuri`; no field where there are
    none."""
    fields = [*before, *(notice.to_json() for notice in notices)]
    return {"onnuri": {"notices": fields}} if fields else {}


def output_specs(request: ChatRequest, turn: Turn) -> list[OutputSpec]:
    """Return one output per modality that is wanted, text first, since speech speaks the text."""
    seed = request.seed_or_any()
    likeliest = (request.top_logprobs or 0) if request.logprobs and not turn.calls else None
    return [
        request.output_spec(
            modality,
            turn.language,
            seed,
            partial=(request.partial_images or 0) if request.stream and modality == "image" else 0,
            grammar=turn.grammar,
            max_tokens=request.most_tokens,
            likeliest=likeliest,
        )
        for modality in MODALITY.values()
        if modality in {MODALITY[name] for name in request.wanted} - set(turn.missing)
    ]


async def answer_events(
    request: ChatRequest, turn: Turn, context: Context, state: State
) -> Stream[Any]:
    """Yield (modality, event) of all modalities that are wanted as they come; speech begins after
    the text that it speaks."""
    specs = output_specs(request, turn)
    written_text: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    has_text = specs[0].to == "text"

    async def events_of(spec: OutputSpec) -> Stream[Any]:
        """Yield (modality, event) of one modality."""
        sentence = None
        if spec.to == "audio" and has_text:
            sentence = state.model.codecs["text"].encode(await asyncio.shield(written_text))
        events = state.service.answer(context, spec, sentence)
        async with aclosing(events):
            if spec.to == "text" and not turn.grammar:
                events = until_stop(events, request.stop, request.most_tokens)
            async for event in events:
                if spec.to == "text" and isinstance(event, FinalItem):
                    written_text.set_result(event.item)
                yield spec.to, event

    async with aclosing(merge_streams([events_of(spec) for spec in specs])) as merged:
        async for _, event in merged:
            yield event


async def until_stop(
    events: Stream[Any], stop: str | list[str] | None, limit: int | None
) -> Stream[Any]:
    """Yield the events of a text up to a stop sequence, which is left out, or up to `limit` pieces.
    Words that may be the beginning of a stop sequence are held back."""
    stops = [s for s in ([stop] if isinstance(stop, str) else stop or []) if s]
    whole, sent, pieces = "", 0, 0
    begins = list[tuple[int, Any]]()
    """of every score that is not sent, where its token begins"""

    def until(end: int) -> TextDelta:
        """Return the part of the text up to a letter that is not told yet, with its scores."""
        scores = [score for begin, score in begins if begin < end]
        del begins[: len(scores)]
        return TextDelta(whole[sent:end], tuple(scores))

    async for event in events:
        if isinstance(event, TextDelta):
            begins += [(len(whole), score) for score in event.scores]
            whole, pieces = whole + event.text, pieces + 1
            cut = min((at for s in stops if (at := whole.find(s)) >= 0), default=None)
            if cut is not None or (limit is not None and pieces >= limit):
                end = len(whole) if cut is None else cut
                if end > sent:
                    yield until(end)
                yield FinalItem("text", whole[:end], pieces, "length" if cut is None else "stop")
                return
            withheld = max(
                (n for s in stops for n in range(1, len(s)) if whole.endswith(s[:n])), default=0
            )
            if len(whole) - withheld > sent:
                yield until(len(whole) - withheld)
                sent = len(whole) - withheld
        elif isinstance(event, FinalItem):
            if len(whole) > sent:
                yield until(len(whole))
            yield event
