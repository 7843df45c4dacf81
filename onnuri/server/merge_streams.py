"""Several streams merged into one. Knows no kind of event."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from onnuri.server.events import Stream

T = TypeVar("T")


async def merge_streams(streams: Sequence[Stream[T]]) -> Stream[tuple[int, T]]:
    """Yield (index of the stream, its event) of all streams as events come. The first error ends
    all of them, and so does leaving."""
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def forward(place: int, stream: Stream[T]) -> None:
        """Put the events of one stream into the queue."""
        async with aclosing(stream):
            async for event in stream:
                queue.put_nowait((place, event))

    async def forward_all() -> None:
        """Run all streams, then put None, or the first error, into the queue."""
        try:
            async with asyncio.TaskGroup() as group:
                for place, stream in enumerate(streams):
                    group.create_task(forward(place, stream))
            queue.put_nowait(None)
        except* Exception as errors:
            first: BaseException = errors
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            queue.put_nowait(first)

    task = asyncio.create_task(forward_all())
    try:
        while (event := await queue.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
