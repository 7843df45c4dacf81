"""Several streams as one: whatever any of them has, as it comes. Knows no events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, TypeVar

from onnuri.server.events import Stream

T = TypeVar("T")


async def beside(streams: Sequence[Stream[T]]) -> Stream[tuple[int, T]]:
    """(place of the stream, what it has). The first error ends all of them, and so does leaving."""
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def one(place: int, stream: Stream[T]) -> None:
        async with contextlib.aclosing(stream):
            async for event in stream:
                queue.put_nowait((place, event))

    async def all_() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for place, stream in enumerate(streams):
                    group.create_task(one(place, stream))
            queue.put_nowait(None)
        except* Exception as errors:
            queue.put_nowait(_first(errors))

    task = asyncio.create_task(all_())
    try:
        while (event := await queue.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _first(error: BaseException) -> BaseException:
    """The first error within groups of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
