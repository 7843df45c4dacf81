"""This module prepares items in worker processes and gives them back in their order.

A worker that a decoder ends takes no other item with it: items that were under way are tried again
one at a time, and the one that ends a worker a second time comes back with a fault. Workers end
when their parent does, even if that is killed. The module knows no table.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from onnuri.data.ingest.prepare import prepare
from onnuri.data.ingest.records import Fault, PreparedItem, SourceItem
from onnuri.data.pool import single_threaded

UNDER_WAY = 4
"""items under way per worker: each may hold a file of 200 MiB"""
LONGEST_SECONDS = 600
"""after which a worker that is still at one item ends"""


def prepare_all(items: Iterable[SourceItem], workers: int) -> Iterator[PreparedItem]:
    """Yield items as they are prepared by `workers` processes, in their order; 0: in this one."""
    if workers == 0:
        yield from map(prepare, items)
        return
    with single_threaded():
        yield from _prepare_in_pool(items, workers)


def _prepare_in_pool(items: Iterable[SourceItem], workers: int) -> Iterator[PreparedItem]:
    """Yield items as worker processes prepare them, in their order."""
    executor = _start(workers)
    under_way: deque[tuple[SourceItem, Future[PreparedItem] | None]] = deque()
    waiting = iter(items)
    try:
        while True:
            while len(under_way) < UNDER_WAY * workers:
                item = next(waiting, None)
                if item is None:
                    break
                under_way.append((item, _submit(executor, item)))
            if not under_way:
                return
            item, future = under_way.popleft()
            try:
                if future is None:
                    raise BrokenProcessPool
                prepared = future.result()
            except BrokenProcessPool:
                _stop(executor)
                left = [item, *(item for item, _ in under_way)]
                under_way.clear()
                for item in left:
                    yield _prepare_alone(item)
                executor = _start(workers)
                continue
            yield prepared
    finally:
        _stop(executor)


def _submit(executor: ProcessPoolExecutor, item: SourceItem) -> Future[PreparedItem] | None:
    """Give an item to the workers. Return None if one of them has ended."""
    try:
        return executor.submit(_work, item)
    except BrokenProcessPool:
        return None


def _prepare_alone(item: SourceItem) -> PreparedItem:
    """Return an item prepared by a worker of its own, with a fault if it ends that worker."""
    executor = _start(1)
    try:
        return executor.submit(_work, item).result()
    except BrokenProcessPool:
        reason = f"{item.key}: ends the process that decodes it; save it anew"
        return PreparedItem(item.key, (), item.said, Fault("broke_decoder", reason), 0.0)
    finally:
        _stop(executor)


def _start(workers: int) -> ProcessPoolExecutor:
    """Return worker processes of one thread each, which are started when they are needed."""
    # spawned, not forked: Lance's threads in this process do not survive a fork
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def _stop(executor: ProcessPoolExecutor) -> None:
    """End worker processes without waiting for what they are at."""
    for process in list((executor._processes or {}).values()):
        with contextlib.suppress(ProcessLookupError, ValueError):
            process.kill()
    executor.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """Make this process a worker: it ignores Ctrl-C, which its parent heeds, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # decoders in C write warnings about others' files there
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent has ended, which a killed parent cannot ask for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _work(item: SourceItem) -> PreparedItem:
    """Prepare an item within the time that one item may take."""
    signal.alarm(LONGEST_SECONDS)  # unhandled, it ends the process, also within a decoder
    try:
        return prepare(item)
    finally:
        signal.alarm(0)
