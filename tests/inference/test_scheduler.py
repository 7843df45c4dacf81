"""Who is served next, without an engine."""

import pytest

from onnuri.inference.scheduler import FairQueue


def served(queue, count, costs):
    """Kinds in the order in which they are served; an item is its own kind."""
    order = []
    for _ in range(count):
        kind, _ = queue.peek()
        order.append(queue.pop(costs[kind]))
    return order


def test_kinds_share_by_what_they_cost():
    queue = FairQueue()
    for _ in range(40):
        queue.push("video", "video")
        queue.push("text", "text")
    first = served(queue, 40, {"video": 40, "text": 10})
    assert 6 <= first.count("video") <= 10  # four captions for a video


def test_a_cost_that_is_known_afterwards_counts_as_well():
    queue = FairQueue()
    for _ in range(40):
        queue.push("video", "video")
        queue.push("text", "text")
    order = []
    for _ in range(40):
        order.append(queue.pop())
        queue.charge(order[-1], {"video": 40, "text": 10}[order[-1]])
    assert 6 <= order.count("video") <= 10


def test_who_comes_late_is_served_soon_and_has_not_saved_up():
    queue = FairQueue()
    for _ in range(30):
        queue.push("video", "video")
    served(queue, 20, {"video": 40})
    for _ in range(10):
        queue.push("text", "text")
    order = served(queue, 12, {"video": 40, "text": 40})
    assert "text" in order[:2] and 5 <= order.count("text") <= 7


def test_first_come_first_served_within_a_kind():
    queue = FairQueue()
    for k in range(5):
        queue.push("image", k)
    assert (
        [queue.pop() for _ in range(5)] == list(range(5))
        and queue.peek() is None
        and not len(queue)
    )


def test_what_no_longer_waits_is_not_served():
    queue = FairQueue()
    for k in range(6):
        queue.push("ab"[k % 2], k)
    queue.remove("a", 2)
    assert sorted(queue.all()) == [0, 1, 3, 4, 5]
    with pytest.raises(ValueError):
        queue.remove("c", 1)
