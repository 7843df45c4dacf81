"""Decoding in vLLM: a back end for `Service` whose steps happen in a process of an environment that
has vLLM. Knows no media.

`VllmBackend` queues requests, fairly by kind, gives the worker (`vllm_worker.py`) as many as it has
rows for, and takes ids as they come. When the worker dies, whoever waits is told so (503), nothing
new is taken, and another is started: at once, then after 1, 2, 4 … 60 seconds where it does not
come up. It sees the end of its input when this process is gone, and ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import shlex
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from onnuri import config
from onnuri.errors import AwayError, ConfigError
from onnuri.inference import vllm_wire as wire
from onnuri.inference.backend import BackendLoad
from onnuri.inference.request import Request, RequestHandle, RequestState
from onnuri.inference.scheduler import RequestQueue

log = logging.getLogger("onnuri")
PACKAGE = Path(__file__).parents[1]
WAIT_SECONDS = 0.02
"""for which a step waits for the worker, before it looks for cancelled requests"""
END_SECONDS = 30.0
"""for which the worker may end by itself; it takes less than 1 where it is one process"""
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
    """The settings of a vLLM worker: its environment, model, sizes and own arguments."""

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
    """vLLM's own arguments, as on its command line"""


class VllmBackend:
    """A `Backend` (`backend.py`) in another process. Raises ConfigError where vLLM cannot be
    started."""

    def __init__(self, settings: VllmConfig) -> None:
        """Start the worker, wait until it is ready, and start the thread that restarts it."""
        self.settings, self.arguments = settings, _split_arguments(settings.arguments)
        self.queue = RequestQueue(settings.waiting)
        self.active: dict[str, RequestState] = {}
        """requests that the worker has, by key"""
        self.about: wire.Message = {}
        """the worker's version, device and limits, as it reported them"""
        self.ready = False
        """whether there is a worker that takes requests"""
        self._inbox: queue.SimpleQueue[wire.Message] = queue.SimpleQueue()
        self._closed, self._count = threading.Event(), 0
        self._process: subprocess.Popen[str] | None = None
        self._start()
        self._supervisor = threading.Thread(target=self._supervise, name="onnuri-vllm", daemon=True)
        self._supervisor.start()

    def submit(self, request: Request, bounded: bool = True) -> RequestHandle:
        """Queue a request and return its handle. Raises ConfigError where vLLM cannot decode it,
        BusyError where too many wait, AwayError where there is no worker."""
        request.check(self.about["positions"])
        if (request.constraint or request.on_score) and not self.about["alone"]:
            raise ConfigError(
                "response_format, tools and logprobs",
                "are not to be had of a vLLM of several processes",
                "leave them out, or serve without tensor and pipeline parallelism",
            )
        if not self.ready:
            raise _away_error()
        return self.queue.push(request, bounded)

    @property
    def idle(self) -> bool:
        """Return whether nothing waits and nothing is decoded."""
        return not (self.active or len(self.queue))

    @property
    def rows(self) -> int:
        """Return how many sequences the worker is decoding."""
        return sum(len(state.request.prompts) for state in list(self.active.values()))

    def load(self) -> BackendLoad:
        """Return how many requests wait and are active now, and the ids sampled since the start."""
        return BackendLoad(
            waiting=len(self.queue),
            active=len(self.active),
            rows=self.rows,
            sampled_tokens=dict(self.queue.sampled_tokens),
        )

    def step(self) -> None:
        """Handle the worker's messages, cancel what was called off, and send it requests that it
        has rows for; wait `WAIT_SECONDS` at most."""
        # All messages: that it is gone must be heard before its successor is given anything.
        with contextlib.suppress(queue.Empty):
            while True:
                self._handle(self._inbox.get_nowait())
        self._evict()
        self._admit()
        with contextlib.suppress(queue.Empty):
            self._handle(self._inbox.get(timeout=WAIT_SECONDS))

    def reset(self) -> None:
        """Cancel every queued and every active request."""
        for key in list(self.active):
            self._send({"cancel": key})
        self._end_all()

    def close(self) -> None:
        """Cancel every request and end the worker for good."""
        self._closed.set()
        self._end_all()
        self._stop()
        self._supervisor.join()

    def _evict(self) -> None:
        """Close the handles of cancelled requests, and tell the worker of those that it has."""
        self.queue.evict()
        for key in [key for key, state in self.active.items() if state.handle.cancelled]:
            self._send({"cancel": key})
            self.active.pop(key).handle.close("cancelled")

    def _admit(self) -> None:
        """Send the worker queued requests as long as it has rows for them."""
        while self.ready and (handle := self.queue.pop(self.settings.rows - self.rows)):
            self._count += 1
            key = str(self._count)
            self.active[key] = RequestState(handle)
            self._send({"ask": wire.to_json(key, handle.request)})

    def _handle(self, message: wire.Message) -> None:
        """Do what one message of the worker's asks for: new ids, a constraint's verdict, a refusal,
        or its end."""
        if "step" in message:
            for key, token, score in message["step"]:
                if key in self.active:
                    self._append(key, token, score)
        elif "take" in message:
            self._answer_constraint(*message["take"])
        elif "refused" in message and (state := self.active.pop(message["refused"][0], None)):
            reason = f"does not take this request ({message['refused'][1]})"
            state.handle.close("cancelled", ConfigError("vLLM", reason, "ask for less"))
        elif "gone" in message:
            self._end_all(_away_error())

    def _append(self, key: str, token: int, score: list[Any] | None) -> None:
        """Append an id, with the score that came with it, to an active request; tell its listeners,
        and close it where it ends."""
        state = self.active[key]
        request = state.request
        state.take(token)
        self.queue.count(state.handle)
        if request.on_score and score:
            request.on_score(wire.score_of(score))
        if request.on_token:
            request.on_token(token)
        if state.finish:
            del self.active[key]
            state.handle.close(state.finish)

    def _answer_constraint(self, key: str, sampled: int) -> None:
        """Send the worker the id that a request's constraint lets stand for a sampled one, and the
        mask that follows; the worker waits for it, so it is sent whatever happens."""
        stands, allowed = sampled, None
        try:
            if (state := self.active.get(key)) and (constraint := state.request.constraint):
                stands = constraint.take(sampled)
                lo, hi = state.token_constraint.vocab_range
                allowed = wire.allowed_by(constraint) if stands < hi - lo else None
        finally:
            self._send({"stands": [stands, allowed]})

    def _end_all(self, error: AwayError | None = None) -> None:
        """Close the handles of all requests, queued and active, with an error if one is given."""
        handles = [*self.queue.clear(), *(state.handle for state in self.active.values())]
        self.active.clear()
        for handle in handles:
            handle.close("cancelled", error)

    def _send(self, message: wire.Message) -> None:
        """Write a message to the worker as a line of JSON; where it has died, its supervisor
        notices."""
        process = self._process
        assert process and process.stdin
        with contextlib.suppress(OSError, ValueError):  # it has died, which its keeper says
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()

    def _supervise(self) -> None:
        """Pass the worker's lines on to the inbox; when it ends, log it and start another. Runs in
        a thread of its own."""
        while not self._closed.is_set():
            assert self._process and self._process.stdout
            for line in self._process.stdout:
                self._inbox.put(_parse_line(line))
            self.ready = False
            self._stop()
            self._inbox.put({"gone": True})
            if not self._closed.is_set():
                log.error(
                    "vLLM's process ended with status %s: what it was decoding is lost, "
                    "it is started again; its log is %s",
                    self._process.returncode,
                    self._log,
                )
                self._restart()

    def _restart(self) -> None:
        """Start the worker again, after pauses of 1 to 60 seconds where it fails, until it is up or
        this is closed."""
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
        """Return the path of the worker's log."""
        return self.settings.home / "log"

    def _start(self) -> None:
        """Start a worker and wait until it is ready. Raises ConfigError."""
        settings, python = self.settings, self.settings.python
        _link_package(settings.home)
        worker_settings = {
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
                    [python, "-m", "onnuri.inference.vllm_worker", json.dumps(worker_settings)],
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
            self._wait_until_ready(self._process)
        except BaseException:  # an interrupt too must not leave it behind
            self._stop()
            raise
        self.ready = True

    def _wait_until_ready(self, process: subprocess.Popen[str]) -> None:
        """Wait for the worker's first message, which says what it can do. Raises ConfigError where
        it says, or shows, that it cannot start."""
        assert process.stdout
        message = _parse_line(process.stdout.readline())
        if "ready" in message:
            self.about = message["ready"]
            return
        fault = str(
            message.get("fault")
            or f"it ended with status {process.wait()}; {_last_line(self._log)}"
        )
        if "No module named 'vllm'" in fault:
            raise ConfigError(f"--vllm-python {self.settings.python}", "has no vLLM", _REPAIR)
        raise ConfigError(
            f"vLLM in {self.settings.python}",
            f"does not start ({fault})",
            f"its log is {self._log.absolute()}",
        )

    def _stop(self) -> None:
        """End the worker and all processes that it has started; it has `END_SECONDS` to do so by
        itself."""
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


def _away_error() -> AwayError:
    """Return the error of requests that come while there is no worker, or that it took with it."""
    return AwayError("vLLM", "has ended and is being started again", "ask again in a moment")


def _split_arguments(line: str) -> list[str]:
    """Return vLLM's command line as a list of arguments. Raises ConfigError where quotes do not
    match."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ConfigError(
            f"--vllm-args {line!r}", f"cannot be read ({error})", "write them as a shell would"
        ) from None


def _link_package(home: Path) -> None:
    """Make a folder with a link to our package alone, so that the other environment sees nothing
    else that lies beside it here. Raises ConfigError."""
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


def _parse_line(line: str) -> wire.Message:
    """Return a line of the worker's as a message, an empty one where it is no JSON object."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _last_line(log_file: Path) -> str:
    """Return the last line of a log that is not empty, cut to 300 characters."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")[:300]
