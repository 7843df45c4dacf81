"""This module holds the records of ingestion: an item as its source has it, and as it is after its
files have been checked.

They travel between processes, so they hold bytes, paths and strings alone. The module reads
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onnuri.errors import MediaError
from onnuri.media.kept import Kept

TEXT_BYTES = 256 * 1024
"""longest text of one part, in bytes of UTF-8"""


class Fault(NamedTuple):
    """A Fault holds why an item is not taken: a code for programs and a sentence for people."""

    code: str
    reason: str
    part: int | None = None
    """number of the part that is at fault, from 0 on"""


def fault_of(error: MediaError, part: int | None = None) -> Fault:
    """Return the fault that an error reports."""
    return Fault(error.code or "unreadable", str(error), part)


class SourcePart(NamedTuple):
    """A SourcePart holds one part of an item: a text, or a file as a path or as bytes."""

    name: str
    """what messages call it"""
    text: str | None = None
    language: str | None = None
    """language of a text as its source names it (BCP 47)"""
    path: Path | None = None
    data: bytes | None = None
    sha256: str | None = None
    """what the file's hash should be, in hexadecimal digits"""
    beside: Path | None = None
    """folder where a mesh's materials may be"""
    fault: Fault | None = None
    """why the part cannot be had at all"""


class Tag(NamedTuple):
    """A Tag is a word for an item beside its texts."""

    text: str
    language: str


class Said(NamedTuple):
    """A Said holds what a source says about an item."""

    licence: str | None = None
    credit: str | None = None
    source: str | None = None
    concept: str | None = None
    style: str | None = None
    """how it is drawn, such as twemoji"""
    kind: str | None = None
    """what sort of thing it is, such as animals-nature"""
    split: str | None = None
    """train, dev or test, where the source has splits of its own"""
    tags: tuple[Tag, ...] = ()


class SourceItem(NamedTuple):
    """A SourceItem holds one document as its source has it."""

    key: str
    """path below PATH, and the member or row within: the same at every reading"""
    parts: tuple[SourcePart, ...] = ()
    said: Said = Said()
    fault: Fault | None = None
    """why the item cannot be read at all"""


class PreparedPart(NamedTuple):
    """A PreparedPart holds one checked part: a text, or a file as it is kept."""

    text: str | None = None
    language: str | None = None
    hash: str | None = None
    """SHA-256 of the kept file"""
    kept: Kept | None = None
    likeness: bytes = b""
    """by which near duplicates are found; empty where only equal ones are"""


class PreparedItem(NamedTuple):
    """A PreparedItem holds one document whose files have been checked."""

    key: str
    parts: tuple[PreparedPart, ...]
    said: Said
    fault: Fault | None
    decoder_seconds: float
    """time in decoders and encoders"""
    bands: tuple[int, ...] = ()
    """MinHash bands of a document of text alone"""


TEXT_FIELDS = ("text", "caption", "captions", "texts", "txt", "alt_text", "sentence")
"""fields that hold an item's text, the first that is there; each may end in _ko or _en"""
SAID_FIELDS = {
    "licence": ("licence", "license"),
    "credit": ("credit", "attribution", "author", "creator"),
    "source": ("source", "source_url", "url", "homepage"),
    "concept": ("concept", "label", "cls", "class"),
    "style": ("style",),
    "kind": ("kind", "category"),
    "split": ("split",),
}
"""fields that say something about an item, by what they say"""
SPLITS = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "val": "dev",
    "valid": "dev",
    "validation": "dev",
    "test": "test",
}
"""splits by the names that others give them"""
LANGUAGE_ENDING = re.compile(r"(.+)_([a-z]{2,3})$")


def said_by(record: Mapping[str, Any]) -> Said:
    """Return what a record's fields say about its item."""
    values: dict[str, Any] = {}
    for name, fields in SAID_FIELDS.items():
        found = (record[field] for field in fields if record.get(field) not in (None, ""))
        value = next(found, None)
        is_plain = isinstance(value, str | int | float)
        values[name] = clean(str(value)) if is_plain else None
    # a name that is no split counts as none: the item gets one by its concept
    values["split"] = SPLITS.get((values["split"] or "").strip().lower())
    return Said(**values, tags=tuple(_tags(record)))


def _tags(record: Mapping[str, Any]) -> Iterator[Tag]:
    """Yield the tags of a record's fields `tags_ko`, `tags_en` and so on: lists of strings."""
    for key, value in record.items():
        ending = LANGUAGE_ENDING.match(key)
        if ending and ending[1] == "tags" and isinstance(value, list):
            words = (clean(word) for word in value if isinstance(word, str) and word.strip())
            yield from (Tag(word, ending[2]) for word in words)


def texts_of(record: Mapping[str, Any], name: str) -> list[SourcePart]:
    """Return the texts of a record's fields: a string, a list of strings, or an object of a string
    per language."""
    parts: list[SourcePart] = []
    language = record.get("language") or record.get("lang")
    language = language if isinstance(language, str) else None
    for field in TEXT_FIELDS:
        if parts:
            break
        for key, value in record.items():
            ending = LANGUAGE_ENDING.match(key)
            if key == field:
                parts += _texts(value, language, name)
            elif ending and ending[1] == field:
                parts += _texts(value, ending[2], name)
    return parts


def _texts(value: Any, language: str | None, name: str) -> list[SourcePart]:
    """Return a field's texts. Empty ones are none."""
    if isinstance(value, str):
        return [SourcePart(name, text=value, language=language)] if value.strip() else []
    if isinstance(value, Mapping):
        return [part for code, text in value.items() for part in _texts(text, str(code), name)]
    if isinstance(value, list | tuple):
        return [part for text in value for part in _texts(text, language, name)]
    return []


def clean(text: str) -> str:
    """Return text that UTF-8 can hold: half surrogates, which JSON and file names may have, are
    written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def merged(first: Said, second: Said) -> Said:
    """Return what the first record says, and what only the second says."""
    return Said(*(one or other for one, other in zip(first, second, strict=True)))
