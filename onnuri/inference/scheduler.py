"""Scheduling: which request is decoded next. Kinds of requests share the engine by what their
service costs, and only so many may wait. Knows no tensors.

Start-time fair queueing (Goyal, Vin and Cheng 1996): every kind has a virtual time that grows by
what its service costs; one that had nothing waiting starts again at the present and cannot save up.
Both back ends have a `RequestQueue`: our engine, and vLLM's (`vllm_backend.py`).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Generic, TypeVar

from onnuri.errors import BusyError
from onnuri.inference.request import Request, RequestHandle

T = TypeVar("T")
PREFILL_COST = 1 / 8
"""cost of prefilling an id of a prompt, where sampling one costs 1"""


class FairQueue(Generic[T]):
    """A queue that serves the kind that has cost least first, and within a kind the oldest item."""

    def __init__(self) -> None:
        self.waiting: dict[str, deque[T]] = {}
        self.times: dict[str, float] = {}
        self.now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def push(self, kind: str, item: T) -> None:
        """Add an item of a kind. A kind that had none waiting starts at the present virtual time,
        so that it has saved nothing up."""
        if not self.waiting.get(kind):
            self.times[kind] = max(self.times.get(kind, 0.0), self.now)
        self.waiting.setdefault(kind, deque()).append(item)

    def peek(self) -> tuple[str, T] | None:
        """Return the kind and the item that are served next, None where nothing waits."""
        kinds = [kind for kind, items in self.waiting.items() if items]
        if not kinds:
            return None
        kind = min(kinds, key=lambda kind: self.times[kind])
        return kind, self.waiting[kind][0]

    def pop(self, cost: float = 0.0) -> T:
        """Remove and return the item that is served next, and charge its kind a cost."""
        first = self.peek()
        assert first
        kind, item = first
        self.now = self.times[kind]
        self.charge(kind, cost)
        self.waiting[kind].popleft()
        return item

    def charge(self, kind: str, cost: float) -> None:
        """Add a cost to a kind's virtual time, for costs that are known only after the service."""
        self.times[kind] = self.times.get(kind, self.now) + cost

    def remove(self, kind: str, item: T) -> None:
        """Remove a waiting item. Raises ValueError where it does not wait."""
        self.waiting.get(kind, deque()).remove(item)

    def all(self) -> list[T]:
        """Return every item that waits."""
        return [item for items in self.waiting.values() for item in items]


class RequestQueue:
    """Requests that wait for an engine: any thread adds them, the engine's removes them.

    At most `limit` wait, and any number of those that are pushed with `bounded` False.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._queue, self._lock = limit, FairQueue[RequestHandle](), threading.Lock()
        self.sampled_tokens: Counter[str] = Counter()
        """ids sampled since the start, by kind"""

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, request: Request, bounded: bool) -> RequestHandle:
        """Add a request and return its handle. Raises BusyError where it is `bounded` and `limit`
        requests wait."""
        handle = RequestHandle(request)
        with self._lock:
            if bounded and len(self) >= self.limit:
                raise BusyError(
                    f"{len(self)} requests wait", "no more are taken", "try again in a moment"
                )
            self._queue.push(request.kind, handle)
        return handle

    def pop(self, rows: int) -> RequestHandle | None:
        """Remove and return the request that is served next, charging its kind for the prompt; None
        where none waits or it needs more than `rows` rows of the cache."""
        with self._lock:
            first = self._queue.peek()
            if first is None or len(first[1].request.prompts) > rows:
                return None
            return self._queue.pop(len(first[1].request.prompt) * PREFILL_COST)

    def count(self, handle: RequestHandle) -> None:
        """Count one more sampled id of a request, and charge its kind for each of its rows."""
        request = handle.request
        self.sampled_tokens[request.kind] += 1
        self._queue.charge(request.kind, len(request.prompts))

    def evict(self) -> None:
        """Remove the requests that were cancelled while they waited, and close their handles."""
        with self._lock:
            evicted = [handle for handle in self._queue.all() if handle.cancelled]
            for handle in evicted:
                self._queue.remove(handle.request.kind, handle)
        for handle in evicted:
            handle.close("cancelled")

    def clear(self) -> list[RequestHandle]:
        """Remove and return all waiting requests."""
        with self._lock:
            return [self._queue.pop() for _ in range(len(self))]
