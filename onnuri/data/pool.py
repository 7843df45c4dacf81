"""This module builds a pool: arrays of rows that worker processes compute once and that are then
read by memory map.

It knows nothing of what the rows are.

    folder/<column>.npy   [N, …], one array per column
    folder/pool.json      the number of rows; written last, so a folder with it is whole

Rows are built in order, in shards; an interrupted build goes on after its last whole shard.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.progress import track

_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(1 << 27),
}
"""environment of worker processes: one thread each; malloc keeps freed memory for the next picture,
since returning it to the system took a third of encoding's time"""
Job = TypeVar("Job")
Row = dict[str, np.ndarray]
SHARD = 512
"""rows per shard"""


def run_jobs(work: Callable[[Job], None], jobs: list[Job], workers: int, name: str) -> None:
    """Run `work` on every job in `workers` spawned processes of one thread each, behind a progress
    bar called `name`.

    With one worker the jobs run in this process. `work` must be a function of a module, because it
    is pickled by name.
    """
    if workers == 1:  # a process of its own would import everything again
        for _ in track(map(work, jobs), name, len(jobs), transient=True):
            pass
    elif jobs:
        with single_threaded(), multiprocessing.get_context("spawn").Pool(workers) as pool:
            for _ in track(pool.imap_unordered(work, jobs), name, len(jobs), transient=True):
                pass


def single_threaded() -> AbstractContextManager[None]:
    """Let processes that are started in a `with` block have one thread each."""
    return _environment(_WORKER_ENVIRONMENT)


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set environment variables within a `with` block, so that processes started there inherit
    them, and restore the old values afterwards."""
    old_values = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in old_values.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def build(
    folder: Path, rows: int, make: Callable[[int], Row], workers: int, name: str, first: int = 0
) -> None:
    """Compute the rows `make(first) … make(first + rows - 1)` in worker processes and save each
    column as one array [rows, …] in `folder`.

    `make` returns one row as a dictionary of arrays; it must be a function of a module, because it
    is pickled by name. Nothing is done if the folder already holds this many rows.
    """
    summary = folder / "pool.json"
    if summary.exists() and json.loads(summary.read_text()).get("rows") == rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    shards = [(first + start, min(SHARD, rows - start)) for start in range(0, rows, SHARD)]
    jobs = [
        (folder, make, start, count)
        for start, count in shards
        if not (folder / f"{start}.shard.npz").exists()
    ]
    run_jobs(_build_shard, jobs, workers, name)
    merge(folder, [start for start, _ in shards], rows)
    summary.write_text(json.dumps({"rows": rows}))


def _build_shard(job: tuple[Path, Callable[[int], Row], int, int]) -> None:
    """Compute `count` rows from seed `start` on and save them as one `.npz` file, renamed from a
    temporary name when it is whole."""
    folder, make, start, count = job
    rows = [make(seed) for seed in range(start, start + count)]
    temporary = folder / f"{start}.part.npz"
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    np.savez(temporary, **columns)  # type: ignore[arg-type]
    temporary.rename(folder / f"{start}.shard.npz")


def merge(folder: Path, starts: list[int], rows: int) -> None:
    """Join the shards that begin at `starts` into one memory-mapped array [rows, …] per column, and
    delete the shards."""
    columns: dict[str, Any] = {}
    row = 0
    for start in starts:
        with np.load(folder / f"{start}.shard.npz") as shard:
            size = 0
            for name in shard.files:
                values = shard[name]
                if name not in columns:
                    columns[name] = np.lib.format.open_memmap(
                        folder / f"{name}.npy",
                        mode="w+",
                        dtype=values.dtype,
                        shape=(rows, *values.shape[1:]),
                    )
                columns[name][row : row + len(values)] = values
                size = len(values)
            row += size
    for start in starts:
        (folder / f"{start}.shard.npz").unlink()
