"""Who is served next: what waits is of some kind, and the kind that has had least comes first.
Knows no tensors.

Start-time fair queueing (Goyal, Vin and Cheng 1996): every kind has a virtual time that grows by
what its service costs; one that had nothing to ask for starts again at the present and cannot save
up.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

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
