"""Decoding in vLLM: an engine for `Service` whose steps happen in a process of an environment that
has vLLM. Knows no media.

`Vllm` queues requests, fairly by kind, gives the worker (`vllm_worker.py`) as many as it has rows
for, and takes ids as they come. When the worker dies, whoever waits is told so (503), nothing new
is taken, and another is started: at once, then after 1, 2, 4 … 60 seconds where it does not come
up. It sees the end of its input when this process is gone, and ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from onnuri import config
from onnuri.errors import AwayError, ConfigError
from onnuri.inference import vllm_wire as wire
from onnuri.inference.request import Course, Ticket
from onnuri.inference.scheduler import Waiting

log = logging.getLogger("onnuri")
PACKAGE = Path(__file__).parents[1]
WAIT_SECONDS = 0.02
"""for the worker's next line, before it is seen who has called off"""
END_SECONDS = 30.0
"""for the worker to end by itself, which takes it no second where it is one process"""
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
}
"""the engine in the worker's own process, the runner that knows v1's processors, and nothing sent
to anybody"""
DEFAULTS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""of the environment, unless it has them: GiB of the cache where there is no GPU"""


class VllmConfig(config.Config):
    """What vLLM is told."""

    python: str
    """the Python of an environment that has vLLM"""
    folder: Path
    """the model's"""
    home: Path
    """where the worker finds nothing but our package, and writes its log"""
    positions: int
    """longest sequence"""
    rows: int = 24
    """sequences that are decoded together; a request with guidance takes two"""
    waiting: int = 64
    """requests that may wait; more are refused"""
    arguments: str = ""
    """vLLM's own, as its command line has them"""


@dataclasses.dataclass
class Kept:
    """What metrics ask of our own engine's prefixes; vLLM keeps its own, and does not say."""

    held_bytes: int = 0
    reused: int = 0


class Vllm:
    """Requests of a server, decoded elsewhere. Raises ConfigError where vLLM cannot be started."""

    def __init__(self, settings: VllmConfig) -> None:
        self.settings, self.arguments = settings, _arguments(settings.arguments)
        self.queue, self.prefixes = Waiting(settings.waiting), Kept()
        self.active: dict[str, Course] = {}
        """those that the worker has, by key"""
        self.drawn: Counter[str] = Counter()
        """ids drawn, by kind"""
        self.about: dict[str, Any] = {}
        """what the worker said of itself"""
        self.ready = False
        """whether there is a worker that decodes"""
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._closed, self._count = threading.Event(), 0
        self._process: subprocess.Popen[str] | None = None
        self._start()
        self._keeper = threading.Thread(target=self._keep, name="onnuri-vllm", daemon=True)
        self._keeper.start()

    def enter(self, ticket: Ticket, bounded: bool = True) -> Ticket:
        """Take a request. Raises ConfigError where it cannot be done, BusyError where too many
        wait, AwayError without a worker."""
        request = ticket.request
        request.check(self.about["positions"])
        if (request.constraint or request.on_score) and not self.about["alone"]:
            raise ConfigError(
                "response_format, tools and logprobs",
                "are not to be had of a vLLM of several processes",
                "leave them out, or serve without tensor and pipeline parallelism",
            )
        if not self.ready:
            raise _away()
        return self.queue.enter(ticket, bounded)

    @property
    def idle(self) -> bool:
        return not (self.active or len(self.queue))

    @property
    def rows(self) -> list[str]:
        """A key for every sequence in vLLM."""
        return [key for key, course in list(self.active.items()) for _ in course.request.prompts]

    def step(self) -> None:
        """Take what the worker says, let go of what was called off, give it what it has room
        for."""
        with contextlib.suppress(queue.Empty):
            while (
                True
            ):  # all of it: that it is gone must be heard before its successor is given anything
                self._hear(self._inbox.get_nowait())
        self._drop()
        self._admit()
        with contextlib.suppress(queue.Empty):
            self._hear(self._inbox.get(timeout=WAIT_SECONDS))

    def reset(self) -> None:
        """Call off whatever waits or is decoded."""
        for key in list(self.active):
            self._say({"cancel": key})
        self._end_all(None)

    def close(self) -> None:
        """End the worker; what is under way is called off."""
        self._closed.set()
        self._end_all(None)
        self._stop()
        self._keeper.join()

    def _drop(self) -> None:
        gone = self.queue.drop()
        for key in [key for key, course in self.active.items() if course.ticket.cancelled]:
            self._say({"cancel": key})
            gone.append(self.active.pop(key).ticket)
        for ticket in gone:
            ticket.close("cancelled")

    def _admit(self) -> None:
        while self.ready and (ticket := self.queue.take(self.settings.rows - len(self.rows))):
            self._count += 1
            key = str(self._count)
            self.active[key] = Course(ticket)
            self._say({"ask": wire.asked(key, ticket.request)})

    def _hear(self, said: dict[str, Any]) -> None:
        """One line of the worker's."""
        if "step" in said:
            for key, token, score in said["step"]:
                if key in self.active:
                    self._take(key, token, score)
        elif "take" in said:
            self._settle(*said["take"])
        elif "refused" in said and (course := self.active.pop(said["refused"][0], None)):
            course.ticket.fail(
                ConfigError(
                    "vLLM", f"does not take this request ({said['refused'][1]})", "ask for less"
                )
            )
        elif "gone" in said:
            self._end_all(_away())

    def _take(self, key: str, token: int, score: list[Any] | None) -> None:
        course = self.active[key]
        request = course.request
        course.take(token)
        self.drawn[request.kind] += 1
        self.queue.charge(course.ticket)
        if request.on_score and score:
            request.on_score(wire.score_of(score))
        if request.on_token:
            request.on_token(token)
        if course.finish:
            del self.active[key]
            course.ticket.close(course.finish)

    def _settle(self, key: str, drawn: int) -> None:
        """What a constraint makes of what was drawn; the worker waits for it, whatever happens."""
        stands, more = drawn, None
        try:
            if (course := self.active.get(key)) and (constraint := course.request.constraint):
                stands = constraint.take(drawn)
                lo, hi = course.plan.free
                more = wire.bound(constraint) if stands < hi - lo else None
        finally:
            self._say({"stands": [stands, more]})

    def _end_all(self, error: AwayError | None) -> None:
        gone = [*self.queue.clear(), *(course.ticket for course in self.active.values())]
        self.active.clear()
        for ticket in gone:
            if error:
                ticket.fail(error)
            else:
                ticket.close("cancelled")

    def _say(self, said: dict[str, Any]) -> None:
        process = self._process
        assert process and process.stdin
        with contextlib.suppress(OSError, ValueError):  # it has died, which its keeper says
            process.stdin.write(json.dumps(said) + "\n")
            process.stdin.flush()

    def _keep(self) -> None:
        """Hand on what the worker says; when it is gone, start another."""
        while not self._closed.is_set():
            assert self._process and self._process.stdout
            for line in self._process.stdout:
                self._inbox.put(_read(line))
            self.ready = False
            self._stop()
            self._inbox.put({"gone": True})
            if not self._closed.is_set():
                log.error(
                    "vLLM's process ended with status %s: what it was decoding is lost, it is started again; its log is %s",
                    self._process.returncode,
                    self._log,
                )
                self._again()

    def _again(self) -> None:
        pause = 1.0
        while not self._closed.is_set():
            try:
                self._start()
                if self._closed.is_set():
                    self._stop()
                return
            except ConfigError as error:
                if not self._closed.wait(pause):
                    log.error("%s; it is tried again", error)
                pause = min(60.0, 2 * pause)

    @property
    def _log(self) -> Path:
        return self.settings.home / "log"

    def _start(self) -> None:
        """A worker that is ready. Raises ConfigError."""
        settings, python = self.settings, self.settings.python
        _link(settings.home)
        told = {
            "folder": str(settings.folder.absolute()),
            "rows": settings.rows,
            "positions": settings.positions,
            "arguments": self.arguments,
        }
        environment = {**DEFAULTS, **os.environ, **ENVIRONMENT}
        for name in ("PYTHONPATH", "PYTHONHOME"):  # of another environment
            environment.pop(name, None)
        if self._log.exists():
            self._log.replace(self._log.with_suffix(".before"))  # it may say why the last one ended
        try:
            with self._log.open("w", encoding="utf-8") as out:
                self._process = subprocess.Popen(
                    [python, "-m", "onnuri.inference.vllm_worker", json.dumps(told)],
                    text=True,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=out,
                    env=environment,
                    cwd=settings.home,
                    start_new_session=True,
                )  # Ctrl-C is for us
        except OSError as error:
            raise ConfigError(
                f"--vllm-python {python}", f"cannot be run ({error.strerror})", _REPAIR
            ) from None
        try:
            self._greet(self._process)
        except BaseException:  # an interrupt too must not leave it behind
            self._stop()
            raise
        self.ready = True

    def _greet(self, process: subprocess.Popen[str]) -> None:
        """Wait until it is ready. Raises ConfigError."""
        assert process.stdout
        said = _read(process.stdout.readline())
        if "ready" in said:
            self.about = said["ready"]
            return
        fault = str(
            said.get("fault") or f"it ended with status {process.wait()}; {_last_line(self._log)}"
        )
        if "No module named 'vllm'" in fault:
            raise ConfigError(f"--vllm-python {self.settings.python}", "has no vLLM", _REPAIR)
        raise ConfigError(
            f"vLLM in {self.settings.python}",
            f"does not start ({fault})",
            f"its log is {self._log.absolute()}",
        )

    def _stop(self) -> None:
        """End the worker and what it has started."""
        process = self._process
        if process is None:
            return
        assert process.stdin
        with contextlib.suppress(OSError, ValueError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with contextlib.suppress(OSError):  # it may be gone, others of its group may not
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


_REPAIR = "give the Python of an environment that has vLLM (docs/server.md)"


def _away() -> AwayError:
    return AwayError("vLLM", "has ended and is being started again", "ask again in a moment")


def _arguments(said: str) -> list[str]:
    try:
        return shlex.split(said)
    except ValueError as error:
        raise ConfigError(
            f"--vllm-args {said!r}", f"cannot be read ({error})", "write them as a shell would"
        ) from None


def _link(home: Path) -> None:
    """A folder with our package alone: what else lies beside it here may not be seen in the other
    environment."""
    link = home / "onnuri"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() or link.readlink() != PACKAGE:
            link.unlink(missing_ok=True)
            link.symlink_to(PACKAGE)
    except OSError as error:
        raise ConfigError(
            str(home), f"cannot be written ({error.strerror})", "give another --data"
        ) from None


def _read(line: str) -> dict[str, Any]:
    """A line of the worker's, or nothing where it is none."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _last_line(log_file: Path) -> str:
    lines = log_file.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:300]
