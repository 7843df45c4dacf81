"""One model served to many callers: one thread decodes, a few encode and render, coroutines wait.
Knows no HTTP.

An answer comes as events (`events.py`). A caller that stops listening has cancelled it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar, cast

import numpy as np

from onnuri.errors import AwayError, ConfigError
from onnuri.inference.backend import Backend
from onnuri.inference.constraints import LONGEST, ForcedCodes, GrammarCompiler, GrammarState
from onnuri.inference.request import Request, RequestHandle, SamplingConfig, TokenScore
from onnuri.model.answer import Context, Inputs, Listener, Pipeline
from onnuri.model.omni import OmniModel, override
from onnuri.server.events import (
    AudioDelta,
    Event,
    FinalItem,
    OutputSpec,
    PartialImage,
    Stream,
    TextDelta,
    TokenStream,
    sound_parts,
)
from onnuri.server.pool import Pool, kind, stopping

T = TypeVar("T")
log = logging.getLogger("onnuri")


class _Returned(Exception):
    """Carries a generator's return value, since StopIteration may not cross a future."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Service:
    """A model, the thread that steps its engine, and the pool that encodes and renders for it."""

    def __init__(self, model: OmniModel, engine: Backend, workers: int = 2) -> None:
        """Start the engine's thread and a pool of `workers` threads."""
        self.model, self.engine = model, engine
        self.pool = Pool(workers)
        self.started = time.time()
        self._work, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._run_engine, name="onnuri-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the threads; what is under way is cancelled."""
        self._closed = True
        self._work.set()
        self._thread.join()
        self.engine.close()
        self.pool.close()

    @property
    def ready(self) -> bool:
        """Return whether the engine's thread is alive and the engine takes requests."""
        return self._thread.is_alive() and not self._closed and self.engine.ready

    def _run_engine(self) -> None:
        """Step the engine while it has requests, and sleep while it has none, until the service is
        closed. An engine that fails is reset."""
        while not self._closed:
            if self.engine.idle:
                self._work.wait()
                self._work.clear()
                continue
            try:
                self.engine.step()
            except Exception:  # a bug of ours must not leave everybody waiting
                log.exception("the engine failed; what it was decoding is lost")
                self.engine.reset()

    @functools.cached_property
    def grammars(self) -> GrammarCompiler:
        """Return the compiler of grammars over the model's text tokens, made at first use."""
        return GrammarCompiler(self.model.codecs["text"])

    async def run_in_pool(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a call that encodes or renders, run in the pool's threads."""
        return await self.pool.run(call, *arguments)

    async def decode_in_pool(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return the result of a call that decodes an uploaded file, which may take long; it runs
        in the pool's threads but never holds up all of them."""
        return await self.pool.run(call, *arguments, heavy=True)

    async def run_pipeline(
        self, pipeline: Pipeline[T], on_end: Callable[[RequestHandle], None] | None = None
    ) -> T:
        """Run a pipeline of `model/answer.py`, which yields requests for the engine, and return its
        result. `on_end` gets each request's handle at its end. Raises BusyError where too many
        wait, AwayError where the server stops."""
        handle = None
        try:
            while True:
                request = await self.run_in_pool(_next_request, pipeline, handle)
                if self._closed:
                    raise stopping()
                handle = self.engine.submit(request)
                self._work.set()
                await asyncio.wrap_future(handle.ended)
                if handle.finish == "cancelled":
                    raise AwayError(
                        "the answer",
                        "was called off, as the server is stopping or failed",
                        "ask again",
                    )
                if on_end:
                    on_end(handle)
        except _Returned as returned:
            return cast(T, returned.value)
        finally:
            if handle and not handle.done:
                handle.cancel()
                self._work.set()

    async def read(self, inputs: Inputs) -> Context:
        """Return inputs as the model's context."""
        return await self.run_pipeline(self.model.answers.read(inputs))

    def answer(
        self, context: Context, spec: OutputSpec, sentence: np.ndarray | None = None
    ) -> Stream[Event]:
        """Return the stream of events of one item, `FinalItem` last. A sound speaks `sentence`
        (text codes), or what the model would write."""
        kind.set(spec.to)
        if spec.to == "text":
            return self._text(context, spec)
        if spec.to == "audio":
            return self._speech(context, spec, sentence)
        return self._item(context, spec)

    async def item(self, context: Context, spec: OutputSpec) -> FinalItem:
        """Return one item when it is whole."""
        async with aclosing(self.answer(context, spec)) as events:
            async for event in events:
                if isinstance(event, FinalItem):
                    return event
        raise AssertionError("an answer without an item")

    async def _text(self, context: Context, spec: OutputSpec) -> Stream[Event]:
        """Yield the events of a text, which follows the grammar of `spec` where it has one. Raises
        ConfigError where the grammar cannot be followed to its end."""
        answers, scores = self.model.answers, list[TokenScore]()
        options = _score_options(scores, spec.likeliest)
        grammar: GrammarState | None = None
        if spec.grammar:
            room = min(
                spec.max_tokens or LONGEST, LONGEST, answers.positions - len(context.ids) - 2
            )
            grammar = await self.run_in_pool(spec.grammar.begin, room)
            allowed = dataclasses.replace(answers.token_constraint("text"), max_tokens=room)
            options |= {"constraint": grammar, "token_constraint": allowed}

        def ask(on_token: Listener) -> Pipeline[np.ndarray]:
            """Return the pipeline that writes the text."""
            common = (context, spec.language, self._sampling(spec), spec.seed)
            if grammar:
                return answers.make("text", *common, on_token, **options)
            return answers.write(*common, only_heard=True, on_token=on_token, **options)

        async with aclosing(self._words(ask, scores)) as events:
            async for event in events:
                if grammar and grammar.broken:
                    raise ConfigError(
                        "the schema",
                        f"cannot be followed to its end ({grammar.broken})",
                        "give a simpler one",
                    )
                yield event

    async def continue_text(
        self,
        codes: np.ndarray,
        spec: OutputSpec,
        max_tokens: int,
        *,
        echo: bool = False,
        scored: list[tuple[int, TokenScore]] | None = None,
    ) -> Stream[Event]:
        """Yield the events of a text that continues text codes, at most `max_tokens` long.

        `scored` is extended by each token that stands and its score, the text's end too where it is
        sampled; with `echo`, `codes` are scored first.
        """
        answers, count = self.model.answers, len(codes) if echo else 0
        if not max_tokens + count:
            yield FinalItem("text", "", 0, "length")
            return
        scores, end = list[TokenScore](), self.model.layout.text_codes
        options = _score_options(scores, None if scored is None else max(spec.likeliest or 0, 1))
        if echo:
            options["constraint"] = ForcedCodes(codes.tolist(), end)

        def ask(on_token: Listener) -> Pipeline[np.ndarray]:
            """Return the pipeline that continues the text."""

            def hear(token: int) -> None:
                """Pass an id on, and note its score."""
                if scored is not None and len(scores) > len(scored):
                    scored.append((min(token, end), scores[len(scored)]))
                on_token(token)

            return answers.go_on(
                codes[: len(codes) - count],
                spec.language,
                self._sampling(spec),
                spec.seed,
                max_tokens + count,
                hear,
                **options,
            )

        forced = len(self.model.codecs["text"].decode(codes)) if echo else 0
        letters = 0
        async with aclosing(self._words(ask)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    letters += len(event.text)
                    if letters > forced:
                        yield TextDelta(event.text[-(letters - forced) :])
                elif isinstance(event, FinalItem):
                    yield FinalItem("text", event.item[forced:], event.tokens - count, event.finish)

    def listen(self, codes: np.ndarray) -> Stream[Event]:
        """Return the events of the words that a sound's codes are heard as; the language is left
        out."""

        def ask(on_token: Listener) -> Pipeline[np.ndarray]:
            """Return the pipeline that hears the words."""
            _, words = yield from self.model.answers.hear(codes, on_token)
            return words

        return self._words(ask)

    async def _words(
        self, ask: Callable[[Listener], Pipeline[np.ndarray]], scores: Sequence[TokenScore] = ()
    ) -> Stream[Event]:
        """Yield the events of a text that a pipeline writes, as whole letters. `scores` is extended
        by one score before each id that comes, or stays empty."""
        text, sent, scored = self.model.codecs["text"], "", 0
        codes: list[int] = []

        def delta(whole: str) -> TextDelta:
            """Return the part of a text that is not shown yet, with its scores."""
            return TextDelta(
                whole[len(sent) :], tuple(zip(codes[scored:], scores[scored : len(codes)]))
            )

        async with self._tokens(ask) as (tokens, answer):
            async for token in tokens:
                if not 0 <= token < self.model.layout.text_codes:
                    continue
                codes.append(token)
                whole = text.decode(np.array(codes))
                # not within a letter
                if not whole.endswith("\ufffd") and len(whole) > len(sent):
                    yield delta(whole)
                    sent, scored = whole, len(codes)
            final_codes = await answer
            whole = text.decode(final_codes)
            if len(whole) > len(sent):
                yield delta(whole)
            yield FinalItem("text", whole, len(final_codes), tokens.finish, reused=tokens.reused)

    async def _speech(
        self, context: Context, spec: OutputSpec, sentence: np.ndarray | None
    ) -> Stream[Event]:
        """Yield the events of a sound: what it says, then samples in parts as their codes come."""
        answers, audio = self.model.answers, self.model.codecs["audio"]
        if sentence is None:
            sampling = self.model.sampling["text"]
            sentence = await self.run_pipeline(
                answers.write(context, spec.language, sampling, spec.seed)
            )
        transcript = self.model.codecs["text"].decode(sentence)
        yield TextDelta(transcript)
        parts: list[np.ndarray] = []

        def ask(on_token: Listener) -> Pipeline[np.ndarray]:
            """Return the pipeline that speaks the sentence."""
            return answers.speak(sentence, spec.language, self._sampling(spec), spec.seed, on_token)

        async with self._tokens(ask) as (tokens, answer):
            # without a stream nothing can be heard before the end
            stream = audio.stream() if hasattr(audio, "stream") else None
            async for batch in sound_parts(tokens, *self.model.layout.own("audio")):
                if stream:
                    parts.append(await self.run_in_pool(stream.send, batch))
                    if len(parts[-1]):
                        yield AudioDelta(parts[-1])
            codes = await answer
            if stream:
                parts.append(await self.run_in_pool(stream.end))
            else:
                parts.append(await self.run_in_pool(audio.decode, codes))
            if len(parts[-1]):
                yield AudioDelta(parts[-1])
            sound = np.concatenate(parts)
            yield FinalItem("audio", sound, len(codes), tokens.finish, transcript)

    async def _item(self, context: Context, spec: OutputSpec) -> Stream[Event]:
        """Yield the events of a picture, video or shape: as many partial pictures as `spec` asks
        for, then the whole."""
        codec, codes_so_far = self.model.codecs[spec.to], list[int]()
        counts = codec.partial_counts
        counts = counts[max(len(counts) - spec.partial, 0) :]

        def ask(on_token: Listener) -> Pipeline[np.ndarray]:
            """Return the pipeline that makes the item."""
            return self.model.answers.make(
                spec.to, context, spec.language, self._sampling(spec), spec.seed, on_token
            )

        async with self._tokens(ask) as (tokens, answer):
            if counts:
                async for token in tokens:
                    codes_so_far.append(token)
                    if len(codes_so_far) in counts:
                        codes = self.model.layout.codes(spec.to, np.array(codes_so_far, np.int64))
                        picture = await self.run_in_pool(codec.partial, codes)
                        yield PartialImage(counts.index(len(codes)), picture)
            codes = await answer
            item = await self.run_in_pool(codec.decode, codes)
            yield FinalItem(spec.to, item, len(codes), tokens.finish, reused=tokens.reused)

    def _sampling(self, spec: OutputSpec) -> SamplingConfig:
        """Return the model's sampling parameters for a modality with those that the request
        sets."""
        return override(self.model.sampling[spec.to], spec.temperature, spec.top_p, spec.guidance)

    @contextlib.asynccontextmanager
    async def _tokens(
        self, ask: Callable[[Listener], Pipeline[T]]
    ) -> Stream[tuple[TokenStream, asyncio.Task[T]]]:
        """Give a stream of an answer's ids as they come, and a task with the pipeline's result;
        leaving the context cancels it."""
        tokens = TokenStream()
        run = self.run_pipeline(ask(tokens.put), tokens.record_end)
        task = asyncio.create_task(cast(Coroutine[Any, Any, T], run))
        task.add_done_callback(lambda _: tokens.close())
        try:
            yield tokens, task
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            elif not task.cancelled():
                task.exception()  # seen: whoever awaits it has it, nobody else is told


def _score_options(scores: list[TokenScore], likeliest: int | None) -> dict[str, Any]:
    """Return fields of a request that append its scores to `scores`; none where `likeliest` is
    None."""
    if likeliest is None:
        return {}
    return {"on_score": scores.append, "likeliest": likeliest}


def _next_request(pipeline: Pipeline[Any], handle: RequestHandle | None) -> Request:
    """Return the next request of a pipeline, given the handle of the last one. Raises _Returned
    with the pipeline's result at its end."""
    try:
        return pipeline.send(handle)  # type: ignore[arg-type]
    except StopIteration as end:
        raise _Returned(end.value) from None
