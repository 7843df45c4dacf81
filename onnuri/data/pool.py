"""A pool: rows of arrays made once by worker processes and read by memory map. Knows nothing of
what the rows are.

    folder/<column>.npy   [N, …], one array a column
    folder/pool.json      how many rows; written last, so a folder with it is whole

Rows are made in order in shards; an interrupted pool goes on after its last whole shard.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.progress import track

_LEAN = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
    "MALLOC_TOP_PAD_": str(1 << 27),
}
"""one thread a process; memory that was freed is kept for the next picture, which is a third of
encoding's time"""
Job = TypeVar("Job")
Row = dict[str, np.ndarray]
SHARD = 512
"""rows a shard"""


def run_jobs(work: Callable[[Job], None], jobs: list[Job], workers: int, name: str) -> None:
    """Do every job, with progress, in worker processes of one thread each (the cores are theirs);
    one worker is this one.

    `work` is a module's function, for it is sent by name.
    """
    if workers == 1:  # a process of its own would import everything again
        for _ in track(map(work, jobs), name, len(jobs), transient=True):
            pass
    elif jobs:
        with _environment(_LEAN), multiprocessing.get_context("spawn").Pool(workers) as pool:
            for _ in track(pool.imap_unordered(work, jobs), name, len(jobs), transient=True):
                pass


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Settings that started processes find; ours come back afterwards."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def build(
    folder: Path, rows: int, make: Callable[[int], Row], workers: int, name: str, first: int = 0
) -> None:
    """Rows `make(first) … make(first + rows - 1)`, each column stacked along a first axis (rows of
    rows concatenated).

    A column whose rows have the shape of one item is stacked; `make` is a module's function, for it
    is sent by name.
    """
    done = folder / "pool.json"
    if done.exists() and json.loads(done.read_text()).get("rows") == rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    shards = [(first + start, min(SHARD, rows - start)) for start in range(0, rows, SHARD)]
    jobs = [
        (folder, make, start, count)
        for start, count in shards
        if not (folder / f"{start}.shard.npz").exists()
    ]
    run_jobs(_shard, jobs, workers, name)
    merge(folder, [start for start, _ in shards], rows)
    done.write_text(json.dumps({"rows": rows}))


def _shard(job: tuple[Path, Callable[[int], Row], int, int]) -> None:
    folder, make, start, count = job
    made = [make(seed) for seed in range(start, start + count)]
    part = folder / f"{start}.part.npz"
    np.savez(part, **{n: np.stack([row[n] for row in made]) for n in made[0]})  # type: ignore[arg-type]
    part.rename(folder / f"{start}.shard.npz")


def merge(folder: Path, starts: list[int], rows: int) -> None:
    """One memory-mapped array a column out of the shards, which go."""
    out: dict[str, Any] = {}
    at = 0
    for start in starts:
        with np.load(folder / f"{start}.shard.npz") as shard:
            size = 0
            for name in shard.files:
                values = shard[name]
                if name not in out:
                    out[name] = np.lib.format.open_memmap(
                        folder / f"{name}.npy",
                        mode="w+",
                        dtype=values.dtype,
                        shape=(rows, *values.shape[1:]),
                    )
                out[name][at : at + len(values)] = values
                size = len(values)
            at += size
    for start in starts:
        (folder / f"{start}.shard.npz").unlink()
