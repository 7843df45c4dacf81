"""This module reads a WebDataset tar as items: members that follow each other and have the same
name up to the first dot are one example. A tar may be compressed by gzip.

Members whose name ends in .txt or .caption are texts, .json says more, .cls names the concept, and
all others are files, in the order of the tar.
"""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from onnuri.data.ingest.records import (
    Fault,
    Said,
    SourceItem,
    SourcePart,
    clean,
    fault_of,
    merged,
    said_by,
    texts_of,
)
from onnuri.errors import MediaError
from onnuri.media import reading, text
from onnuri.media.limits import check_bytes

Member = tuple[str, bytes | Fault]
"""a member's name, and its content or why it is not read"""


class _Bounded:
    """A _Bounded is a file that refuses to be read in pieces larger than a media file may be: a
    tar's headers are read whole, and a few bytes of gzip can hold gigabytes of them."""

    def __init__(self, file: IO[bytes]) -> None:
        """Wrap a file."""
        self._file = file

    def __getattr__(self, name: str) -> Any:
        """Return the file's own methods."""
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes. Raises OSError for more than the limit."""
        if not 0 <= size <= reading.LIMITS.file_bytes:
            raise OSError(f"it asks for {size} bytes at once")
        return self._file.read(size)


def items(path: Path, prefix: str) -> Iterator[SourceItem]:
    """Yield the items of a tar; a key is `prefix` and what the members' names have in common.

    What follows damage is one item with the fault, as is the example that the damage cuts.
    """
    group: list[Member] = []
    current = ""
    try:
        for name, content in _members(path):
            key = _example(name)
            if group and key != current:
                yield _item(path, prefix, current, group)
                group = []
            current = key
            group.append((name, content))
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        reason = clean(f"{path}: is damaged or cut off after {current!r} ({error}); copy it anew")
        yield SourceItem(f"{prefix}…", fault=Fault("damaged_container", reason))
        return
    if group:
        yield _item(path, prefix, current, group)


def _example(name: str) -> str:
    """Return a member's name up to the first dot of its last part, as WebDataset groups them."""
    folder, base = os.path.split(name)
    return clean(os.path.join(folder, base.split(".")[0]))


def _members(path: Path) -> Iterator[Member]:
    """Yield the files of a tar. Raises OSError, EOFError, TarError or zlib.error where it is
    damaged, and TarError if it ends without its end mark."""
    with path.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        plain = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if is_gzip else raw
        file = cast(IO[bytes], _Bounded(plain))
        with tarfile.open(fileobj=file, mode="r:", errorlevel=1) as tar:
            for member in tar:
                if not member.isfile():  # links and devices hold nothing
                    continue
                yield member.name, _content(tar, member)
                tar.members = []  # type: ignore[attr-defined]  # or it keeps every header
            plain.seek(tar.offset)
            if len(plain.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("no end mark")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | Fault:
    """Return a member's content, or why it is not read. Raises ReadError if it is cut off."""
    try:
        check_bytes(clean(member.name), member.size, reading.LIMITS)
    except MediaError as error:
        return fault_of(error)
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _item(path: Path, prefix: str, key: str, group: list[Member]) -> SourceItem:
    """Return the item of an example's members."""
    files: list[SourcePart] = []
    texts: list[SourcePart] = []
    said = Said()
    for member, content in group:
        name = clean(f"{path}:{member}")
        ending = os.path.basename(member).partition(".")[2].lower()
        if isinstance(content, Fault):
            return SourceItem(prefix + key, fault=content)
        try:
            if ending == "json":
                record = json.loads(content)
                texts += texts_of(record, name)
                said = merged(said, said_by(record))
            elif ending == "cls":
                said = merged(said, Said(concept=text.read(content, name)))
            elif ending.split(".")[-1] in ("txt", "text", "caption"):
                language = ending.split(".")[0] if "." in ending else None
                texts.append(SourcePart(name, text=text.read(content, name), language=language))
            else:
                files.append(SourcePart(name, data=content))
        except MediaError as error:
            return SourceItem(prefix + key, fault=fault_of(error))
        except (ValueError, AttributeError, RecursionError) as error:
            reason = clean(f"{name}: is not a JSON object ({error}); write one")
            return SourceItem(prefix + key, fault=Fault("bad_record", reason))
    return SourceItem(prefix + key, (*files, *texts), said)
