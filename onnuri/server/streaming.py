"""Answers in time: whole ones, raw bytes and server-sent events, each called off where it takes too
long or the client has gone. Knows no API."""

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


async def within(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the work's result, unless it takes too long or the client has gone: then it is called
    off."""
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


async def whole_or_streamed(
    request: Request,
    streams: bool | None,
    whole: Callable[[], Coroutine[Any, Any, Any]],
    chunks: Callable[[], Stream[JSON | None]],
    failed: Callable[[APIError], JSON] | None = None,
) -> Response:
    """Return an answer as JSON, or as a stream where that is asked for."""
    if streams:
        return await streamed(request, chunks(), failed)
    return JSONResponse(await within(request, whole()))


async def raw(request: Request, parts: Stream[bytes], media_type: str) -> StreamingResponse:
    """Return bytes as they come; the first is there, so that an error before it still has its
    status."""
    return StreamingResponse(
        await _begun(request, parts), media_type=media_type, headers=UNBUFFERED
    )


async def streamed(
    request: Request, chunks: Stream[JSON | None], failed: Callable[[APIError], JSON] | None = None
) -> StreamingResponse:
    """Return a stream whose first chunk is there, so that an error before it still has its status;
    `failed` is one after it."""
    accepted = request.headers.get("accept-language", "")
    events = sse(
        await _begun(request, chunks), failed or (lambda error: with_words(error, accepted))
    )
    return StreamingResponse(events, media_type="text/event-stream", headers=UNBUFFERED)


async def sse(chunks: Stream[JSON | None], failed: Callable[[APIError], JSON]) -> Stream[bytes]:
    """Yield server-sent events of chunks; what goes wrong on the way is the last of them."""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield b"data: [DONE]\n\n" if chunk is None else _event(chunk)
        except Exception as error:
            yield _event(failed(as_api_error(error)))


def _event(body: JSON) -> bytes:
    named = f"event: {body['type']}\n" if "type" in body else ""
    return f"{named}data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()


def _deadline(request: Request) -> float:
    return time.monotonic() + state_of(request).settings.request_seconds


async def _begun(request: Request, parts: Stream[T]) -> Stream[T]:
    """Return a stream again whose first part is there."""
    deadline = _deadline(request)
    first = await within(request, anext(parts))  # type: ignore[arg-type]

    async def go_on() -> Stream[T]:
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
