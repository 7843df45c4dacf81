"""The command `onnuri serve`: load the models, say what is served and where, run until told to
stop, let what is under way finish."""

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

from onnuri import PICTURED, PICTURES, WEIGHTS, load
from onnuri.errors import ConfigError, OnnuriError
from onnuri.inference.cpu_kernel import CompiledLlama, build
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.vllm_backend import VllmBackend, VllmConfig
from onnuri.model.omni import OmniModel
from onnuri.server import memory
from onnuri.server.app import create, model_of
from onnuri.server.middleware import LOCAL
from onnuri.server.service import Service
from onnuri.server.settings import ServeConfig
from onnuri.server.state import TOGETHER, State
from onnuri.server.store import Store

log = logging.getLogger("onnuri")


def serve(settings: ServeConfig, folder: Path | None = None) -> None:
    """Serve models until SIGTERM or SIGINT. Raises ConfigError where the port or the database
    cannot be had, or where others could call without a key."""
    settings.check()
    memory.settle()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    listener = _listen(settings)
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
    services: dict[str, Service] = {}
    others = other_models(settings, folder)
    try:
        for name, each in {settings.name: folder, **others}.items():
            services[name] = _service(settings, each, name)
        beside = {name: services[name] for name in others}
        together = [*services] if others and not settings.beside else []
        state = State(services[settings.name], store, settings, beside, together)
    except OnnuriError:
        for service in services.values():
            service.close()  # else Python's end, now and then, waits for its threads for ever
        raise
    asyncio.run(_run(state, listener))


def other_models(settings: ServeConfig, folder: Path | None) -> dict[str, Path]:
    """Return the folders of the models beside the first one, which is that of `folder`, by their
    names in the API."""
    other = settings.beside or settings.pictures
    if other:
        return {
            other_name(settings, settings.beside_name or path_safe(other.resolve().name)): other
        }
    if folder or settings.backend != "onnuri" or not PICTURES.exists():
        return {}
    return {other_name(settings, PICTURED): PICTURES}


def _service(settings: ServeConfig, folder: Path | None, name: str) -> Service:
    """Return the service of a model's folder, over the back end that the settings name."""
    return (
        vllm_service(settings, folder, name)
        if settings.backend == "vllm"
        else own_service(settings, folder)
    )


def own_service(settings: ServeConfig, folder: Path | None) -> Service:
    """Return a service that decodes in our own engine."""
    model = load(folder, device=settings.device)
    engine = Engine(
        model.network,
        EngineConfig(
            rows=settings.rows,
            waiting=8 * settings.requests,
            device=settings.device,
            positions=settings.positions,
        ),
    )
    if settings.device == "cpu" and not isinstance(engine.forward, CompiledLlama):
        why = (
            "no C compiler builds the decoding kernel, install gcc"
            if build("float") is None
            else "the decoding kernel does not know this model's shape"
        )
        log.warning("%s: PyTorch decodes, several times slower", why)
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
            home=settings.data / "vllm" / path_safe(name),
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


def other_name(settings: ServeConfig, name: str) -> str:
    """Return a second model's name in the API, made different from the first's."""
    return name if name not in (settings.name, TOGETHER) else f"{name}-2"


def path_safe(name: str) -> str:
    """Return a name with all characters replaced that cannot stand in a path."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"


def _listen(settings: ServeConfig) -> socket.socket:
    """Return a socket that listens on the settings' host and port. Raises ConfigError where it
    cannot."""
    if not 0 <= settings.port < 65_536:  # the system would take the rest of a division
        raise ConfigError(
            f"--port {settings.port}", "cannot be listened on (0 to 65535)", "give one of these"
        )
    try:
        info = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(info[0], info[1])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(info[4])
        listener.listen(512)
        return listener
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{settings.host}:{settings.port}",
            f"cannot be listened on ({why})",
            "give another --host or --port",
        ) from None


class _Server(uvicorn.Server):
    """A uvicorn server that takes no more requests when told to stop; what is under way has
    `drain_seconds`, then its end is an error event."""

    def __init__(self, settings: uvicorn.Config, state: State) -> None:
        super().__init__(settings)
        self.onnuri = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal, stop at once at the second."""
        if self.onnuri.traffic.draining:  # a second time: at once
            self.should_exit = self.force_exit = True
            return
        self.onnuri.traffic.draining = True
        self.draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Wait until nothing is under way or `drain_seconds` have passed, then end the services and
        the server."""
        state = self.onnuri
        for _ in range(round(state.settings.drain_seconds / 0.1)):
            if not state.traffic.open and not state.jobs:
                break
            await asyncio.sleep(0.1)
        await asyncio.to_thread(state.close)
        self.should_exit = True


def protocol_with_header_timeout(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with a timeout: a connection is closed on which a request's headers
    do not arrive within so many seconds."""

    class WithHeaderTimeout(H11Protocol):
        """An HTTP connection with a timer for each request's headers."""

        def connection_made(self, transport: Any) -> None:
            """Start the timer of the first request's headers."""
            super().connection_made(transport)
            self.header_timer = self.loop.call_later(seconds, self._close_if_waiting)

        def connection_lost(self, exc: Exception | None) -> None:
            """Stop the timer."""
            self.header_timer.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            """Start the timer of the next request's headers."""
            super().on_response_complete()
            # the next request's headers, once they begin, have as long
            if not self.transport.is_closing():
                self.header_timer.cancel()
                self.header_timer = self.loop.call_later(
                    max(seconds, self.timeout_keep_alive), self._close_if_waiting
                )

        def _close_if_waiting(self) -> None:
            """Close the connection unless a request is being answered."""
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return WithHeaderTimeout


async def _run(state: State, listener: socket.socket) -> None:
    """Run the application on a listening socket until it is told to stop."""
    host, port = listener.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    config = uvicorn.Config(
        create(state),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
        h11_max_incomplete_event_size=64 * 1024,
        http=protocol_with_header_timeout(state.settings.header_seconds),
    )
    keys = "keys needed" if state.keyed else "no key needed from this machine"
    *before, last = model_of(state)["input_modalities"]
    media = f"{', '.join(before)} and {last}" if before else last
    print(
        f"{' and '.join(state.services)}: {media} in and out"
        f"{f', together as {state.name}' if state.together else ''} · "
        f"page {where} · API {where}/v1 · {keys}",
        flush=True,
    )
    await _Server(config, state).serve([listener])
