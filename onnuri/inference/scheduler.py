"""Requests that wait to be decoded: many threads put them in, an engine's takes them out. Knows no
tensors.

Bounded, and fair by kind (`FairQueue`). Both engines have one: ours, and vLLM's (`inference/vllm_backend.py`).
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

from onnuri.errors import BusyError
from onnuri.inference.request import Ticket

T = TypeVar("T")


class Queue(Generic[T]):
    """First come first served within a kind."""

    def __init__(self) -> None:
        self.waiting: dict[str, deque[T]] = {}
        self.times: dict[str, float] = {}
        self.now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def push(self, kind: str, item: T) -> None:
        if not self.waiting.get(kind):
            self.times[kind] = max(self.times.get(kind, 0.0), self.now)
        self.waiting.setdefault(kind, deque()).append(item)

    def peek(self) -> tuple[str, T] | None:
        """Whose turn it is."""
        kinds = [k for k, items in self.waiting.items() if items]
        if not kinds:
            return None
        kind = min(kinds, key=lambda k: self.times[k])
        return kind, self.waiting[kind][0]

    def pop(self, cost: float = 0.0) -> T:
        """Serve whose turn it is, at a cost."""
        first = self.peek()
        assert first
        kind, _ = first
        self.now = self.times[kind]
        self.charge(kind, cost)
        return self.waiting[kind].popleft()

    def charge(self, kind: str, cost: float) -> None:
        """What serving a kind has cost, where it is known only afterwards."""
        self.times[kind] = self.times.get(kind, self.now) + cost

    def remove(self, kind: str, item: T) -> None:
        """It no longer waits. Raises ValueError where it did not."""
        self.waiting.get(kind, deque()).remove(item)

    def all(self) -> list[T]:
        return [item for items in self.waiting.values() for item in items]


class Waiting:
    """At most `most` tickets, and any number of those that are let in unbounded."""

    def __init__(self, most: int) -> None:
        self.most, self._queue, self._door = most, Queue[Ticket](), threading.Lock()

    def __len__(self) -> int:
        return len(self._queue)

    def enter(self, ticket: Ticket, bounded: bool = True) -> Ticket:
        """Raises BusyError where too many wait."""
        with self._door:
            if bounded and len(self) >= self.most:
                raise BusyError(
                    f"{len(self)} requests wait", "no more are taken", "try again in a moment"
                )
            self._queue.push(ticket.request.kind, ticket)
        return ticket

    def take(self, rows: int) -> Ticket | None:
        """The next in turn, if there is one and it needs no more than so many rows."""
        with self._door:
            first = self._queue.peek()
            if first is None or len(first[1].request.prompts) > rows:
                return None
            return self._queue.pop(
                len(first[1].request.prompt) / 8
            )  # reading an id costs less than drawing one

    def charge(self, ticket: Ticket) -> None:
        """One id more, in each of its rows, was drawn for its kind."""
        self._queue.charge(ticket.request.kind, len(ticket.request.prompts))

    def drop(self) -> list[Ticket]:
        """Those that were called off; they wait no more."""
        with self._door:
            gone = [ticket for ticket in self._queue.all() if ticket.cancelled]
            for ticket in gone:
                self._queue.remove(ticket.request.kind, ticket)
        return gone

    def clear(self) -> list[Ticket]:
        """All of them; none waits any more."""
        with self._door:
            return [self._queue.pop() for _ in range(len(self))]
