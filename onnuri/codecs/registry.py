"""Every codec's class by a name of its own: one line each. A spec names its class by these
(`CodecSpec.codec`).

To add a codec: a file with a subclass of `base.Codec`, a line here, and a small one in
`tests/codecs/test_foreign.py`, which fails until every line here is under contract.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnuri.codecs.base import Codec
from onnuri.codecs.spec import CodecSpec
from onnuri.errors import ConfigError

CODECS = {
    "bpe": "onnuri.codecs.text:TextCodec",
    "tokenizer": "onnuri.codecs.tokenizer:TokenizerCodec",
    "object_image": "onnuri.toyworld.codecs.image:ImageCodec",
    "mel": "onnuri.codecs.audio:AudioCodec",
    "object_video": "onnuri.toyworld.codecs.video:VideoCodec",
    "object_shape": "onnuri.toyworld.codecs.mesh:ShapeCodec",
    "emu3": "onnuri.codecs.emu3:Emu3Codec",
    "mimi": "onnuri.codecs.mimi:MimiCodec",
}


def codec_class(name: str) -> type[Codec]:
    """Return a codec's class, imported when it is first asked for. Raises ConfigError for an
    unknown name."""
    named: type[Codec] = class_named("codec", name, CODECS)
    return named


def class_named(kind: str, name: str, places: Mapping[str, str]) -> Any:
    """Return the class "module:attribute" of a name. Raises ConfigError for an unknown one, which
    says what `kind` of thing it names."""
    if name not in places:
        raise ConfigError(f"{kind} {name!r}", "is not known", f"use one of {', '.join(places)}")
    module, _, attribute = places[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def folder_of(spec: CodecSpec) -> str:
    """Return where a codec lies in a folder `codecs/`: codecs of one codebook share their networks,
    and so a folder."""
    return spec.codebook


def save(codecs: dict[str, Codec], folder: Path) -> None:
    """Write every codec's folder. Raises ConfigError where two that share a folder do not share
    their networks."""
    networks: dict[str, set[int]] = {}
    for codec in codecs.values():
        own = {id(p) for p in codec.parameters()}
        if networks.setdefault(folder_of(codec.spec), own) != own:
            raise ConfigError(
                f"codec {codec.spec.name!r}",
                f"has other networks than another of codebook {codec.spec.codebook!r}",
                "give it a codebook of its own",
            )
    for codec in codecs.values():
        codec.save(folder / folder_of(codec.spec))


def read_specs(folder: Path, first: tuple[str, ...] = ()) -> list[CodecSpec]:
    """Return the specs in a folder `codecs/`, by name, those of `first` before all others, without
    any network."""
    specs = [CodecSpec.load(file) for file in sorted(folder.glob("*/spec-*.json"))]
    order = {name: k for k, name in enumerate(first)}
    return sorted(specs, key=lambda spec: (order.get(spec.name, len(order)), spec.name))


def load(folder: Path, first: tuple[str, ...] = ()) -> dict[str, Codec]:
    """Return every codec in a folder `codecs/`, by name, in the order of `read_specs`."""
    codecs: dict[str, Codec] = {}
    for spec in read_specs(folder, first):
        beside = [codec for codec in codecs.values() if folder_of(codec.spec) == folder_of(spec)]
        codecs[spec.name] = codec_class(spec.codec).load(folder / folder_of(spec), spec, beside)
    return codecs
