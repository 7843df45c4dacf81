"""A model that many ask at once: one thread decodes, a few encode and render, coroutines wait.
Knows no HTTP.

An answer comes as events: `Words`, `Sound`, `Picture` while its tokens arrive, then `Item` with the
whole. Whoever stops listening has called it off.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from onnuri.errors import AwayError, ConfigError
from onnuri.inference.constraints import LONGEST, Structure, Structures
from onnuri.inference.request import Request, SamplingConfig, Score, Ticket
from onnuri.modality import Language, Medium
from onnuri.model.answer import Context, Given, Listener, Steps
from onnuri.model.omni import OmniModel, override
from onnuri.server.pool import Pool, kind

T = TypeVar("T")
Stream = AsyncGenerator[T, None]
log = logging.getLogger("onnuri")
PARTS = (3, 3, 6, 12, 24)
"""codes of sound that are rendered at a time, 120 ms at first, the last again and again: a part
lasts no longer than what has been sent before it. Not as many as have come by then: a seed would
give other last bits every time"""


@dataclasses.dataclass(frozen=True)
class Words:
    """More of a sentence."""

    text: str
    scores: tuple[tuple[int, Score], ...] = ()
    """of each of its tokens, by code, if they were asked for and drawn"""


@dataclasses.dataclass(frozen=True)
class Sound:
    """More of a sound, float32 [T] at 16 kHz."""

    samples: np.ndarray


@dataclasses.dataclass(frozen=True)
class Picture:
    """What a picture is so far, uint8 [H, W, 3]: background, then one object more each."""

    index: int
    image: np.ndarray


@dataclasses.dataclass(frozen=True)
class Item:
    """A whole item, in the codec's form."""

    medium: Medium
    item: Any
    tokens: int
    finish: str = "stop"
    transcript: str = ""
    """of a sound, what it says"""
    reused: int = 0
    """tokens of the inputs that were not read again"""


Event = Words | Sound | Picture | Item


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """One medium that is wanted."""

    to: Medium
    language: Language = "ko"
    seed: int = 0
    temperature: float | None = None
    top_p: float | None = None
    guidance: float | None = None
    partial: int = 0
    """pictures that are shown before the last"""
    structure: Structure | None = None
    """of a text, which is then as long as it must be"""
    longest: int | None = None
    """most tokens of a text that has a structure"""
    likeliest: int | None = None
    """how many tokens a score of a text's names; None: no scores"""


class Decoder(Protocol):
    """What a service asks of whatever decodes: `inference.engine.Engine` here, `vllm.Vllm` in
    another process.

    `queue`, `active`, `rows`, `prefixes` and `drawn` are read by metrics alone.
    """

    queue: Any
    prefixes: Any
    drawn: Any

    @property
    def active(self) -> Any: ...
    @property
    def rows(self) -> Any: ...
    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""

    def enter(self, ticket: Ticket) -> Ticket:
        """Take a request. Raises an OnnuriError where it cannot."""

    def step(self) -> None:
        """Some ids more, told to tickets on this thread; soon after, those that were called off are
        closed."""

    def reset(self) -> None:
        """Call off whatever waits or is decoded."""

    def close(self) -> None:
        """The same, and for good."""


class Dictated:
    """A constraint under which codes are put in one by one, each scored as if it had been drawn;
    then all is free."""

    def __init__(self, codes: np.ndarray, count: int) -> None:
        self.codes, self.at, self.all = codes, 0, b"\1" * (count + 1)

    def allowed(self) -> bytes:
        """Everything: a text's `count` codes, and its end."""
        return self.all

    def closing(self) -> int | None:
        """The end needs no other id's score."""
        return None

    def take(self, drawn: int) -> int:
        """The next of the codes, and what was drawn after them."""
        self.at += 1
        return int(self.codes[self.at - 1]) if self.at <= len(self.codes) else drawn


class _Returned(Exception):
    """What a generator returned; StopIteration may not cross a future."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Service:
    """Decodes in a thread of its own while somebody waits."""

    def __init__(self, model: OmniModel, engine: Decoder, workers: int = 2) -> None:
        self.model, self.engine = model, engine
        self.pool = Pool(workers)
        self.started = time.time()
        self._work, self._closed = threading.Event(), False
        self._thread = threading.Thread(target=self._decode, name="onnuri-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the threads; what is under way is called off."""
        self._closed = True
        self._work.set()
        self._thread.join()
        self.engine.close()
        self.pool.close()

    @property
    def ready(self) -> bool:
        """Whether the engine's thread lives, and the engine."""
        return self._thread.is_alive() and not self._closed and self.engine.ready

    def _decode(self) -> None:
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
    def structures(self) -> Structures:
        """What makes JSON of the model's tokens."""
        return Structures(self.model.codecs["text"])

    async def aside(self, call: Callable[..., T], *arguments: Any) -> T:
        """Encoding and rendering, beside the loop."""
        return await self.pool.run(call, *arguments)

    async def decoded(self, call: Callable[..., T], *arguments: Any) -> T:
        """The same of what somebody sent, which may be as much as is read: others' words do not
        wait for it."""
        return await self.pool.run(call, *arguments, heavy=True)

    async def drive(self, steps: Steps[T], told: Callable[[Ticket], None] | None = None) -> T:
        """What a part of `model/answer.py` returns. `told` gets every ticket's end.
        Raises BusyError where too many wait, AwayError where the server stops."""
        loop, ticket = asyncio.get_running_loop(), None
        try:
            while True:
                ticket = Ticket(await self.aside(_next, steps, ticket))
                ended = loop.create_future()
                ticket.when_done(functools.partial(_ended, loop, ended))
                if self._closed:
                    raise AwayError(
                        "the server", "is stopping", "ask again in a moment", code="shutting_down"
                    )
                self.engine.enter(ticket)
                self._work.set()
                await ended
                if ticket.error:
                    raise ticket.error
                if ticket.finish == "cancelled":
                    raise AwayError(
                        "the answer",
                        "was called off, as the server is stopping or failed",
                        "ask again",
                    )
                if told:
                    told(ticket)
        except _Returned as returned:
            return cast(T, returned.value)
        finally:
            if ticket and not ticket.done:
                ticket.cancel()
                self._work.set()

    async def read(self, given: Given) -> Context:
        """Inputs as the model's context."""
        return await self.drive(self.model.answers.read(given))

    async def answer(
        self, context: Context, wish: Wish, sentence: np.ndarray | None = None
    ) -> Stream[Event]:
        """One medium as events, `Item` last. A sound speaks `sentence` (text codes), or what the
        model would write."""
        kind.set(wish.to)
        stream = {"text": self._text, "audio": self._speech, "image": self._image}.get(
            wish.to, self._whole
        )
        async with contextlib.aclosing(stream(context, wish, sentence)) as events:
            async for event in events:
                yield event

    async def item(self, context: Context, wish: Wish) -> Item:
        """One medium, when it is whole."""
        async with contextlib.aclosing(self.answer(context, wish)) as made:
            async for event in made:
                if isinstance(event, Item):
                    return event
        raise AssertionError("an answer without an item")

    async def _text(self, context: Context, wish: Wish, _: Any) -> Stream[Event]:
        answers, scores = self.model.answers, list[Score]()
        asked: dict[str, Any] = (
            {}
            if wish.likeliest is None
            else {"on_score": scores.append, "likeliest": wish.likeliest}
        )
        bound = None
        if wish.structure:
            room = min(wish.longest or LONGEST, LONGEST, answers.positions - len(context.ids) - 2)
            bound = await self.aside(wish.structure.begin, room)
            asked |= {
                "constraint": bound,
                "plan": dataclasses.replace(answers.plan("text"), longest=room),
            }

        def ask(told: Listener) -> Steps[np.ndarray]:
            if bound:
                return answers.make(
                    "text", context, wish.language, self._sampling(wish), wish.seed, told, **asked
                )
            return answers.write(
                context,
                wish.language,
                self._sampling(wish),
                wish.seed,
                only_heard=True,
                on_token=told,
                **asked,
            )

        async with contextlib.aclosing(self._words(ask, scores)) as events:
            async for event in events:
                if bound and bound.broken:
                    raise ConfigError(
                        "the schema",
                        f"cannot be followed to its end ({bound.broken})",
                        "give a simpler one",
                    )
                yield event

    async def going_on(
        self,
        codes: np.ndarray,
        language: Language,
        seed: int,
        longest: int,
        *,
        echo: bool = False,
        scored: list[tuple[int, Score]] | None = None,
        likeliest: int = 0,
        temperature: float | None = None,
        top_p: float | None = None,
    ) -> Stream[Event]:
        """Words that follow text codes within one text, at most `longest`. `scored` grows by every
        token that stands and its score, the text's end too where it is drawn; with `echo` by those
        of `codes` first."""
        answers, count = self.model.answers, len(codes) if echo else 0
        if not longest + count:
            yield Item("text", "", 0, "length")
            return
        scores, end = list[Score](), self.model.layout.text_codes
        asked: dict[str, Any] = (
            {} if scored is None else {"on_score": scores.append, "likeliest": max(likeliest, 1)}
        )
        if echo:
            asked["constraint"] = Dictated(codes, end)

        def ask(told: Listener) -> Steps[np.ndarray]:
            def hear(token: int) -> None:
                if scored is not None and len(scores) > len(scored):
                    scored.append((min(token, end), scores[len(scored)]))
                told(token)

            sampling = override(self.model.sampling["text"], temperature, top_p, None)
            return answers.go_on(
                codes[: len(codes) - count],
                language,
                sampling,
                seed,
                longest + count,
                hear,
                **asked,
            )

        dictated, seen = len(self.model.codecs["text"].decode(codes)) if echo else 0, 0
        async with contextlib.aclosing(self._words(ask)) as events:
            async for event in events:
                if isinstance(event, Words):
                    seen += len(event.text)
                    if seen > dictated:
                        yield Words(event.text[-(seen - dictated) :])
                elif isinstance(event, Item):
                    yield Item("text", event.item[dictated:], event.tokens - count, event.finish)

    async def listen(self, codes: np.ndarray) -> Stream[Event]:
        """What is heard in a sound's codes, word by word; the language is left out."""

        def ask(told: Listener) -> Steps[np.ndarray]:
            _, words = yield from self.model.answers.hear(codes, told)
            return words

        async with contextlib.aclosing(self._words(ask)) as events:
            async for event in events:
                yield event

    async def _words(
        self, ask: Callable[[Listener], Steps[np.ndarray]], scores: Sequence[Score] = ()
    ) -> Stream[Event]:
        """`scores` grows by one before every id that is told, or stays empty."""
        text, shown, scored = self.model.codecs["text"], "", 0
        async with self._tokens(ask) as (ids, made):
            codes: list[int] = []
            async for token in ids:
                if 0 <= token < self.model.layout.text_codes:
                    codes.append(token)
                    whole = text.decode(np.array(codes))
                    if not whole.endswith("\ufffd") and len(whole) > len(
                        shown
                    ):  # not within a letter
                        yield Words(
                            whole[len(shown) :],
                            tuple(zip(codes[scored:], scores[scored : len(codes)])),
                        )
                        shown, scored = whole, len(codes)
            written = await made
            whole = text.decode(written)
            if len(whole) > len(shown):
                yield Words(
                    whole[len(shown) :], tuple(zip(codes[scored:], scores[scored : len(codes)]))
                )
            yield Item("text", whole, len(written), ids.finish, reused=ids.reused)

    async def _speech(
        self, context: Context, wish: Wish, sentence: np.ndarray | None
    ) -> Stream[Event]:
        answers, text, audio = (
            self.model.answers,
            self.model.codecs["text"],
            self.model.codecs["audio"],
        )
        if sentence is None:
            sentence = await self.drive(
                answers.write(context, wish.language, self.model.sampling["text"], wish.seed)
            )
        said = text.decode(sentence)
        yield Words(said)
        lo, hi = self.model.layout.own("audio")
        parts: list[np.ndarray] = []

        def ask(told: Listener) -> Steps[np.ndarray]:
            return answers.speak(sentence, wish.language, self._sampling(wish), wish.seed, told)

        async with self._tokens(ask) as (ids, made):
            stream = (
                audio.stream() if hasattr(audio, "stream") else None
            )  # else nothing can be heard before the end
            async for batch in _some(ids, lo, hi):
                if stream:
                    parts.append(await self.aside(stream.send, batch))
                    if len(parts[-1]):
                        yield Sound(parts[-1])
            codes = await made
            parts.append(
                await self.aside(stream.end) if stream else await self.aside(audio.decode, codes)
            )
            if len(parts[-1]):
                yield Sound(parts[-1])
            yield Item("audio", np.concatenate(parts), len(codes), ids.finish, said)

    async def _image(self, context: Context, wish: Wish, _: Any) -> Stream[Event]:
        codec, shown = self.model.codecs["image"], 0
        if codec.spec.slots is None:  # nothing can be shown before the end
            async for event in self._whole(context, wish, _):
                yield event
            return
        gates = codec.spec.slots.slot_gates
        stops = sorted(
            {gate for gate in gates if gate is not None}
        )  # where an object begins, all before it is known
        async with self._tokens(self._make(context, wish)) as (ids, made):
            got: list[int] = []
            async for token in ids:
                got.append(token)
                if len(got) in stops[max(len(stops) - wish.partial, 0) :]:
                    codes = self._so_far(got)
                    yield Picture(shown, (await self.aside(codec.decode, codes)))
                    shown += 1
            codes = await made
            yield Item(
                "image",
                await self.aside(codec.decode, codes),
                len(codes),
                ids.finish,
                reused=ids.reused,
            )

    async def _whole(self, context: Context, wish: Wish, _: Any) -> Stream[Event]:
        async with self._tokens(self._make(context, wish)) as (ids, made):
            codes = await made
            item = await self.aside(self.model.codecs[wish.to].decode, codes)
            yield Item(wish.to, item, len(codes), ids.finish, reused=ids.reused)

    def _so_far(self, ids: list[int]) -> np.ndarray:
        """A picture's codes with all that has not come absent."""
        ranges = self.model.codecs["image"].spec.slots.position_ranges
        codes = self.model.layout.codes("image", np.array(ids, dtype=np.int64))
        return np.concatenate(
            [codes, np.array([hi - 1 for _, hi in ranges[len(ids) :]], dtype=np.int64)]
        )

    def _make(self, context: Context, wish: Wish) -> Callable[[Listener], Steps[np.ndarray]]:
        return lambda told: self.model.answers.make(
            wish.to, context, wish.language, self._sampling(wish), wish.seed, told
        )

    def _sampling(self, wish: Wish) -> SamplingConfig:
        return override(self.model.sampling[wish.to], wish.temperature, wish.top_p, wish.guidance)

    @contextlib.asynccontextmanager
    async def _tokens(
        self, ask: Callable[[Listener], Steps[T]]
    ) -> Stream[tuple[_Ids, asyncio.Task[T]]]:
        """The ids of an answer as they come, and a task of what it becomes; leaving calls it
        off."""
        ids = _Ids(asyncio.get_running_loop())
        task = asyncio.create_task(
            cast(Coroutine[Any, Any, T], self.drive(ask(ids.put), ids.ended))
        )
        task.add_done_callback(lambda _: ids.close())
        try:
            yield ids, task
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            elif not task.cancelled():
                task.exception()  # seen: whoever awaits it has it, nobody else is told


class _Ids:
    """Ids from the engine's thread to a coroutine."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.queue, self.finish, self.reused = (
            loop,
            asyncio.Queue[int | None](),
            "stop",
            0,
        )

    def put(self, token: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever listened
            self.loop.call_soon_threadsafe(self.queue.put_nowait, token)

    def ended(self, ticket: Ticket) -> None:
        self.finish, self.reused = ticket.finish or "stop", ticket.reused

    def close(self) -> None:
        self.queue.put_nowait(None)

    def __aiter__(self) -> _Ids:
        return self

    async def __anext__(self) -> int:
        token = await self.queue.get()
        if token is None:
            raise StopAsyncIteration
        return token


async def _some(ids: _Ids, lo: int, hi: int) -> Stream[list[int]]:
    """Codes of ids in [lo, hi), as many at a time as `PARTS` says, the rest in parts too."""
    got: list[int] = []
    parts = itertools.chain(PARTS, itertools.repeat(PARTS[-1]))
    wanted = next(parts)
    async for token in ids:
        if lo <= token < hi:
            got.append(token - lo)
        if len(got) == wanted:
            yield got
            got, wanted = [], next(parts)
    for size in sorted(
        {*PARTS, 1}, reverse=True
    ):  # of few sizes: convolutions keep what they compile for each
        while len(got) >= size:
            yield got[:size]
            got = got[size:]


def _ended(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], _: Ticket) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
        loop.call_soon_threadsafe(_wake, future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _next(steps: Generator[Request, Ticket, Any], ticket: Ticket | None) -> Request:
    try:
        return steps.send(ticket)  # type: ignore[arg-type]
    except StopIteration as end:
        raise _Returned(end.value) from None
