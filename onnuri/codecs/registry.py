"""This module lists all codec classes by name, one line each; `CodecSpec.codec` is such a name.

To add a codec, write a file with a subclass of `base.Codec`, a line here, and a small instance in
`tests/codecs/test_foreign.py`, which fails until every line here passes the contract test.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec
from onnuri.errors import ConfigError, OnnuriError, WeightsError

CODECS = {
    "bpe": "onnuri.codecs.text:TextCodec",
    "tokenizer": "onnuri.codecs.tokenizer:TokenizerCodec",
    "object_image": "onnuri.toyworld.codecs.image:ImageCodec",
    "mel": "onnuri.codecs.audio:AudioCodec",
    "object_video": "onnuri.toyworld.codecs.video:VideoCodec",
    "object_shape": "onnuri.toyworld.codecs.mesh:ShapeCodec",
    "grid": "onnuri.codecs.grid:GridCodec",
    "emu3": "onnuri.codecs.emu3:Emu3Codec",
    "mimi": "onnuri.codecs.mimi:MimiCodec",
}


def codec_class(name: str) -> type[Codec]:
    """Return a codec's class, imported when it is first asked for. Raises ConfigError for an
    unknown name."""
    codec: type[Codec] = class_named("codec", name, CODECS)
    return codec


def class_named(kind: str, name: str, places: Mapping[str, str]) -> Any:
    """Return the class of a name, imported from its place "module:attribute". Raises ConfigError
    for an unknown name; `kind` says in the message what it names."""
    if name not in places:
        raise ConfigError(f"{kind} {name!r}", "is not known", f"use one of {', '.join(places)}")
    module, _, attribute = places[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def folder_of(spec: CodecSpec) -> str:
    """Return the name of a codec's folder within `codecs/`: codecs of one codebook share their
    networks, and so a folder."""
    return spec.codebook


def save(codecs: dict[str, Codec], folder: Path) -> None:
    """Write every codec's folder. Raises ConfigError if two codecs share a folder but not their
    networks."""
    parameter_ids: dict[str, set[int]] = {}
    # else the second codec would overwrite the first one's weights
    for codec in codecs.values():
        ids = {id(p) for p in codec.parameters()}
        if parameter_ids.setdefault(folder_of(codec.spec), ids) != ids:
            raise ConfigError(
                f"codec {codec.spec.name!r}",
                f"has other networks than another of codebook {codec.spec.codebook!r}",
                "give it a codebook of its own",
            )
    for codec in codecs.values():
        codec.save(folder / folder_of(codec.spec))


def read_specs(folder: Path, first: tuple[str, ...] = ()) -> list[CodecSpec]:
    """Return the specs in a folder `codecs/`: those named in `first`, then the others by name. No
    network is loaded."""
    specs = [CodecSpec.load(file) for file in sorted(folder.glob("*/spec-*.json"))]
    order = {name: k for k, name in enumerate(first)}
    return sorted(specs, key=lambda spec: (order.get(spec.name, len(order)), spec.name))


def digest(folder: Path, spec: CodecSpec) -> str:
    """Return a name of what a codec's codes mean: equal for equal settings, weights and specs
    alone. `folder` is `codecs/`."""
    own = folder / folder_of(spec)
    hashed = hashlib.sha256()
    for file in sorted(path for path in own.rglob("*") if path.is_file()):
        hashed.update(f"{file.relative_to(own).as_posix()}\n".encode())
        hashed.update(hashlib.sha256(file.read_bytes()).digest())
    return f"codec {spec.name} {hashed.hexdigest()[:16]}"


def load(folder: Path, first: tuple[str, ...] = ()) -> dict[str, Codec]:
    """Return the codecs in a folder `codecs/` by name, in the order of `read_specs`. Raises
    WeightsError if one cannot be read."""
    codecs: dict[str, Codec] = {}
    try:
        for spec in read_specs(folder, first):
            own = folder_of(spec)
            beside = [codec for codec in codecs.values() if folder_of(codec.spec) == own]
            codecs[spec.name] = codec_class(spec.codec).load(folder / own, spec, beside)
    except OnnuriError:
        raise
    except Exception as error:  # tokenizers and safetensors raise nothing more special
        raise WeightsError(
            str(folder),
            f"holds codecs that cannot be read ({error})",
            "give a folder that `onnuri train` or `export` wrote",
        ) from error
    return codecs
