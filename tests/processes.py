"""Real `onnuri` processes for tests that start fast, and that never outlive the test run.

A process is forked from one interpreter per test run that has already imported torch, transformers
and onnuri (the standard library's fork server), so a start costs tenths of a second instead of four
seconds of imports. It is a process of its own in every other way: its own pid, signals, exit status
and memory. Every process here ends when pytest does, also when that is killed: forked ones watch
it, others ask Linux to kill them with their parent (`PR_SET_PDEATHSIG`). So nothing stays behind
when a fixture fails or the test run dies.

Knows no server: what a ready server is, `tests/server/conftest.py` says.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LIMIT_SECONDS = 600
"""after which a condition that is waited for counts as never true; far beyond what a busy machine
needs"""
PRELOADED = [
    "onnuri.cli",
    "onnuri.server.run",
    "onnuri.recipes.laptop",
    "onnuri.recipes.nano",
    "transformers.models.llama.modeling_llama",
]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_test_run() -> None:
    """Kill this process when pytest ends: the fork server, its parent to Linux, lives as long as
    any process of its."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until(
    condition,
    what: str = "condition",
    limit_seconds: float = LIMIT_SECONDS,
    pause_seconds: float = 0.02,
):
    """Poll `condition` until it returns something true, and return that. Raises AssertionError
    after the limit."""
    end = time.monotonic() + limit_seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what}: not within {limit_seconds:g} s"
        time.sleep(pause_seconds)
    return value


def _run(
    program: str,
    arguments: list[str],
    output: str,
    errors: str,
    folder: str,
    environment: dict[str, str],
) -> None:
    """Run `onnuri ARGUMENTS` or a Python file as a new interpreter would, with standard output and
    error in files."""
    die_with_parent()
    threading.Thread(target=_end_with_test_run, daemon=True).start()
    for path, descriptor in ((output, 1), (errors, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, descriptor)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # the fork server ignores it, and its children inherit that
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [program, *arguments]
    try:
        if program == "onnuri":
            from onnuri.cli import main

            main()
        else:
            sys.path.insert(0, str(Path(program).parent))
            runpy.run_path(program, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):  # as Python does of itself
            sys.stderr.write(stop.code + "\n")
            raise SystemExit(1) from None
        raise
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()


class ForkedProcess:
    """`onnuri ARGUMENTS`, or a Python file, in a process of its own, with the methods of `Popen`
    that tests use."""

    def __init__(
        self,
        program: object,
        *arguments: object,
        log: Path,
        errors: Path | None = None,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start "onnuri" or the file `program`. Standard error goes to `errors`, or to `log` as
        standard output does."""
        os.environ.setdefault(
            "OMP_NUM_THREADS", "1"
        )  # the fork server reads it once, when it imports torch
        everything = {**os.environ, **(environment or {})}
        self._process = _context.Process(
            target=_run,
            daemon=True,
            args=(
                str(program),
                [str(a) for a in arguments],
                str(log),
                str(errors or log),
                str(folder or Path.cwd()),
                everything,
            ),
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status (negative: the signal that ended it), or None while it runs."""
        return self._process.exitcode

    def wait(self, limit_seconds: float = LIMIT_SECONDS) -> int:
        """Return the exit status once it has ended."""
        self._process.join(limit_seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), limit_seconds)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def run_program(program: object, *arguments: object, **options) -> subprocess.CompletedProcess:
    """Run a program of ForkedProcess to its end and return what `subprocess.run` does, with both
    outputs as text."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch, name) for name in ("stdout", "stderr")]
        status = ForkedProcess(program, *arguments, log=files[0], errors=files[1], **options).wait()
        texts = [file.read_text() if file.exists() else "" for file in files]
    return subprocess.CompletedProcess([str(program), *map(str, arguments)], status, *texts)


def run_onnuri(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Run `onnuri ARGUMENTS` to its end."""
    return run_program("onnuri", *arguments, **options)


def start_python(*arguments: object, **options) -> subprocess.Popen:
    """Start a new interpreter, for what must not inherit any import, that ends with the test
    run."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], preexec_fn=die_with_parent, **options
    )
