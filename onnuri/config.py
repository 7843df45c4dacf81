"""This module holds the base class of all configs: frozen, keyword-only dataclasses that are saved
as JSON and read back strictly.

It knows nothing of what is configured. A subclass is written

    class Config(config.Config):
        width: int = 256

inside the class whose constructor takes it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from pathlib import Path
from typing import Any, ClassVar, Self, dataclass_transform

from onnuri.errors import ConfigError


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Config:
    """A Config holds frozen, keyword-only settings; its subclasses become dataclasses without a
    decorator."""

    _dicts: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make a subclass a frozen dataclass and note which of its fields are dicts."""
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        # types are strings here, for modules import annotations from __future__
        cls._dicts = tuple(
            field.name
            for field in dataclasses.fields(cls)  # type: ignore[arg-type]
            if str(field.type).startswith("dict[")
        )

    def __post_init__(self) -> None:
        """Replace the fields that are dicts by frozen ones."""
        # past the frozen dataclass's own guard: a dict in a frozen config could still be changed
        for name in self._dicts:
            object.__setattr__(self, name, FrozenDict(getattr(self, name)))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a dict of JSON values; tuples become lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the config of `to_json`'s values. Raises ConfigError for a missing field, and for
        an unknown one with the nearest name."""
        hints = typing.get_type_hints(cls)
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigError(
                    f"{name!r}",
                    f"is not a field of {cls.__qualname__}",
                    f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}",
                )
        missing = [
            f.name
            for f in dataclasses.fields(cls)  # type: ignore[arg-type]
            if f.name not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(
                f"{cls.__qualname__}", f"needs {', '.join(missing)}", "add the missing fields"
            )
        return cls(**{name: _restore(hints[name], value) for name, value in values.items()})

    def save(self, path: Path) -> None:
        """Write the settings to a JSON file."""
        path.write_text(
            json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the config of a JSON file. Raises ConfigError as `from_json` does."""
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, as a recipe's variant is made from its base."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def diff(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """Return the fields in which two configs differ, by dotted name: `{name: (mine,
        theirs)}`."""
        mine, theirs = _flatten(self.to_json()), _flatten(other.to_json())
        return {
            k: (mine.get(k), theirs.get(k))
            for k in sorted(mine.keys() | theirs.keys())
            if mine.get(k) != theirs.get(k)
        }


def _restore(hint: Any, value: Any) -> Any:
    """Return a JSON value as its field's type: lists become tuples and dicts configs again."""
    if isinstance(hint, type) and issubclass(hint, Config):
        return hint.from_json(value)
    args = [a for a in typing.get_args(hint) if a is not type(None)]
    kinds = {
        a.kind: a
        for a in args
        if isinstance(a, type) and issubclass(a, Config) and hasattr(a, "kind")
    }
    if len(kinds) > 1 and isinstance(value, dict):
        return _of_kind(kinds, value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        each = args[0] if args and args[0] is not Ellipsis else Any
        return tuple(_restore(each, v) for v in value)
    if typing.get_origin(hint) is dict and isinstance(value, dict) and len(args) == 2:
        return {k: _restore(args[1], v) for k, v in value.items()}
    if value is not None and len(args) == 1 and type(None) in typing.get_args(hint):
        return _restore(args[0], value)
    return value


def _of_kind(kinds: dict[str, type[Config]], value: dict[str, Any]) -> Config:
    """Return the config of the class whose `kind` a value names. Raises ConfigError for an unknown
    kind."""
    kind = value.get("kind")
    if kind not in kinds:
        raise ConfigError(f"kind {kind!r}", "is not known", f"use one of {', '.join(kinds)}")
    return kinds[kind].from_json(value)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one dict with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class FrozenDict(dict[Any, Any]):
    """A FrozenDict refuses changes, as a config's dicts must; it still pickles."""

    def _refuse(self, *_: Any, **__: Any) -> Any:
        """Raise TypeError instead of a change."""
        raise TypeError("a config does not change; make another with replace()")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[Any, Any]]]:
        """Return how to rebuild the dict, since pickle would otherwise set its items."""
        return type(self), (dict(self),)
