"""Who is served next: requests wait by kind, and the kind that has had least comes first. Knows no tensors.

Start-time fair queueing (Goyal, Vin and Cheng 1996): every kind has a virtual time that grows by the ids of what it is
served; one that had nothing to ask for starts again at the present and cannot save up.
"""

from __future__ import annotations

from collections import deque

from onnuri.decoding.request import Ticket


class Queue:
    """Tickets that wait, first come first served within a kind."""

    def __init__(self) -> None:
        self.waiting: dict[str, deque[Ticket]] = {}
        self.times: dict[str, float] = {}
        self.now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))

    def push(self, ticket: Ticket) -> None:
        kind = ticket.request.kind
        if not self.waiting.get(kind):
            self.times[kind] = max(self.times.get(kind, 0.0), self.now)
        self.waiting.setdefault(kind, deque()).append(ticket)

    def peek(self) -> Ticket | None:
        """Whose turn it is."""
        kinds = [k for k, tickets in self.waiting.items() if tickets]
        return self.waiting[min(kinds, key=lambda k: self.times[k])][0] if kinds else None

    def pop(self) -> Ticket:
        """Serve whose turn it is."""
        first = self.peek()
        assert first
        request = first.request
        self.now = self.times[request.kind]
        self.times[request.kind] += (len(request.prompt) / 8 + request.steps) * (2 if request.paired else 1)
        return self.waiting[request.kind].popleft()

    def drop(self) -> list[Ticket]:
        """Those that were called off while they waited."""
        gone = [t for tickets in self.waiting.values() for t in tickets if t.cancelled]
        for ticket in gone:
            self.waiting[ticket.request.kind].remove(ticket)
        return gone
