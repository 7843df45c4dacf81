"""The middleware before every route: request ids, limits on size and number, who may call, the log.
Knows no model.

Callers without a key are taken only from this machine; since a web page that the user visits is on
this machine too, a request that a browser sends for another page is refused, and so is a name that
only pretends to be this machine (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onnuri.server.errors import APIError
from onnuri.server.state import State

log = logging.getLogger("onnuri.access")
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src data: blob:; connect-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""what our pages may do: nothing from elsewhere (3D needs blobs and WebAssembly)"""
LOCAL = ("127.0.0.1", "::1", "localhost")


class Guard:
    """ASGI middleware that refuses, limits, counts and logs every HTTP request."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self.app, self.state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused, pass any other on, and log both."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, id = time.perf_counter(), 500, f"req_{secrets.token_hex(12)}"
        headers, scope["state"] = Headers(scope=scope), {"id": id, "began": began}
        # a slash at the end is as if it were not there, whatever the method
        if scope["path"].startswith("/v1/") and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/")
        counted = scope["path"].startswith("/v1/")

        async def send_with_headers(message: Message) -> None:
            """Send a message of the answer, with our headers on its first."""
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    *scope["state"].get("limits", ()),
                ]
                if any(
                    name == b"content-type" and value.startswith(b"text/html")
                    for name, value in message["headers"]
                ):
                    message["headers"].append((b"content-security-policy", POLICY.encode()))
            await send(message)

        self.state.traffic.open += counted
        try:
            if error := self._refusal_of(scope, headers, counted):
                answer = JSONResponse(error.body, error.status, error.headers)
                await answer(scope, receive, send_with_headers)
            else:
                await self.app(scope, self._limit_body(receive), send_with_headers)
        finally:
            self.state.traffic.open -= counted
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", None) or "other"
            self.state.metrics.requests.labels(route, str(status)).inc()
            self.state.metrics.seconds.labels(route).observe(seconds)
            log.info(
                json.dumps(
                    {
                        "id": id,
                        "method": scope["method"],
                        "route": route,
                        "status": status,
                        "seconds": round(seconds, 4),
                        "key": scope["state"].get("caller"),
                    }
                )
            )

    def _refusal_of(self, scope: Scope, headers: Headers, counted: bool) -> APIError | None:
        """Return the error of a request that may not pass, for its host, its origin, its length, or
        the number of others; None where it may. `counted` requests are those to the API."""
        settings = self.state.settings
        host = re.sub(r":\d*$", "", headers.get("host") or "").strip("[]").lower()
        known = (*LOCAL, *map(str.lower, settings.hosts))
        if (settings.host in LOCAL or settings.hosts) and host not in (*known, settings.host, ""):
            return APIError(
                403,
                f"host {host!r:.80}: this server answers to {', '.join(known)}; "
                f"start it with --hosts {host:.80}",
                "host_not_allowed",
            )
        origin = headers.get("origin")
        if (
            origin
            and origin not in settings.origins
            and origin.partition("://")[2] != headers.get("host")
        ):
            return APIError(
                403,
                f"origin {origin!r}: may not call this server; start it with --origins",
                "origin_not_allowed",
            )
        if not counted:
            return None
        if self.state.traffic.draining:
            return APIError(
                503, "the server is stopping; ask again in a moment", "shutting_down", retry_after=5
            )
        if self.state.traffic.open > settings.requests:
            return APIError(
                429,
                f"{self.state.traffic.open} requests are under way: no more are taken; "
                "try again in a moment",
                "server_busy",
                retry_after=2,
            )
        length = headers.get("content-length", "0")
        if not length.isdigit():
            return APIError(400, "content-length: is no number", "invalid_value")
        return self._too_long() if int(length) > settings.body_bytes else None

    def _too_long(self) -> APIError:
        """Return the error of a body that is too long."""
        return APIError(
            413,
            f"the request's body: at most {self.state.settings.body_bytes} bytes are read; "
            "send less",
            "body_too_large",
        )

    def _limit_body(self, receive: Receive) -> Receive:
        """Return `receive` with limits on a body: it raises HTTPException where more bytes come
        than are read, whatever length the headers say, or where the next part takes too long."""
        received_bytes, most, more = 0, self.state.settings.body_bytes, True

        async def receive_some() -> Message:
            """Return the next part of the body."""
            nonlocal received_bytes, more
            try:
                async with asyncio.timeout(self.state.settings.header_seconds if more else None):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, "the request's body does not come on; send it whole"
                ) from None
            more = bool(message.get("more_body"))
            received_bytes += len(message.get("body", b""))
            if received_bytes > most:
                # of all exceptions, the one that FastAPI lets through
                raise HTTPException(413, self._too_long().message)
            return message

        return receive_some


def client_of(scope: Any) -> str:
    """Return the address of whoever calls, "" where the server does not know it."""
    client = scope.get("client")
    return client[0] if client else ""
