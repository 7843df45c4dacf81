"""Questions are asked of the engine together, and none is left in it by whoever stops waiting."""

import pytest

from onnuri.inference.request import Plan, Request, SamplingConfig, Ticket
from onnuri.model.answer import drive

REQUEST = Request(prompt=[1], plan=Plan(free=(0, 9), end=9, longest=3), sampling=SamplingConfig())


class Stops:
    """An engine whose first steps end a request each and that then fails."""

    def __init__(self, steps):
        self.left, self.tickets = steps, []

    def submit(self, request, *, bounded):
        assert not bounded
        self.tickets.append(Ticket(request))
        return self.tickets[-1]

    def step(self):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        next(t for t in self.tickets if not t.done).close("stop")


def asks(times):
    for _ in range(times):
        ticket = yield REQUEST
        assert ticket.done
    return times


def test_all_are_answered_in_their_order():
    assert drive(Stops(9), [asks(2), asks(0), asks(3)]) == [2, 0, 3]


def test_what_is_still_open_when_something_fails_is_called_off():
    engine = Stops(1)
    with pytest.raises(KeyboardInterrupt):
        drive(engine, [asks(1), asks(2), asks(1)])
    assert [t.cancelled for t in engine.tickets] == [
        not t.done for t in engine.tickets
    ] and not all(t.done for t in engine.tickets)
