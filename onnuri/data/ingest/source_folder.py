"""This module reads a folder of files as items: every media file with its caption, and every text
file that is no caption.

A caption is a .txt or .json of the same name beside the file (`cat.jpg`, `cat.txt`, `cat.ko.txt`,
`cat.json`), or a line of `metadata.csv` or `metadata.jsonl` in the file's folder or above it, with
the file's path in `file_name`, as Hugging Face's ImageFolder has it.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnuri.data.ingest import source_lines
from onnuri.data.ingest.records import (
    TEXT_BYTES,
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

METADATA = ("metadata.csv", "metadata.jsonl")
LANGUAGE_ENDING = re.compile(r"(.+)\.([a-z]{2,3})$")
"""a caption's stem with its language behind the file's: cat.ko"""
MATERIALS = re.compile(rb"^\s*(?:map_\w+|bump|disp|decal|refl|norm)\s+(.+)$", re.MULTILINE)
"""lines of an OBJ's material file that name a picture"""
Records = dict[Path, dict[str, Any]]
"""lines of metadata by the path of their file"""


def items(folder: Path) -> Iterator[SourceItem]:
    """Yield the items of a folder and of the folders in it, in the order of their names."""
    yield from _items(folder, folder, {}, frozenset())


def _items(
    root: Path, folder: Path, above: Records, listed: frozenset[Path]
) -> Iterator[SourceItem]:
    """Yield the items of a folder below `root`, to whose files the lines `above` may belong and of
    which those in `listed` belong to a list of JSON lines."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        reason = f"{folder}: cannot be read ({error.strerror}); check who may read it"
        yield SourceItem(_key(root, folder), fault=Fault("unreadable", reason))
        return
    names = [name for name in names if not name.startswith(".")]
    records, faults = _metadata(root, folder, names)
    yield from faults
    records = {**above, **records}
    listed |= _listed(folder, names)
    companions = _companions(folder, names)
    for name in names:
        path = folder / name
        if path.is_dir():
            if not path.is_symlink():  # a link may lead round in a circle
                yield from _items(root, path, records, listed)
        elif name not in METADATA and name not in companions and path not in listed:
            yield _item(root, path, names, records.get(path, {}))


def _listed(folder: Path, names: list[str]) -> set[Path]:
    """Return the files that a folder's lists of JSON lines name: they are items of the list."""
    lists = [name for name in names if name.endswith(".jsonl") and name not in METADATA]
    found = (item for name in lists for item in source_lines.items(folder / name, ""))
    return {part.path for item in found for part in item.parts if part.path}


def _key(root: Path, path: Path) -> str:
    """Return a path below `root` as UTF-8 with slashes."""
    return clean(path.relative_to(root).as_posix())


def _item(root: Path, path: Path, names: list[str], record: Mapping[str, Any]) -> SourceItem:
    """Return a file and its captions as an item."""
    key = _key(root, path)
    if path.suffix.lower() == ".txt":
        part = text_part(path)
        return SourceItem(key, (part,), said_by(record), part.fault)
    sha256 = record.get("sha256")
    media = SourcePart(
        clean(str(path)), path=path, beside=path.parent, sha256=str(sha256) if sha256 else None
    )
    parts = [media, *texts_of(record, media.name)]
    said = said_by(record)
    for caption in _captions(path, names):
        more, about, fault = _read_caption(caption, path)
        if fault:
            return SourceItem(key, fault=fault)
        parts += more
        said = merged(said, about)
    return SourceItem(key, tuple(parts), said)


def text_part(path: Path, language: str | None = None) -> SourcePart:
    """Return a text file as a part, with a fault if it is not text in UTF-8 or is too long."""
    name = clean(str(path))
    try:
        check_bytes(name, path.stat().st_size, reading.LIMITS)
        words = text.read(reading.read_bytes(path), name)
    except MediaError as error:
        return SourcePart(name, fault=fault_of(error))
    except OSError as error:
        reason = f"{name}: cannot be read ({error.strerror}); check who may read it"
        return SourcePart(name, fault=Fault("unreadable", reason))
    return SourcePart(name, text=words, language=language)


def _captions(path: Path, names: list[str]) -> list[Path]:
    """Return the caption files of a media file, in the order of their names."""
    return [path.parent / name for name in names if _belongs(name, path.stem)]


def _belongs(name: str, stem: str) -> bool:
    """Return whether a file name is a caption's of the files with a stem."""
    base, ending = os.path.splitext(name)
    match = LANGUAGE_ENDING.match(base)
    if ending == ".json":
        return base == stem
    return ending == ".txt" and (base == stem or bool(match and match[1] == stem))


def _read_caption(path: Path, media: Path) -> tuple[list[SourcePart], Said, Fault | None]:
    """Return a caption file's texts, what it says about its media file, and its fault if it cannot
    be read."""
    if path.suffix == ".txt":
        language = None if path.stem == media.stem else path.stem.rsplit(".", 1)[1]
        part = text_part(path, language)
        return [part], Said(), part.fault
    try:
        record = json.loads(reading.read_bytes(path))
        if not isinstance(record, dict):
            raise ValueError("no object")
    except MediaError as error:
        return [], Said(), fault_of(error)
    except (ValueError, RecursionError) as error:
        reason = f"{path}: is not a JSON object ({error}); write one"
        return [], Said(), Fault("bad_record", clean(reason))
    return texts_of(record, clean(str(path))), said_by(record), None


def _companions(folder: Path, names: list[str]) -> set[str]:
    """Return the names of files that belong to others: captions, an OBJ's materials and the
    pictures in them."""
    stems = {os.path.splitext(n)[0] for n in names if not n.endswith((".txt", ".json"))}
    found = set()
    for name in names:
        base, ending = os.path.splitext(name)
        match = LANGUAGE_ENDING.match(base)
        is_caption = base in stems or bool(match and match[1] in stems)
        if (ending == ".json" and base in stems) or (ending == ".txt" and is_caption):
            found.add(name)
        elif ending == ".mtl":
            found |= {name, *_pictures_of(folder / name)}
    return found


def _pictures_of(path: Path) -> set[str]:
    """Return the names of the pictures that an OBJ's material file names."""
    try:
        data = reading.read_bytes(path)
    except MediaError:
        return set()
    # options stand before the name: map_Kd -s 1 1 1 wood.png
    lines = [match[1].split()[-1:] for match in MATERIALS.finditer(data)]
    return {os.path.basename(words[0].decode(errors="replace")) for words in lines if words}


def _metadata(root: Path, folder: Path, names: list[str]) -> tuple[Records, list[SourceItem]]:
    """Return the lines of a folder's metadata by their file, and items with the faults of lines
    that cannot be read."""
    records: Records = {}
    faults = []
    for name in METADATA:
        if name not in names:
            continue
        path = folder / name
        key = _key(root, path)
        try:
            for number, record in _lines(path):
                fault = _line_fault(record, folder, f"{path}:{number}")
                if fault:
                    faults.append(SourceItem(f"{key}:{number}", fault=fault))
                else:
                    records[folder / record["file_name"]] = record
        except (OSError, ValueError, csv.Error) as error:
            reason = clean(f"{path}: cannot be read to its end ({error}); write it anew")
            faults.append(SourceItem(key, fault=Fault("bad_record", reason)))
    return records, faults


def _line_fault(record: Any, folder: Path, name: str) -> Fault | None:
    """Return why a line of metadata belongs to no file of a folder; None if it does."""
    if not isinstance(record, dict) or not isinstance(record.get("file_name"), str):
        return Fault("bad_record", f"{name}: has no file_name; write one")
    file = record["file_name"]
    if "\0" in file or not (folder / file).is_file():
        reason = clean(f"{name}: names {file:.100}, which does not exist; add it")
        return Fault("missing_file", reason)
    return None


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield a metadata file's lines and their numbers; None for a line that is not JSON."""
    csv.field_size_limit(16 * TEXT_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            yield from enumerate(csv.DictReader(file), start=2)
            return
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None
