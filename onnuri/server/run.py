"""`onnuri serve`: load, say what is served and where, run until told to stop, let what is under way
finish."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from onnuri import WEIGHTS, load
from onnuri.errors import ConfigError, OnnuriError
from onnuri.inference.cpu_kernel import CompiledLlama
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.vllm_backend import VllmBackend, VllmConfig
from onnuri.model.omni import OmniModel
from onnuri.server import memory
from onnuri.server.app import create
from onnuri.server.middleware import LOCAL
from onnuri.server.service import Service
from onnuri.server.settings import ServeConfig
from onnuri.server.state import State
from onnuri.server.store import Store

log = logging.getLogger("onnuri")


def serve(settings: ServeConfig, folder: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT. Raises ConfigError where the port or the database cannot be
    had."""
    settings.check()
    memory.settle()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    listening = _bind(settings)
    store = Store(settings.url, settings.data)
    if settings.host not in LOCAL and settings.open:
        raise ConfigError(
            f"--host {settings.host}",
            "is open to others, and --open lets callers in without a key",
            "leave one of them out",
        )
    if settings.host not in LOCAL and not store.any_key():
        raise ConfigError(
            f"--host {settings.host}",
            "is open to others, and there is no key",
            "make one with `onnuri keys add NAME`, or stay on 127.0.0.1",
        )
    torch.set_num_threads(1)  # requests side by side use the cores better than each of them does
    service, beside = _service(settings, folder, settings.name), {}
    try:
        if settings.beside:
            beside = {name_of(settings): _service(settings, settings.beside, name_of(settings))}
    except OnnuriError:
        service.close()  # else Python's end, now and then, waits for its threads for ever
        raise
    try:
        state = State(service, store, settings, beside)
    except OnnuriError:
        for each in (service, *beside.values()):
            each.close()
        raise
    asyncio.run(_run(state, listening))


def _service(settings: ServeConfig, folder: Path | None, name: str) -> Service:
    return (
        vllm_service(settings, folder, name)
        if settings.backend == "vllm"
        else own_service(settings, folder)
    )


def own_service(settings: ServeConfig, folder: Path | None) -> Service:
    """Return a service that decodes in our own engine."""
    model = load(folder)
    engine = Engine(model.network, EngineConfig(rows=settings.rows, waiting=8 * settings.requests))
    if not isinstance(engine.forward, CompiledLlama):
        log.warning(
            "no C compiler builds the decoding kernel: PyTorch decodes, several times slower; "
            "install gcc"
        )
    return Service(model, engine)


def vllm_service(settings: ServeConfig, folder: Path | None, name: str) -> Service:
    """Return a service that decodes in vLLM, which alone has the weights. Raises ConfigError where
    it does not start."""
    folder = folder or WEIGHTS / "laptop"
    model = OmniModel.load(folder, weights=False)
    model.answers.scored = False  # a process more to ask for every id
    engine = VllmBackend(
        VllmConfig(
            python=settings.vllm_python,
            folder=folder,
            home=settings.data / "vllm" / plain(name),
            rows=settings.rows,
            positions=model.answers.positions,
            waiting=8 * settings.requests,
            arguments=settings.vllm_args,
        )
    )
    alone = (
        ""
        if engine.about["alone"]
        else "; several processes: no response_format, tools and logprobs"
    )
    log.info(
        "vLLM %(version)s decodes, %(dtype)s on %(device)s; guidance as pairs of sequences" + alone,
        engine.about,
    )
    return Service(model, engine)


def name_of(settings: ServeConfig) -> str:
    """Return the second model's name in the API: as told, else its folder's as far as it can stand
    in a path, and not the first's."""
    assert settings.beside
    name = settings.beside_name or plain(settings.beside.resolve().name)
    return name if name != settings.name else f"{name}-2"


def plain(name: str) -> str:
    """Return a name as far as it can stand in a path."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"


def _bind(settings: ServeConfig) -> socket.socket:
    if not 0 <= settings.port < 65_536:  # the system would take the rest of a division
        raise ConfigError(
            f"--port {settings.port}", "cannot be listened on (0 to 65535)", "give one of these"
        )
    try:
        info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(info[0], info[1])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(info[4])
        made.listen(512)
        return made
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{settings.host}:{settings.port}",
            f"cannot be listened on ({why})",
            "give another --host or --port",
        ) from None


class _Server(uvicorn.Server):
    """Takes no more when told to stop; what is under way has `drain_seconds`, then its end is an
    error event."""

    def __init__(self, settings: uvicorn.Config, state: State) -> None:
        super().__init__(settings)
        self.onnuri = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.onnuri.traffic.draining:  # a second time: at once
            self.should_exit = self.force_exit = True
            return
        self.onnuri.traffic.draining = True
        self.draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        state = self.onnuri
        for _ in range(round(state.settings.drain_seconds / 0.1)):
            if not state.traffic.open and not state.jobs:
                break
            await asyncio.sleep(0.1)
        await asyncio.to_thread(state.close)
        self.should_exit = True


def prompt_headers(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol, but a connection on which a request's headers do not come in time
    is closed."""

    class Prompt(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.late = self.loop.call_later(seconds, self._close_if_waiting)

        def connection_lost(self, exc: Exception | None) -> None:
            self.late.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if (
                not self.transport.is_closing()
            ):  # the next request's headers, once they begin, have as long
                self.late.cancel()
                self.late = self.loop.call_later(
                    max(seconds, self.timeout_keep_alive), self._close_if_waiting
                )

        def _close_if_waiting(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Prompt


async def _run(state: State, listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    config = uvicorn.Config(
        create(state),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
        h11_max_incomplete_event_size=64 * 1024,
        http=prompt_headers(state.settings.header_seconds),
    )
    keys = "keys needed" if state.keyed else "no key needed from this machine"
    print(
        f"{' and '.join(state.services)}: text, image, audio, video and mesh in and out · page {where} · API {where}/v1 · {keys}",
        flush=True,
    )
    await _Server(config, state).serve([listening])
