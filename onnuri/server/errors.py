"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}` and a
status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnuri.errors import AwayError, BusyError, OnnuriError

JSON = dict[str, Any]
"""an object of a request or an answer"""
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class APIError(Exception):
    """An error that becomes the answer to a request."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        more: Mapping[str, str] | None = None,
        about: Mapping[str, object] | None = None,
    ) -> None:
        """`retry_after` is in seconds; `more` are further headers; `about` are the values that
        `words.py` puts into the page's words for the code."""
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after, self.more, self.about = retry_after, more or {}, about or {}

    @property
    def body(self) -> JSON:
        """Return the JSON body that the client is sent."""
        kind = TYPES.get(
            self.status, "invalid_request_error" if self.status < 500 else "server_error"
        )
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        }

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that go with the answer."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, round(self.retry_after)))
        return {**headers, **self.more}


def invalid(param: str, rule: str, *, field: str = "", code: str = "invalid_value") -> APIError:
    """Return the error (400) of a request's field that cannot be followed; its message names the
    field, perhaps with its value, and the rule.

    `field` is the request's field, where `param` is a place within it or has the value too.
    """
    return APIError(400, f"{param}: {rule}", code, field or param)


def as_api_error(error: Exception) -> APIError:
    """Return any exception as an APIError; one that is not a user's mistake becomes a 500 that
    tells nothing of itself."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, BusyError):
        return APIError(429, str(error), error.code or "server_busy", retry_after=2)
    if isinstance(error, AwayError):
        return APIError(503, str(error), error.code or "unavailable", retry_after=5)
    if isinstance(error, OnnuriError):
        return APIError(400, str(error), error.code or "invalid_value", about=error.about)
    if isinstance(error, TimeoutError):
        return APIError(
            504, "the answer took too long: it was called off; ask for less or try again", "timeout"
        )
    return APIError(
        500,
        "the server failed: this is a bug of ours; the log has its request id",
        "internal_error",
    )
