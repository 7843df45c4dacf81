"""Which request is decoded next: kinds share by what their service costs, and only so many may
wait. Knows no tensors.

Start-time fair queueing (Goyal, Vin and Cheng 1996): every kind has a virtual time that grows by
what its service costs; one that had nothing to ask for starts again at the present and cannot save
up. Both back ends have a `RequestQueue`: our engine, and vLLM's (`vllm_backend.py`).
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import Generic, TypeVar

from onnuri.errors import BusyError
from onnuri.inference.request import Request, RequestHandle

T = TypeVar("T")
READ_COST = 1 / 8
"""of an id of a prompt, where drawing one costs 1"""


class FairQueue(Generic[T]):
    """A queue that serves the kind first that has cost least, and within a kind who came first."""

    def __init__(self) -> None:
        self.waiting: dict[str, deque[T]] = {}
        self.times: dict[str, float] = {}
        self.now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def push(self, kind: str, item: T) -> None:
        """Let an item wait."""
        if not self.waiting.get(kind):
            self.times[kind] = max(self.times.get(kind, 0.0), self.now)
        self.waiting.setdefault(kind, deque()).append(item)

    def peek(self) -> tuple[str, T] | None:
        """Return the kind and the item that come next."""
        kinds = [kind for kind, items in self.waiting.items() if items]
        if not kinds:
            return None
        kind = min(kinds, key=lambda kind: self.times[kind])
        return kind, self.waiting[kind][0]

    def pop(self, cost: float = 0.0) -> T:
        """Return the item that comes next; its kind is charged a cost."""
        first = self.peek()
        assert first
        kind, item = first
        self.now = self.times[kind]
        self.charge(kind, cost)
        self.waiting[kind].popleft()
        return item

    def charge(self, kind: str, cost: float) -> None:
        """Add what serving a kind has cost, where it is known only afterwards."""
        self.times[kind] = self.times.get(kind, self.now) + cost

    def remove(self, kind: str, item: T) -> None:
        """Take an item out. Raises ValueError where it does not wait."""
        self.waiting.get(kind, deque()).remove(item)

    def all(self) -> list[T]:
        """Return every item that waits."""
        return [item for items in self.waiting.values() for item in items]


class RequestQueue:
    """Requests that wait: many threads put them in, an engine's takes them out.

    At most `limit` wait, and any number of those that are let in unbounded.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._queue, self._lock = limit, FairQueue[RequestHandle](), threading.Lock()
        self.drawn: Counter[str] = Counter()
        """ids drawn, by kind"""

    def __len__(self) -> int:
        return len(self._queue)

    def push(self, request: Request, bounded: bool) -> RequestHandle:
        """Return the handle of a request that now waits. Raises BusyError where too many do."""
        handle = RequestHandle(request)
        with self._lock:
            if bounded and len(self) >= self.limit:
                raise BusyError(
                    f"{len(self)} requests wait", "no more are taken", "try again in a moment"
                )
            self._queue.push(request.kind, handle)
        return handle

    def pop(self, rows: int) -> RequestHandle | None:
        """Return the next request, if there is one and it needs no more than so many rows."""
        with self._lock:
            first = self._queue.peek()
            if first is None or len(first[1].request.prompts) > rows:
                return None
            return self._queue.pop(len(first[1].request.prompt) * READ_COST)

    def count(self, handle: RequestHandle) -> None:
        """Charge a request's kind for one id more in each of its rows."""
        request = handle.request
        self.drawn[request.kind] += 1
        self._queue.charge(request.kind, len(request.prompts))

    def evict(self) -> None:
        """Close those that were cancelled; they wait no more."""
        with self._lock:
            evicted = [handle for handle in self._queue.all() if handle.cancelled]
            for handle in evicted:
                self._queue.remove(handle.request.kind, handle)
        for handle in evicted:
            handle.close("cancelled")

    def clear(self) -> list[RequestHandle]:
        """Return all of them; none waits any more."""
        with self._lock:
            return [self._queue.pop() for _ in range(len(self))]
