"""What every route needs: the model's service, the store, settings, metrics; and who is calling."""

from __future__ import annotations

import asyncio
import dataclasses
import time

from onnuri.model.omni import OmniModel
from onnuri.server.metrics import Metrics
from onnuri.server.problems import Problem
from onnuri.server.service import Service
from onnuri.server.settings import ServeConfig
from onnuri.server.store import Key, Store

NOBODY = "local"
"""whose requests, jobs and files are those of callers without a configured key"""


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who is calling: a key's id, or `local`."""

    id: str
    key: Key | None = None
    began: float = dataclasses.field(default_factory=time.perf_counter)
    """when the request came"""


class State:
    """One server's."""

    def __init__(self, service: Service, store: Store, settings: ServeConfig) -> None:
        self.service, self.store, self.settings = service, store, settings
        self.metrics = Metrics(service.engine)
        self.draining = False
        self.open = 0
        """requests under way"""
        self.jobs: dict[str, asyncio.Task[None]] = {}
        """under way, by id"""

    @property
    def model(self) -> OmniModel:
        return self.service.model

    def check_model(self, name: str | None) -> None:
        """Raises Problem for a model that is not served."""
        if name is not None and name != self.settings.name:
            raise Problem(404, f"model {name!r}: is not served here; use {self.settings.name!r}", "model_not_found", "model")

    async def admit(self, secret: str | None, local: bool) -> Caller:
        """Who a key belongs to, and one request more for it. Raises Problem."""
        return await asyncio.to_thread(self._admit, secret, local)

    def _admit(self, secret: str | None, local: bool) -> Caller:
        key = self.store.key_of(secret) if secret else None
        if key is None:
            if local and not self.store.any_key():
                return Caller(NOBODY)
            raise Problem(401, "the API key is missing or not known: give one as 'Authorization: Bearer KEY'; "
                               "`onnuri keys add NAME` makes one", "invalid_api_key")
        requests, tokens = self.store.use(key.id, 1, 0)
        for used, most, what in ((requests, key.requests_per_minute, "requests"), (tokens, key.tokens_per_minute, "tokens")):
            if most and used > most:
                raise Problem(429, f"{used} {what} in this minute: the key has {most}; wait for the next minute",
                              "rate_limit_exceeded", retry_after=60 - time.time() % 60)
        return Caller(key.id, key)

    async def spend(self, caller: Caller, tokens: int) -> None:
        """Tokens that were used, towards the key's limit."""
        if caller.key is not None:
            await asyncio.to_thread(self.store.use, caller.id, 0, tokens)
