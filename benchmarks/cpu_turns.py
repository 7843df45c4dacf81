"""Lets training runs of several processes take steps in turn: `benchmarks/cpu.py` gives each a few
steps while the others stand still between two of theirs, so that all see the same machine.

    turns = Turns(door)                       # in a run, whose last argument `door` is
    turns.between_steps(losses)               # before the first step and after each one

    with Run("name", command, folder) as run: # in the benchmark
        steps = run.take(4)

It imports the standard library alone, for a run may be of another environment.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self


class Steps(NamedTuple):
    """A Steps holds what a run says of the steps that it was given."""

    seconds: list[float]
    """of each step, by the clock"""
    processor_seconds: list[float]
    """of each step, of all threads together"""
    losses: list[float]
    """of all steps of the run so far"""
    resident_bytes: int
    """of the process now"""
    peak_bytes: int
    """most of the process so far"""


class Turns:
    """A Turns keeps a run waiting between two steps until the benchmark gives it some."""

    def __init__(self, door: str) -> None:
        """Take the number of the open file by which the benchmark talks to this process."""
        self.connection = Connection(int(door))
        self.left = 0
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self.began: tuple[float, float] | None = None

    def between_steps(self, losses: Callable[[], list[float]]) -> None:
        """Note the step that ends here, and wait if it was the last that was given; `losses` returns
        those of all steps so far."""
        if self.began is not None:
            self.seconds.append(time.perf_counter() - self.began[0])
            self.processor_seconds.append(time.process_time() - self.began[1])
        if self.left == 0:
            memory = _status_bytes("VmRSS"), _status_bytes("VmHWM")
            self.connection.send((self.seconds, self.processor_seconds, losses(), *memory))
            self.seconds, self.processor_seconds = [], []
            self.left = self.connection.recv()
        self.left -= 1
        self.began = time.perf_counter(), time.process_time()


def _status_bytes(field: str) -> int:
    """Return the bytes that Linux says of this process in a field."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


class Run:
    """A Run is a process that trains, and waits between two steps until it is given some."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        """Start a command, with its end of a pipe as one more argument, and wait until it is about
        to take its first step. What it prints goes into a file of the folder.

        Raises RuntimeError, with the last lines that it has printed, if it ends.
        """
        self.name, self.log = name, folder / f"{name}.log"
        self.connection, door = Pipe()
        with self.log.open("wb") as log, door:
            self.process = subprocess.Popen(
                [*command, str(door.fileno())],
                pass_fds=[door.fileno()],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.start = self._receive()

    def __enter__(self) -> Self:
        """Return the run."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def take(self, count: int) -> Steps:
        """Let the run take some steps and return what it says of them."""
        self.connection.send(count)
        return self._receive()

    def _receive(self) -> Steps:
        """Return what the run says next. Raises RuntimeError if it has ended."""
        try:
            return Steps(*self.connection.recv())
        except (EOFError, ConnectionError):
            self.process.kill()
            self.process.wait()
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise RuntimeError(f"{self.name} ended: " + " / ".join(lines[-6:])) from None
