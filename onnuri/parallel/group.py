"""This module holds what the ranks of the process group tell each other as plain values. A process
without a group is its only rank. It knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from onnuri.errors import OnnuriError


def rank() -> int:
    """Return this process's rank, 0 if it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """Return the number of ranks, 1 for a process that is alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    """Wait until every rank has come here."""
    if dist.is_initialized():
        dist.barrier()


def gather_objects(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return what each rank gave, on every rank; `group` is another process group than the default
    one."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=group)
    return values


@contextmanager
def failing_together() -> Iterator[None]:
    """Run a `with` block in every rank; a user's mistake in any of them is raised in all, once all
    have come to its end."""
    mistake: OnnuriError | None = None
    try:
        yield
    except OnnuriError as error:
        mistake = error
    for raised in gather_objects(mistake):
        if raised:
            raise mistake or raised
