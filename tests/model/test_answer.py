"""Questions are asked of the engine together, and none is left in it by whoever stops waiting."""

import pytest

from onnuri.inference.request import Request, RequestHandle, SamplingConfig, TokenConstraint
from onnuri.model.answer import run_pipelines

REQUEST = Request(
    prompt=[1],
    token_constraint=TokenConstraint(vocab_range=(0, 9), end=9, max_tokens=3),
    sampling=SamplingConfig(),
)


class Stops:
    """An engine whose first steps end a request each and that then fails."""

    def __init__(self, steps):
        self.left, self.handles = steps, []

    def submit(self, request, *, bounded):
        assert not bounded
        self.handles.append(RequestHandle(request))
        return self.handles[-1]

    def step(self):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        next(t for t in self.handles if not t.done).close("stop")


def asks(times):
    for _ in range(times):
        handle = yield REQUEST
        assert handle.done
    return times


def test_all_are_answered_in_their_order():
    assert run_pipelines(Stops(9), [asks(2), asks(0), asks(3)]) == [2, 0, 3]


def test_what_is_still_open_when_something_fails_is_called_off():
    engine = Stops(1)
    with pytest.raises(KeyboardInterrupt):
        run_pipelines(engine, [asks(1), asks(2), asks(1)])
    assert [t.cancelled for t in engine.handles] == [
        not t.done for t in engine.handles
    ] and not all(t.done for t in engine.handles)
