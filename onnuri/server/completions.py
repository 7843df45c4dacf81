"""`/v1/completions`: text that goes on from text, and how likely every token of it is. What
evaluation harnesses ask.

With `echo` the prompt's own tokens are put in one by one, so that each has its score. Scores are of
text's tokens and its end, not of the whole vocabulary. A prompt of ids has those of the model's
tokenizer (`onnuri export` writes it).
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import time
from typing import Any

import numpy as np

from onnuri.inference.request import TokenScore
from onnuri.modality import Language, language_of
from onnuri.server import unheeded
from onnuri.server.chat import stopped
from onnuri.server.errors import APIError
from onnuri.server.events import FinalItem, OutputSpec, Stream, TextDelta
from onnuri.server.merge_streams import beside
from onnuri.server.pool import kind
from onnuri.server.schemas import CompletionRequest
from onnuri.server.state import Caller, State

MOST = 128
"""answers of one request: prompts times n"""


@dataclasses.dataclass
class Part:
    """One prompt, and what comes of it."""

    codes: np.ndarray
    """of text"""
    lead: str
    """a special token before them, which is echoed and no more"""
    language: Language
    seed: int
    text: str = ""
    finish: str = "length"
    tokens: int = 0
    """that were drawn"""
    scores: list[tuple[int, TokenScore]] = dataclasses.field(default_factory=list)


async def complete(request: CompletionRequest, state: State, caller: Caller) -> dict[str, Any]:
    """All answers, whole."""
    parts, id = _parts(request, state), f"cmpl-{secrets.token_hex(12)}"
    async with contextlib.aclosing(_events(request, parts, state)) as made:
        async for place, event in made:
            _take(parts[place], event)
    usage = _usage(parts)
    await state.spend(caller, usage["total_tokens"])
    return {
        "id": id,
        "object": "text_completion",
        "created": int(time.time()),
        "model": state.settings.name,
        "usage": usage,
        "choices": [
            {
                "index": k,
                "text": _echoed(part, request, state) + part.text,
                "finish_reason": part.finish,
                "logprobs": _logprobs(part, request, state),
            }
            for k, part in enumerate(parts)
        ],
    }


async def stream(
    request: CompletionRequest, state: State, caller: Caller
) -> Stream[dict[str, Any] | None]:
    """Chunks of text; scores are told by whole answers alone."""
    if request.logprobs is not None:
        raise APIError(
            400,
            "logprobs: are told with whole answers; leave stream out",
            "invalid_value",
            "logprobs",
        )
    parts, id, created = _parts(request, state), f"cmpl-{secrets.token_hex(12)}", int(time.time())

    def chunk(k: int, text: str, finish: str | None = None) -> dict[str, Any]:
        return {
            "id": id,
            "object": "text_completion",
            "created": created,
            "model": state.settings.name,
            "choices": [{"index": k, "text": text, "finish_reason": finish, "logprobs": None}],
        }

    yield {}
    for k, part in enumerate(parts):
        if request.echo:
            yield chunk(k, _echoed(part, request, state))
    async with contextlib.aclosing(_events(request, parts, state)) as made:
        async for k, event in made:
            _take(parts[k], event)
            if isinstance(event, TextDelta) and event.text:
                yield chunk(k, event.text)
            elif isinstance(event, FinalItem):
                yield chunk(k, "", parts[k].finish)
    usage = _usage(parts)
    await state.spend(caller, usage["total_tokens"])
    if request.stream_options and request.stream_options.include_usage:
        yield {**chunk(0, ""), "choices": [], "usage": usage}
    yield None


def _parts(request: CompletionRequest, state: State) -> list[Part]:
    """Every answer that is wanted. Raises Problem."""
    unheeded.refuse(request.model_extra, unheeded.COMPLETION)
    if request.best_of not in (None, 1, request.n):
        raise APIError(
            400,
            f"best_of {request.best_of}: no answer is chosen among others; leave it out",
            "unsupported_value",
            "best_of",
        )
    prompts: list[Any] = request.prompt if isinstance(request.prompt, list) else [request.prompt]
    if prompts and isinstance(prompts[0], int):
        prompts = [prompts]
    count = len(prompts) * (request.n or 1)
    if not 1 <= count <= MOST:
        raise APIError(
            400, f"prompt: asks for {count} answers; give 1 to {MOST}", "invalid_value", "prompt"
        )
    kind.set("text")
    seed = request.seed if request.seed is not None else secrets.randbits(31)
    return [
        _part(prompt, f"prompt[{k}]" if len(prompts) > 1 else "prompt", seed + j, request, state)
        for k, prompt in enumerate(prompts)
        for j in range(request.n or 1)
    ]


def _part(
    prompt: str | list[int], name: str, seed: int, request: CompletionRequest, state: State
) -> Part:
    text, lead = state.model.codecs["text"], ""
    if isinstance(prompt, str):
        codes = text.encode(prompt)
    else:
        most = text.num_codes
        special = next(
            (
                token
                for token, id in state.model.layout.special_ids.items()
                if prompt and id == prompt[0]
            ),
            None,
        )
        if special:  # what begins a prompt where a harness has nothing else
            lead, prompt = special, prompt[1:]
        if any(not 0 <= token < most for token in prompt):
            wrong = next(token for token in prompt if not 0 <= token < most)
            raise APIError(
                400,
                f"{name}: {wrong} is no token of text; give ids of 0 to {most - 1}, or a string",
                "invalid_value",
                "prompt",
            )
        codes = np.array(prompt, dtype=np.int64)
    room = state.model.answers.positions - _longest(request) - 8
    if len(codes) > room:
        raise APIError(
            400,
            f"{name}: has {len(codes)} tokens, {max(room, 0)} at most fit beside max_tokens; give fewer",
            "context_length_exceeded",
            "prompt",
        )
    return Part(codes, lead, request.language or language_of(text.decode(codes)), seed)


def _longest(request: CompletionRequest) -> int:
    return 16 if request.max_tokens is None else request.max_tokens


async def _events(
    request: CompletionRequest, parts: list[Part], state: State
) -> Stream[tuple[int, Any]]:
    """(place, Words or Item) of all answers, side by side; with scores of the prompt where they are
    echoed."""
    scored = request.logprobs is not None

    async def one(part: Part) -> Stream[Any]:
        made = state.service.going_on(
            part.codes,
            part.language,
            OutputSpec(
                to="text",
                seed=part.seed,
                temperature=request.temperature,
                top_p=request.top_p,
                likeliest=request.logprobs,
            ),
            _longest(request),
            echo=scored and bool(request.echo),
            scored=part.scores if scored else None,
        )
        async with contextlib.aclosing(stopped(made, request.stop, None)) as events:
            async for event in events:
                yield event

    async with contextlib.aclosing(beside([one(part) for part in parts])) as made:
        async for place, event in made:
            yield place, event


def _take(part: Part, event: Any) -> None:
    if isinstance(event, TextDelta):
        part.text += event.text
    elif isinstance(event, FinalItem):
        part.text, part.finish, part.tokens = event.item, event.finish, event.tokens


def _echoed(part: Part, request: CompletionRequest, state: State) -> str:
    return str(state.model.codecs["text"].decode(part.codes)) if request.echo else ""


def _logprobs(part: Part, request: CompletionRequest, state: State) -> dict[str, Any] | None:
    """In the fields of this API: tokens side by side, each with what was likeliest in its place,
    and where it begins."""
    if request.logprobs is None:
        return None
    codec = state.model.codecs["text"]
    drawn, offsets = _standing(part, len(_echoed(part, request, state)) + len(part.text), codec)
    scores: list[tuple[str, float | None, dict[str, float] | None]] = []
    if part.lead and request.echo:
        scores.append((part.lead, None, None))
    for code, score in drawn:
        others = {_name(c, codec): p for c, p in score.likeliest[: request.logprobs]}
        scores.append(
            (_name(code, codec), score.logprob, {**others, _name(code, codec): score.logprob})
        )
    return {
        "tokens": [name for name, *_ in scores],
        "token_logprobs": [p for _, p, _ in scores],
        "top_logprobs": [top for *_, top in scores],
        "text_offset": [0] * (len(scores) - len(offsets)) + offsets,
    }


def _standing(
    part: Part, length: int, codec: Any
) -> tuple[list[tuple[int, TokenScore]], list[int]]:
    """The tokens that an answer of so many letters is made of, which a stop sequence may have cut,
    and where each begins."""
    kept, offsets, at, rest = list[tuple[int, TokenScore]](), list[int](), 0, b""
    for code, score in part.scores:
        ends = code >= len(codec.pieces)
        if at > length or (at == length and not ends and not rest and length):
            break
        kept.append((code, score))
        offsets.append(at)
        rest += b"" if ends else codec.pieces[code]
        try:  # a letter's first tokens begin where the letter does
            at, rest = at + len(rest.decode()), b""
        except UnicodeDecodeError:
            continue
    return kept, offsets


def _name(code: int, codec: Any) -> str:
    """A token as a string; a part of a letter by its bytes, as OpenAI writes it."""
    if code >= len(codec.pieces):
        return str(codec.spec.close)
    try:
        return str(codec.pieces[code].decode())
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in codec.pieces[code])


def _usage(parts: list[Part]) -> dict[str, Any]:
    given, made = sum(len(part.codes) for part in parts), sum(part.tokens for part in parts)
    return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
