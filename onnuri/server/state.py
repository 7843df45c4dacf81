"""The state that every route needs: the model's service, the store, settings, metrics; and who is
calling."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fastapi import Request

from onnuri.errors import ConfigError
from onnuri.modality import Modality
from onnuri.model.answer import Context, Inputs
from onnuri.model.omni import OmniModel
from onnuri.model.router import Router
from onnuri.server import inputs
from onnuri.server.errors import JSON, APIError
from onnuri.server.events import FinalItem
from onnuri.server.metrics import ServerMetrics
from onnuri.server.service import Service
from onnuri.server.settings import ServeConfig
from onnuri.server.store import Key, Store
from onnuri.server.usage import TokenUsage

NOBODY = "local"
"""whose requests, jobs and files are those of callers without a configured key"""
TOGETHER = "onnuri"
"""name in the API of several models, one of which is chosen for each question"""


@dataclasses.dataclass(frozen=True)
class Caller:
    """The caller of a request: a key's id, or `local`."""

    id: str
    key: Key | None = None
    began: float = dataclasses.field(default_factory=time.perf_counter)
    """when the request came"""
    limits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """headers that say what is left to it"""


def _rate_limit_headers(key: Key, requests: int, tokens: int) -> dict[str, str]:
    """Return OpenAI's headers of what is left of a key's limits in this minute; there are none for
    what is not limited."""
    headers: dict[str, str] = {}
    reset = f"{60 - time.time() % 60:.0f}s"
    for name, most, used in (
        ("requests", key.requests_per_minute, requests),
        ("tokens", key.tokens_per_minute, tokens),
    ):
        if most:
            headers |= {
                f"x-ratelimit-limit-{name}": str(most),
                f"x-ratelimit-remaining-{name}": str(max(0, most - used)),
                f"x-ratelimit-reset-{name}": reset,
            }
    return headers


@dataclasses.dataclass
class Traffic:
    """The requests under way, of all models together."""

    open: int = 0
    """requests under way"""
    draining: bool = False
    """whether the server has been told to stop"""


class State:
    """The state of one server, as routes see it that ask its first model; `choose` returns it as
    seen by those that ask another."""

    def __init__(
        self,
        service: Service,
        store: Store,
        settings: ServeConfig,
        others: Mapping[str, Service] | None = None,
        together: Sequence[str] = (),
    ) -> None:
        """Take services by model name. Where models are `together`, the name `TOGETHER` asks the
        one of them that knows most of a question. Raises ConfigError for an alias that names no
        served model."""
        self.service, self.store, self.settings = service, store, settings
        self.together = tuple(together)
        """models of which one is chosen for each question (`ask`)"""
        self.name = TOGETHER if together else settings.name
        """of the model that is asked, in the API"""
        self.traffic = Traffic()
        self.jobs: dict[str, asyncio.Task[None]] = {}
        """under way, by id"""
        self.services = {settings.name: service, **(others or {})}
        """of all models, by name"""
        self.aliases = settings.aliases
        for alias, name in self.aliases.items():
            if alias in self.names or name not in self.names:
                raise ConfigError(
                    f"--alias {alias}={name}",
                    "names no served model"
                    if name not in self.names
                    else "is a served model's own name",
                    f"served are {', '.join(self.names)}",
                )
        self.metrics = ServerMetrics({name: each.engine for name, each in self.services.items()})

    @property
    def model(self) -> OmniModel:
        """Return the model that is asked."""
        return self.service.model

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names by which models may be asked; without a name, the first is meant."""
        return (*dict.fromkeys((self.name, *self.services)),)

    def choose(self, name: str | None) -> State:
        """Return the state whose `service` and `name` are those of the model `name`, all else
        shared; without a name, the first model's. Raises APIError for a model that is not
        served."""
        name = self.aliases.get(name, name) if name else name
        if name is None or name == self.name:
            return self
        if name not in self.services:
            known = " or ".join(repr(n) for n in (*self.names, *self.aliases))
            raise APIError(
                404,
                f"model {name!r:.80}: is not served here; use {known}",
                "model_not_found",
                "model",
            )
        view = copy.copy(self)
        view.service, view.name, view.together = self.services[name], name, ()
        return view

    async def ask(self, to: Collection[Modality], inputs: Inputs = ()) -> State:
        """Return the state of the model that answers inputs with some modalities, or with those of
        them that it has: where models are asked together, of the one that knows most of the
        inputs. Raises ConfigError where none has any."""
        names = self.together or (self.name,)
        router = Router({name: self.services[name].model for name in names})
        if not self.together:
            return self.choose(router.choose(to, inputs))
        # what is strange to a model may take an encoder
        return self.choose(await self.service.run_in_pool(router.choose, to, inputs))

    @property
    def keyed(self) -> bool:
        """Return whether callers need a key: once one was made, they do, even after the last was
        revoked."""
        return not self.settings.open and self.store.ever_key()

    def close(self) -> None:
        """End every model's threads; what is under way is cancelled."""
        for service in self.services.values():
            service.close()

    async def admit(self, secret: str | None, local: bool, counts: bool = True) -> Caller:
        """Return the caller to whom a key belongs, counting one more request for it if `counts`.
        Raises APIError where it needs a key or has reached its limit."""
        return await asyncio.to_thread(self._admit, secret, local, counts)

    def _admit(self, secret: str | None, local: bool, counts: bool) -> Caller:
        """Return the caller to whom a key belongs, looked up and counted in the database, which
        blocks. Raises APIError as `admit` does."""
        key = self.store.key_of(secret) if secret else None
        if key is None:
            if local and not self.keyed:
                return Caller(NOBODY)
            raise APIError(
                401,
                "the API key is missing or not known: give one as 'Authorization: Bearer KEY'; "
                "`onnuri keys add NAME` makes one",
                "invalid_api_key",
            )
        requests, tokens = self.store.use(key.id, int(counts), 0)
        limits = _rate_limit_headers(key, requests, tokens)
        if not counts:
            return Caller(key.id, key, limits=limits)
        for used, most, what in (
            (requests, key.requests_per_minute, "requests"),
            (tokens, key.tokens_per_minute, "tokens"),
        ):
            if most and used > most:
                raise APIError(
                    429,
                    f"{used} {what} in this minute: the key has {most}; wait for the next minute",
                    "rate_limit_exceeded",
                    retry_after=60 - time.time() % 60,
                    more=limits,
                )
        return Caller(key.id, key, limits=limits)

    async def spend(self, caller: Caller, tokens: int) -> None:
        """Count tokens towards the caller's limit."""
        if caller.key is not None:
            await asyncio.to_thread(self.store.use, caller.id, 0, tokens)

    async def account(
        self, caller: Caller, context: Context, items: Sequence[FinalItem]
    ) -> TokenUsage:
        """Return the tokens that a context and items took, and count them towards the caller's
        limit."""
        usage = TokenUsage(context, items)
        await self.spend(caller, usage.total)
        return usage

    async def load(
        self, part: JSON, name: str, modality: Modality | None = None
    ) -> tuple[Modality, Any]:
        """Return the input in a part of a message that is not text. Raises APIError and
        MediaError."""
        return await self.service.decode_in_pool(inputs.load, part, name, self.settings, modality)


def state_of(request: Request) -> State:
    """Return the state of the server that a request came to."""
    state: State = request.app.state.onnuri
    return state
