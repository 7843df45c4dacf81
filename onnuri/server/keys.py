"""The command `onnuri keys`: add, list and revoke the keys of a server from its terminal."""

from __future__ import annotations

import time
from typing import Any

from onnuri.errors import ConfigError
from onnuri.server.settings import ServeConfig
from onnuri.server.store import Store


def run(what: Any, settings: ServeConfig) -> None:
    """Do what one of the commands `AddKey`, `ListKeys` and `RevokeKey` says. Raises ConfigError."""
    store = Store(settings.url, settings.data)
    {"AddKey": _add, "ListKeys": _list, "RevokeKey": _revoke}[type(what).__name__](what, store)
    store.close()


def _add(what: Any, store: Store) -> None:
    """Add a key and print its secret. Raises ConfigError for a negative limit."""
    for name in ("requests_per_minute", "tokens_per_minute"):
        if getattr(what, name) < 0:
            raise ConfigError(
                f"--{name.replace('_', '-')} {getattr(what, name)}",
                "must not be negative",
                "give 0 for any number",
            )
    print(store.add_key(what.name, what.requests_per_minute, what.tokens_per_minute))


def _list(_: Any, store: Store) -> None:
    """Print a table of all keys, with their limits and their usage in the last hour."""
    from rich.console import Console
    from rich.table import Column, Table

    hour = time.time() // 60 - 60
    # as wide as it must be, wherever it goes: an id that is cut off cannot be given to `revoke`
    titles = ("id", "name", "made", "requests/min", "tokens/min", "last hour", "state")
    table = Table(*(Column(title, no_wrap=True) for title in titles))
    for key in store.all_keys():
        used = [u for u in store.used(key.id) if u.minute >= hour]
        table.add_row(
            key.id,
            key.name,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created)),
            *(str(n) if n else "any" for n in (key.requests_per_minute, key.tokens_per_minute)),
            f"{sum(u.requests for u in used)} requests, {sum(u.tokens for u in used)} tokens",
            "revoked" if key.revoked else "good",
        )
    console = Console(width=10_000)
    console.width = max(80, console.measure(table).maximum)
    console.print(table)


def _revoke(what: Any, store: Store) -> None:
    """Revoke the key with an id or a name. Raises ConfigError where there is none, or several have
    that name."""
    keys = store.revoke(what.key)
    if not keys:
        raise ConfigError(what.key, "is no key that can be revoked", "see `onnuri keys list`")
    if len(keys) > 1:
        raise ConfigError(
            what.key,
            f"is the name of {len(keys)} keys",
            f"give an id: {', '.join(key.id for key in keys)}",
        )
    left = (
        ""
        if store.any_key()
        else "; no key is left, and none is served without one (but with `serve --open`)"
    )
    print(f"revoked {keys[0].id} ({keys[0].name}){left}")
