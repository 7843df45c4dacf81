"""Read a Hugging Face config by its path or `ORG/NAME` as an architecture, once, and keep it.

The config is found in a folder, in the hub's local cache or, where there is a network, on the hub
by one request of a few seconds. What was read is kept under the hash of the config and the versions
that read it, so that a second plan imports neither torch nor transformers. Code that comes with a
model is never run.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.metadata
import json
import os
import re
from pathlib import Path
from typing import Any

from onnuri import files
from onnuri.errors import ConfigError, DependencyError
from onnuri.phrases import Phrase
from onnuri.planner import shapes
from onnuri.planner.meta_model import ModelReading

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SECONDS = 8.0
"""seconds that the hub may take to answer"""
MOST_BYTES = 8_000_000
"""bytes of a config: the largest on the hub are below 1 MB"""
MOST_LAYERS = 2_000
"""layers; modules of more would be built for minutes: a slip of the keyboard"""
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
READER = 1
"""version of `meta_model.py`'s answers; count it up where they change"""


def read(what: str) -> ModelReading:
    """Return what is read of a folder, a config.json or `ORG/NAME`. Raises ConfigError for anything
    else, or a model that transformers does not know."""
    raw, name = load(what)
    saved = _load_reading(raw)
    if saved is not None:
        return saved.replace(architecture=saved.architecture.replace(name=name))
    reading = _read(raw, name)
    _save_reading(raw, reading)
    return reading


def names_config(what: str) -> bool:
    """Return whether a text is meant as a path or as `ORG/NAME`, rightly or not."""
    path = Path(what).expanduser()
    there = path.is_file() or (path.is_dir() and (path / "config.json").exists())
    return (
        there
        or "/" in what
        or "\\" in what
        or what.endswith(".json")
        or what.startswith(("~", "."))
    )


def load(what: str) -> tuple[dict[str, Any], str]:
    """Return a config's values and the model's name. Raises ConfigError where there is none."""
    path = Path(what).expanduser()
    if path.is_dir():
        name, path = path.resolve().name, path / "config.json"
        if not path.is_file():
            raise ConfigError(
                f"folder {what}", "has no config.json", "give a model's folder or its config.json"
            )
        return parse(_text(path), str(path)), name
    if path.is_file():
        folder = path.resolve().parent.name
        return parse(_text(path), str(path)), folder if path.name == "config.json" else path.stem
    if (
        REPOSITORY.fullmatch(what)
        and not what.startswith((".", "~"))
        and not what.endswith(".json")
    ):
        return parse(_hub(what), f"config.json of {what}"), what
    raise ConfigError(
        f"config {what!r}",
        "is no file, folder or ORG/NAME",
        "give a config.json, its folder or ORG/NAME",
    )


def _text(path: Path) -> str:
    """Return the text of a config file. Raises ConfigError where it is too large or cannot be
    read."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(
                str(path),
                Phrase("is larger than {:.0f} MB", MOST_BYTES / 1e6),
                "give a model's config.json",
            )
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            str(path), Phrase("cannot be read ({})", error), "give a model's config.json"
        ) from None


def parse(text: str, where: str) -> dict[str, Any]:
    """Return the values of a config's JSON text. Raises ConfigError for what is no config."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            where, Phrase("is not JSON ({})", str(error)[:80]), "give a model's config.json"
        ) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise ConfigError(
            where, "names no model_type", "give the config.json of a model of transformers"
        )
    for values in (raw, raw.get("text_config")):
        for key in LAYERS if isinstance(values, dict) else ():
            count = values.get(key)  # type: ignore[union-attr]
            if isinstance(count, int) and not 1 <= count <= MOST_LAYERS:
                raise ConfigError(
                    f"{key} {count} of {where}",
                    Phrase("is not from 1 to {:,}", MOST_LAYERS),
                    "mend the config",
                )
    return raw


def _hub(repository: str) -> str:
    """Return the text of a repository's config from the local cache, else by one request to the
    hub. Raises ConfigError where neither has it."""
    try:
        import huggingface_hub
        from huggingface_hub import constants
    except ImportError:
        raise DependencyError(
            "huggingface_hub",
            f"is what finds {repository}",
            "install transformers, or give a folder",
        ) from None
    try:
        cached = huggingface_hub.try_to_load_from_cache(repository, "config.json")
    except Exception as error:
        raise ConfigError(
            Phrase("model {!r}", repository),
            Phrase("is no name of the hub ({})", " ".join(str(error).split())[:80]),
            "give ORG/NAME",
        ) from None
    if isinstance(cached, str):
        return _text(Path(cached))
    local: str = "give its folder or config.json"
    if shapes.listed(repository.partition("/")[2]):
        local = Phrase(
            "give its folder or config.json, or {} of the shipped shapes",
            repository.partition("/")[2],
        )
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            Phrase("model {}", repository),
            "is not in the hub's local cache, and HF_HUB_OFFLINE is set",
            local,
        )
    url = huggingface_hub.hf_hub_url(repository, "config.json")
    try:
        answer = huggingface_hub.get_session().get(
            url,
            headers=huggingface_hub.utils.build_hf_headers(),
            timeout=SECONDS,
            follow_redirects=True,
        )
    except Exception as error:
        raise ConfigError(
            Phrase("model {}", repository),
            Phrase(
                "is not in the hub's local cache, and the hub cannot be reached ({})",
                " ".join(str(error).split())[:80] or type(error).__name__,
            ),
            local,
        ) from None
    if answer.status_code in (401, 403):
        raise ConfigError(
            Phrase("model {}", repository),
            "is not public, or does not exist",
            Phrase("log in with `hf auth login` and accept its terms, or {}", local),
        )
    if answer.status_code != 200 or len(answer.content) > MOST_BYTES:
        raise ConfigError(
            Phrase("model {}", repository),
            Phrase("has no config.json on the hub (status {})", answer.status_code),
            local,
        )
    return answer.text


def _read(raw: dict[str, Any], name: str) -> ModelReading:
    """Return what transformers' own class for the config shows on the meta device. Raises
    ConfigError for a model type that it does not know."""
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise DependencyError(
            f"{error.name}", "is what reads a config's shapes", "install torch and transformers"
        ) from None
    from onnuri.planner import meta_model

    transformers.logging.set_verbosity_error()
    kind = raw["model_type"]
    values = {k: _floats(v) for k, v in raw.items() if k not in ("auto_map", "quantization_config")}
    if kind not in transformers.CONFIG_MAPPING:
        if "auto_map" in raw:
            raise ConfigError(
                Phrase("model type {!r} of {}", kind, name),
                "needs code of its own (trust_remote_code), which is not run",
                "give a size such as 70B or 300B-A15B instead",
            )
        near = difflib.get_close_matches(
            kind, list(transformers.CONFIG_MAPPING.keys()), n=3, cutoff=0.5
        )
        raise ConfigError(
            Phrase("model type {!r} of {}", kind, name),
            Phrase("is not known to transformers {}", transformers.__version__),
            Phrase("use {}", " or ".join(near))
            if near
            else "give a size such as 70B or 300B-A15B instead",
        )
    try:
        config = transformers.CONFIG_MAPPING[kind].from_dict(values)
    except Exception as error:
        raise ConfigError(
            f"config of {name}",
            Phrase("is not a {}'s ({})", kind, " ".join(str(error).split())[:160]),
            "mend the config",
        ) from None
    return meta_model.read(config, name)


def _floats(value: Any) -> Any:
    """Return a config's value with infinity and NaN restored, which transformers writes into JSON
    as objects because JSON has neither."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {k: _floats(v) for k, v in value.items()}
    return [_floats(v) for v in value] if isinstance(value, list) else value


# ---- what was read is kept


def _place(raw: dict[str, Any]) -> Path:
    """Return the file in which the reading of a config is kept, by its values and the versions that
    read it."""
    versions = []
    for package in ("transformers", "torch"):
        try:
            versions.append(importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            versions.append("none")
    key = json.dumps([READER, versions, raw], sort_keys=True)
    return files.cache_folder() / "shapes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _load_reading(raw: dict[str, Any]) -> ModelReading | None:
    """Return the reading of a config that was kept; None where there is none of this version."""
    try:
        return ModelReading.from_json(json.loads(_place(raw).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, ConfigError, RuntimeError):
        return None  # none, or one of another version: it is read anew


def _save_reading(raw: dict[str, Any], reading: ModelReading) -> None:
    """Keep the reading of a config, atomically, so that two plans at once never read half; a folder
    that cannot be written is no error."""
    with contextlib.suppress(OSError, RuntimeError):
        place = _place(raw)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(reading.to_json()), encoding="utf-8")
        part.replace(place)
