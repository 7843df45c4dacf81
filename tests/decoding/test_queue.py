"""Who is served next, without an engine."""

from onnuri.decoding.queue import Queue
from onnuri.decoding.request import Plan, Request, Ticket


def ticket(kind, steps):
    return Ticket(Request(prompt=[1], plan=Plan(ranges=((0, 9),) * steps), kind=kind))


def served(queue, count):
    return [queue.pop().request.kind for _ in range(count)]


def test_kinds_share_by_what_they_cost():
    queue = Queue()
    for _ in range(40):
        queue.push(ticket("video", 40))
        queue.push(ticket("text", 10))
    first = served(queue, 40)
    assert 6 <= first.count("video") <= 10  # four captions for a video


def test_who_comes_late_is_served_soon_and_has_not_saved_up():
    queue = Queue()
    for _ in range(30):
        queue.push(ticket("video", 40))
    served(queue, 20)
    for _ in range(10):
        queue.push(ticket("text", 40))
    order = served(queue, 12)
    assert "text" in order[:2] and 5 <= order.count("text") <= 7


def test_first_come_first_served_within_a_kind():
    queue = Queue()
    tickets = [ticket("image", 3) for _ in range(5)]
    for t in tickets:
        queue.push(t)
    assert [queue.pop() for _ in tickets] == tickets


def test_what_was_called_off_is_dropped():
    queue = Queue()
    tickets = [ticket("ab"[k % 2], 3) for k in range(6)]
    for t in tickets:
        queue.push(t)
    tickets[2].cancel()
    assert queue.drop() == [tickets[2]] and len(queue) == 5
