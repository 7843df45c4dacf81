"""The events of an answer as it comes, whichever API asked: more of a text, of a sound, of a
picture, then the whole. Knows no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import numpy as np

from onnuri.inference.constraints import Grammar
from onnuri.inference.request import RequestHandle, TokenScore
from onnuri.modality import Language, Modality

T = TypeVar("T")
Stream = AsyncGenerator[T, None]
PARTS = (3, 3, 6, 12, 24)
"""codes of sound that are rendered together, 120 ms at first, the last size again and again: a part
lasts no longer than what has been sent before it. The sizes do not depend on how many codes have
come by then, since a seed would give other last bits every time"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputSpec:
    """One item that the model is to make."""

    to: Modality
    language: Language = "ko"
    seed: int = 0
    temperature: float | None = None
    top_p: float | None = None
    guidance: float | None = None
    partial: int = 0
    """pictures that are shown before the last"""
    grammar: Grammar | None = None
    """of a text, which is then as long as it must be"""
    max_tokens: int | None = None
    """most tokens of a text that has a grammar"""
    likeliest: int | None = None
    """how many tokens a score of a text's names; None: no scores"""


@dataclasses.dataclass(frozen=True)
class TextDelta:
    """An event: more of a text."""

    text: str
    scores: tuple[tuple[int, TokenScore], ...] = ()
    """of each of its tokens, by code, if they were asked for and drawn"""


@dataclasses.dataclass(frozen=True)
class AudioDelta:
    """An event: more of a sound, float32 [T] at 16 kHz."""

    samples: np.ndarray


@dataclasses.dataclass(frozen=True)
class PartialImage:
    """An event: a picture so far, uint8 [H, W, 3], which shows the background, then one more object
    each."""

    index: int
    image: np.ndarray


@dataclasses.dataclass(frozen=True)
class FinalItem:
    """The last event: a whole item, in the form that its codec decodes to."""

    modality: Modality
    item: Any
    tokens: int
    finish: str = "stop"
    transcript: str = ""
    """of a sound, what it says"""
    reused: int = 0
    """tokens of the inputs that were not read again"""


Event = TextDelta | AudioDelta | PartialImage | FinalItem


class TokenStream:
    """A stream of ids from the engine's thread to a coroutine."""

    def __init__(self) -> None:
        self.loop, self.queue = asyncio.get_running_loop(), asyncio.Queue[int | None]()
        self.finish, self.reused = "stop", 0

    def put(self, token: int) -> None:
        """Pass an id on; called on the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever listened
            self.loop.call_soon_threadsafe(self.queue.put_nowait, token)

    def record_end(self, handle: RequestHandle) -> None:
        """Record why a request ended, and how many ids the prefix cache held."""
        self.finish, self.reused = handle.finish or "stop", handle.reused

    def close(self) -> None:
        """End the stream."""
        self.queue.put_nowait(None)

    async def __aiter__(self) -> Stream[int]:
        """Yield ids until the stream is closed."""
        while (token := await self.queue.get()) is not None:
            yield token


async def sound_parts(tokens: TokenStream, lo: int, hi: int) -> Stream[list[int]]:
    """Yield the audio codes of a stream, ids in [lo, hi), as lists of the sizes in `PARTS`; the
    rest is split into such sizes too."""
    codes: list[int] = []
    sizes = itertools.chain(PARTS, itertools.repeat(PARTS[-1]))
    size_now = next(sizes)
    async for token in tokens:
        if lo <= token < hi:
            codes.append(token - lo)
        if len(codes) == size_now:
            yield codes
            codes, size_now = [], next(sizes)
    # of few sizes: convolutions keep what they compile for each
    for size in sorted({*PARTS, 1}, reverse=True):
        while len(codes) >= size:
            yield codes[:size]
            codes = codes[size:]
