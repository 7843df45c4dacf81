"""Responses with a deadline: JSON, raw bytes and server-sent events, each cancelled where it takes
too long or the client has gone. Knows no API."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from onnuri.server.errors import JSON, APIError, as_api_error
from onnuri.server.events import Stream
from onnuri.server.state import state_of
from onnuri.server.words import with_words

T = TypeVar("T")
UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
POLL_SECONDS = 0.25


async def within_deadline(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine. Raises TimeoutError where it takes too long, APIError (499)
    where the client has gone; it is then cancelled."""
    task, deadline = asyncio.create_task(work), _deadline(request)
    try:
        while not task.done():
            await asyncio.wait([task], timeout=POLL_SECONDS)
            if not task.done() and time.monotonic() > deadline:
                raise TimeoutError
            if not task.done() and await request.is_disconnected():
                raise APIError(499, "the client has gone", "client_closed_request")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def json_or_event_response(
    request: Request,
    streams: bool | None,
    whole: Callable[[], Coroutine[Any, Any, Any]],
    chunks: Callable[[], Stream[JSON | None]],
    failed: Callable[[APIError], JSON] | None = None,
) -> Response:
    """Return an answer as JSON, or as a stream of events where `streams`."""
    if streams:
        return await event_response(request, chunks(), failed)
    return JSONResponse(await within_deadline(request, whole()))


async def byte_response(
    request: Request, parts: Stream[bytes], media_type: str
) -> StreamingResponse:
    """Return a response that streams bytes. It begins once the first part is there, so that an
    error before that still has its status."""
    return StreamingResponse(
        await _with_first_part(request, parts), media_type=media_type, headers=UNBUFFERED
    )


async def event_response(
    request: Request, chunks: Stream[JSON | None], failed: Callable[[APIError], JSON] | None = None
) -> StreamingResponse:
    """Return a response that streams chunks as server-sent events. It begins once the first chunk
    is there, so that an error before that still has its status; `failed` makes the last chunk of an
    error after it."""
    accepted = request.headers.get("accept-language", "")
    events = sse(
        await _with_first_part(request, chunks),
        failed or (lambda error: with_words(error, accepted)),
    )
    return StreamingResponse(events, media_type="text/event-stream", headers=UNBUFFERED)


async def sse(chunks: Stream[JSON | None], failed: Callable[[APIError], JSON]) -> Stream[bytes]:
    """Yield chunks as server-sent events, None as `[DONE]`; an error becomes the last event."""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield b"data: [DONE]\n\n" if chunk is None else _event(chunk)
        except Exception as error:
            yield _event(failed(as_api_error(error)))


def _event(body: JSON) -> bytes:
    """Return a chunk as one server-sent event, named by its type where it has one."""
    event_line = f"event: {body['type']}\n" if "type" in body else ""
    return f"{event_line}data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def _deadline(request: Request) -> float:
    """Return the time of `time.monotonic` at which a request that begins now is cancelled."""
    return time.monotonic() + state_of(request).settings.request_seconds


async def _with_first_part(request: Request, parts: Stream[T]) -> Stream[T]:
    """Wait for the first part of a stream and return the whole stream, which raises TimeoutError at
    the deadline."""
    deadline = _deadline(request)
    first = await within_deadline(request, anext(parts))  # type: ignore[arg-type]

    async def go_on() -> Stream[T]:
        """Yield the first part, unless it is empty, and all others."""
        async with aclosing(parts):
            if first:
                yield first
            while True:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        part = await anext(parts)
                except StopAsyncIteration:
                    return
                yield part

    return go_on()


def base64_of(data: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(data).decode()
