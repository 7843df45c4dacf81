"""The route `/v1/completions`: text that continues text, and how likely each of its tokens is.
Evaluation harnesses ask it.

With `echo` the prompt's own tokens are forced one by one, so that each has its score. Scores are
among text's tokens and its end, not the whole vocabulary. A prompt of ids has those of the model's
tokenizer (`onnuri export` writes it).
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from contextlib import aclosing
from typing import Any

import numpy as np

from onnuri.inference.request import TokenScore
from onnuri.modality import Language, language_of
from onnuri.server import unheeded
from onnuri.server.conversation import until_stop
from onnuri.server.errors import JSON, invalid
from onnuri.server.events import FinalItem, Stream, TextDelta
from onnuri.server.merge_streams import merge_streams
from onnuri.server.pool import kind
from onnuri.server.schemas import CompletionRequest
from onnuri.server.state import Caller, State
from onnuri.server.usage import token_counts

MOST = 128
"""answers of one request: prompts times n"""
ENDS = 8
"""positions beside the prompt and the answer"""


@dataclasses.dataclass
class Completion:
    """One prompt, and the text that continues it so far."""

    codes: np.ndarray
    """of text"""
    lead: str
    """a special token before them, which is echoed and no more"""
    language: Language
    seed: int
    text: str = ""
    finish: str = "length"
    tokens: int = 0
    """sampled tokens"""
    scores: list[tuple[int, TokenScore]] = dataclasses.field(default_factory=list)

    def add(self, event: Any) -> None:
        """Take in an event of the answer: more of the text, or the whole of it with its end."""
        if isinstance(event, TextDelta):
            self.text += event.text
        elif isinstance(event, FinalItem):
            self.text, self.finish, self.tokens = event.item, event.finish, event.tokens


class CompletionAnswer:
    """The answer to one request, whole or in chunks. Raises APIError."""

    def __init__(self, request: CompletionRequest, state: State, caller: Caller) -> None:
        """Take a request, the state of its model, and its caller."""
        self.request, self.state, self.caller = request, state, caller
        self.id, self.created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        self.codec = state.model.codecs["text"]
        self.max_tokens = 16 if request.max_tokens is None else request.max_tokens
        self.completions: list[Completion] = []

    async def whole(self) -> JSON:
        """Return all completions in the fields of the API."""
        self._prepare()
        async with aclosing(self._merged_events()) as events:
            async for _ in events:
                pass
        usage = await self._spend()
        choices = [
            {
                "index": k,
                "text": self._echo(part) + part.text,
                "finish_reason": part.finish,
                "logprobs": self._logprobs(part),
            }
            for k, part in enumerate(self.completions)
        ]
        return {**self._response_fields(choices), "usage": usage}

    async def chunks(self) -> Stream[JSON | None]:
        """Yield chunks of the completions; scores come with whole answers only."""
        if self.request.logprobs is not None:
            raise invalid("logprobs", "are told with whole answers; leave stream out")
        self._prepare()

        def chunk(*choices: JSON) -> JSON:
            """Return a chunk with some choices."""
            return self._response_fields(list(choices))

        def choice(k: int, text: str, finish: str | None = None) -> JSON:
            """Return a choice of a chunk, with more text or the reason why it ended."""
            return {"index": k, "text": text, "finish_reason": finish, "logprobs": None}

        yield {}
        if self.request.echo:
            for k, part in enumerate(self.completions):
                yield chunk(choice(k, self._echo(part)))
        async with aclosing(self._merged_events()) as events:
            async for k, event in events:
                if isinstance(event, TextDelta) and event.text:
                    yield chunk(choice(k, event.text))
                elif isinstance(event, FinalItem):
                    yield chunk(choice(k, "", event.finish))
        usage = await self._spend()
        if self.request.stream_options and self.request.stream_options.include_usage:
            yield {**chunk(), "usage": usage}
        yield None

    def _response_fields(self, choices: list[JSON]) -> JSON:
        """Return the fields of an answer or of a chunk, with its choices."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.state.name,
            "choices": choices,
        }

    async def _spend(self) -> JSON:
        """Count the tokens towards the caller's limit, and return them as the usage."""
        input_tokens = sum(len(part.codes) for part in self.completions)
        output_tokens = sum(part.tokens for part in self.completions)
        await self.state.spend(self.caller, input_tokens + output_tokens)
        return token_counts(input_tokens, output_tokens, ("prompt", "completion"))

    def _prepare(self) -> None:
        """Check the request and set up a completion per prompt and `n`. Raises APIError."""
        request = self.request
        unheeded.refuse(request.model_extra, unheeded.COMPLETION)
        if request.best_of not in (None, 1, request.n):
            raise invalid(
                f"best_of {request.best_of}",
                "no answer is chosen among others; leave it out",
                field="best_of",
                code="unsupported_value",
            )
        prompts: list[Any] = (
            request.prompt if isinstance(request.prompt, list) else [request.prompt]
        )
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]
        count, each = len(prompts) * (request.n or 1), request.n or 1
        if not 1 <= count <= MOST:
            raise invalid("prompt", f"asks for {count} answers; give 1 to {MOST}")
        kind.set("text")
        seed = request.seed_or_any()
        for k, prompt in enumerate(prompts):
            name = f"prompt[{k}]" if len(prompts) > 1 else "prompt"
            self.completions += [self._completion(prompt, name, seed + j) for j in range(each)]

    def _completion(self, prompt: str | list[int], name: str, seed: int) -> Completion:
        """Return the completion of one prompt, a string or ids; errors call it `name`. Raises
        APIError."""
        lead = ""
        if isinstance(prompt, str):
            codes = self.codec.encode(prompt)
        else:
            specials = {id: token for token, id in self.state.model.layout.special_ids.items()}
            # what begins a prompt where a harness has nothing else
            if prompt and prompt[0] in specials:
                lead, prompt = specials[prompt[0]], prompt[1:]
            most = self.codec.num_codes
            unknown_id = next((token for token in prompt if not 0 <= token < most), None)
            if unknown_id is not None:
                raise invalid(
                    name,
                    f"{unknown_id} is no token of text; give ids of 0 to {most - 1}, or a string",
                    field="prompt",
                )
            codes = np.array(prompt, dtype=np.int64)
        room = self.state.model.answers.positions - self.max_tokens - ENDS
        if len(codes) > room:
            raise invalid(
                name,
                f"has {len(codes)} tokens, {max(room, 0)} at most fit beside max_tokens; "
                "give fewer",
                field="prompt",
                code="context_length_exceeded",
            )
        language = self.request.language or language_of(self.codec.decode(codes))
        return Completion(codes, lead, language, seed)

    async def _merged_events(self) -> Stream[tuple[int, Any]]:
        """Yield (index of the completion, TextDelta or FinalItem) of all completions as they come,
        each of which has taken its event in."""
        request = self.request
        scored = request.logprobs is not None

        async def stream_of(part: Completion) -> Stream[Any]:
            """Yield one completion's events, up to a stop sequence."""
            spec = request.output_spec("text", part.language, part.seed, likeliest=request.logprobs)
            events = self.state.service.continue_text(
                part.codes,
                spec,
                self.max_tokens,
                echo=scored and bool(request.echo),
                scored=part.scores if scored else None,
            )
            async with aclosing(until_stop(events, request.stop, None)) as stopped:
                async for event in stopped:
                    part.add(event)
                    yield event

        streams = [stream_of(part) for part in self.completions]
        async with aclosing(merge_streams(streams)) as merged:
            async for place, event in merged:
                yield place, event

    def _echo(self, part: Completion) -> str:
        """Return the prompt's text where the request asks to repeat it, else ""."""
        return str(self.codec.decode(part.codes)) if self.request.echo else ""

    def _logprobs(self, part: Completion) -> JSON | None:
        """Return a completion's scores in the fields of this API: tokens, their log probabilities,
        the most likely alternatives, and where in the text each begins. None where they are not
        asked for."""
        if self.request.logprobs is None:
            return None
        scores, offsets = tokens_of_text(part, len(self._echo(part)) + len(part.text), self.codec)
        lead = [part.lead] if part.lead and self.request.echo else []
        names = [_token_string(code, self.codec) for code, _ in scores]
        likeliest: list[dict[str, float] | None] = [
            {
                **{
                    _token_string(c, self.codec): p
                    for c, p in score.likeliest[: self.request.logprobs]
                },
                name: score.logprob,
            }
            for name, (_, score) in zip(names, scores, strict=True)
        ]
        missing = [None] * len(lead)
        return {
            "tokens": [*lead, *names],
            "token_logprobs": [*missing, *(score.logprob for _, score in scores)],
            "top_logprobs": [*missing, *likeliest],
            "text_offset": [0] * len(lead) + offsets,
        }


def tokens_of_text(
    part: Completion, length: int, codec: Any
) -> tuple[list[tuple[int, TokenScore]], list[int]]:
    """Return the scored tokens that make up the first `length` letters of a completion, which a
    stop sequence may have cut, and the letter at which each begins."""
    tokens, offsets, at, rest = list[tuple[int, TokenScore]](), list[int](), 0, b""
    for code, score in part.scores:
        ends = code >= len(codec.pieces)
        if at > length or (at == length and not ends and not rest and length):
            break
        tokens.append((code, score))
        offsets.append(at)
        rest += b"" if ends else codec.pieces[code]
        try:  # a letter's first tokens begin where the letter does
            at, rest = at + len(rest.decode()), b""
        except UnicodeDecodeError:
            continue
    return tokens, offsets


def _token_string(code: int, codec: Any) -> str:
    """Return a token as a string; a part of a letter by its bytes, as OpenAI writes it."""
    if code >= len(codec.pieces):
        return str(codec.spec.close)
    try:
        return str(codec.pieces[code].decode())
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in codec.pieces[code])
