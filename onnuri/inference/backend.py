"""What a server asks of whatever decodes: our engine (`engine.py`), or vLLM in another process
(`vllm_backend.py`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from onnuri.inference.request import Request, RequestHandle


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendLoad:
    """What a back end is doing, for metrics."""

    waiting: int
    """requests"""
    active: int
    """requests that are decoded"""
    rows: int
    """sequences in the cache"""
    drawn: Mapping[str, int]
    """ids drawn since the start, by kind"""
    prefix_bytes: int = 0
    """of kept prefixes; vLLM keeps its own, and does not say"""
    prefix_reused_tokens: int = 0
    """ids of prompts that were not read again"""


class Backend(Protocol):
    """A model's decoding, which one thread drives by `step`."""

    def submit(self, request: Request) -> RequestHandle:
        """Take a request. Raises an OnnuriError where it cannot."""

    @property
    def idle(self) -> bool:
        """Return whether a step would do nothing."""

    @property
    def ready(self) -> bool:
        """Return whether it takes requests."""

    def step(self) -> None:
        """Decode some ids more, told to handles on this thread; soon after, those that were
        cancelled are closed."""

    def reset(self) -> None:
        """Cancel whatever waits or is decoded."""

    def close(self) -> None:
        """Do the same, and for good."""

    def load(self) -> BackendLoad:
        """Return what it is doing."""
