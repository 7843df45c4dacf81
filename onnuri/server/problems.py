"""What goes wrong, as OpenAI's clients expect it: `{"error": {"message", "type", "param", "code"}}` and a status."""

from __future__ import annotations

from typing import Any

from onnuri.errors import AwayError, BusyError, OnnuriError


class Problem(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None,
                 retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": _type(self.status), "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}


def _type(status: int) -> str:
    return {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error")


def problem_of(error: Exception) -> Problem:
    """Any exception as a problem; what is not a user's mistake tells nothing of itself."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, BusyError):
        return Problem(429, str(error), "server_busy", retry_after=2)
    if isinstance(error, AwayError):
        return Problem(503, str(error), "unavailable", retry_after=5)
    if isinstance(error, OnnuriError):
        return Problem(400, str(error), "invalid_value")
    if isinstance(error, TimeoutError):
        return Problem(504, "the answer took too long: it was called off; ask for less or try again", "timeout")
    return Problem(500, "the server failed: this is a bug of ours; the log has its request id", "internal_error")
