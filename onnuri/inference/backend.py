"""The interface between a server and whatever decodes for it: our engine (`engine.py`), or vLLM in
another process (`vllm_backend.py`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from onnuri.inference.request import Request, RequestHandle


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendLoad:
    """The current load of a back end, and its counters since the start, as the server's metrics
    report them."""

    waiting: int
    """requests"""
    active: int
    """requests that are decoded"""
    rows: int
    """sequences in the cache"""
    sampled_tokens: Mapping[str, int]
    """ids sampled since the start, by kind"""
    prefix_bytes: int = 0
    """of kept prefixes; vLLM keeps its own, and does not say"""
    prefix_reused_tokens: int = 0
    """ids of prompts that were not read again"""


class Backend(Protocol):
    """The decoding of one model; a single thread drives it by calling `step` again and again."""

    def submit(self, request: Request) -> RequestHandle:
        """Queue a request and return its handle. Raises an OnnuriError where it cannot be decoded
        here."""

    @property
    def idle(self) -> bool:
        """Return whether nothing is queued and nothing is decoded, so that `step` would do
        nothing."""

    @property
    def ready(self) -> bool:
        """Return whether new requests are accepted."""

    def step(self) -> None:
        """Decode some more ids, pass them to the requests' listeners on this thread, and close the
        handles of requests that were cancelled."""

    def reset(self) -> None:
        """Cancel every queued and every active request."""

    def close(self) -> None:
        """Cancel every request and shut the back end down for good."""

    def load(self) -> BackendLoad:
        """Return how many requests wait and are active now, and the counters since the start."""
