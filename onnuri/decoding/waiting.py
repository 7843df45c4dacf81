"""Requests that wait to be decoded: many threads put them in, an engine's takes them out. Knows no
tensors.

Bounded, and fair by kind (`queue.py`). Both engines have one: ours, and vLLM's (`server/vllm.py`).
"""

from __future__ import annotations

import threading

from onnuri.decoding.queue import Queue
from onnuri.decoding.request import Ticket
from onnuri.errors import BusyError


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
