"""Encoding and rendering beside the event loop: a few threads, whose time the kinds of work share
fairly.

A thread pool would serve who comes first, so that a caption's picture waits for everybody's videos.
What has been called off while it waited is not begun. Work whose cost is somebody else's to choose
(decoding what was sent) is `heavy`: the first thread takes none of it, so that words never wait for
meshes.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from onnuri.errors import AwayError
from onnuri.inference.scheduler import Queue

T = TypeVar("T")
Work = tuple[str, asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[[], Any]]
kind: contextvars.ContextVar[str] = contextvars.ContextVar("kind", default="")
"""of the request whose work it is; what a coroutine sets, its tasks have"""


class Pool:
    """Threads that work for coroutines."""

    def __init__(self, workers: int) -> None:
        self.quick: Queue[Work] = Queue()
        self.heavy: Queue[Work] = Queue()
        self.closed, self.some = False, threading.Condition()
        orders = (
            [(self.quick,), *[(self.heavy, self.quick)] * (workers - 1)]
            if workers > 1
            else [(self.quick, self.heavy)]
        )
        self.threads = [
            threading.Thread(
                target=self._work, args=(order,), name=f"onnuri-media-{k}", daemon=True
            )
            for k, order in enumerate(orders)
        ]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        """End the threads; what waits is refused."""
        with self.some:
            self.closed = True
            self.some.notify_all()
        for thread in self.threads:
            thread.join()
        for _, loop, future, _ in [*self.quick.all(), *self.heavy.all()]:
            _told(loop, _set, future, None, _stopping())

    async def run(self, call: Callable[..., T], *arguments: Any, heavy: bool = False) -> T:
        """What a call gives, made in a thread."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        work: Work = (kind.get(), loop, future, lambda: call(*arguments))
        with self.some:
            if self.closed:
                raise _stopping()
            (self.heavy if heavy else self.quick).push(work[0], work)
            self.some.notify_all()  # one that takes no heavy work may be the one that is woken
        return await future

    def _work(self, queues: Sequence[Queue[Work]]) -> None:
        """Serve the first of some queues in which anything waits, again and again."""
        while True:
            with self.some:
                self.some.wait_for(lambda: self.closed or any(map(len, queues)))
                if self.closed:
                    return
                queue = next(q for q in queues if len(q))
                name, loop, future, call = queue.pop()
            if future.cancelled():
                continue
            began = time.thread_time()
            try:
                result = call()
            except BaseException as error:  # whoever waits for it has it
                _told(loop, _set, future, None, error)
            else:
                _told(loop, _set, future, result, None)
            with self.some:
                queue.charge(name, time.thread_time() - began)


def _stopping() -> AwayError:
    return AwayError("the server", "is stopping", "ask again in a moment", code="shutting_down")


def _set(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _told(loop: asyncio.AbstractEventLoop, call: Callable[..., Any], *arguments: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
        loop.call_soon_threadsafe(call, *arguments)
