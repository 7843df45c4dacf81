"""A thread pool beside the event loop, for encoding and rendering, whose time the kinds of work
share fairly.

An ordinary thread pool would serve who comes first, so that a caption's picture would wait for
everybody's videos. Work that was called off while it waited is not begun. Work whose cost is
somebody else's to choose (decoding uploaded files) is `heavy`: the first thread takes none of it,
so that text never waits for meshes.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from onnuri.errors import AwayError
from onnuri.inference.scheduler import FairQueue

T = TypeVar("T")
Work = tuple[str, Future[Any], Callable[[], Any]]
"""(kind, future of the result, call)"""
kind: contextvars.ContextVar[str] = contextvars.ContextVar("kind", default="")
"""the kind of request that work is for; a coroutine sets it, and its tasks inherit it"""


class Pool:
    """Threads that run blocking calls for coroutines, fairly by kind."""

    def __init__(self, workers: int) -> None:
        """Start the threads; the first takes no heavy work, unless it is the only one."""
        self.quick, self.heavy = FairQueue[Work](), FairQueue[Work]()
        self.closed, self.changed = False, threading.Condition()
        queue_orders = [(self.quick,), *[(self.heavy, self.quick)] * (workers - 1)]
        if workers == 1:
            queue_orders = [(self.quick, self.heavy)]
        self.threads = [
            threading.Thread(
                target=self._work, args=(order,), name=f"onnuri-media-{k}", daemon=True
            )
            for k, order in enumerate(queue_orders)
        ]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """End the threads; calls that still wait raise AwayError."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for thread in self.threads:
            thread.join()
        for _, future, _ in [*self.quick.all(), *self.heavy.all()]:
            if future.set_running_or_notify_cancel():
                future.set_exception(stopping())

    async def run(self, call: Callable[..., T], *arguments: Any, heavy: bool = False) -> T:
        """Return the result of a call that runs in one of the threads. Raises AwayError where the
        pool is closed, and what the call raises."""
        future: Future[T] = Future()
        work: Work = (kind.get(), future, functools.partial(call, *arguments))
        with self.changed:
            if self.closed:
                raise stopping()
            (self.heavy if heavy else self.quick).push(work[0], work)
            # all: one that takes no heavy work may be the one that is woken
            self.changed.notify_all()
        return await asyncio.wrap_future(future)

    def _work(self, queues: Sequence[FairQueue[Work]]) -> None:
        """Run calls from the first of some queues in which any waits, and charge their kind for the
        CPU seconds, until the pool is closed."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or any(map(len, queues)))
                if self.closed:
                    return
                queue = next(queue for queue in queues if len(queue))
                name, future, call = queue.pop()
            if not future.set_running_or_notify_cancel():
                continue
            began = time.thread_time()
            try:
                future.set_result(call())
            except BaseException as error:  # whoever waits for it has it
                future.set_exception(error)
            with self.changed:
                queue.charge(name, time.thread_time() - began)


def stopping() -> AwayError:
    """Return the error of requests that come while the server stops."""
    return AwayError("the server", "is stopping", "ask again in a moment", code="shutting_down")
