"""This module reads JSON lines as items. A line names its files by modality (`"image": "a.jpg"`,
`"images": […]`) beside its text, or is an interleaved document: `"content"`, a list of parts in the
form of OpenAI's API.

A file is a path below the folder of the JSON lines, or a data URL. Nothing is fetched.
"""

from __future__ import annotations

import base64
import binascii
import json
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnuri.data.ingest.records import Fault, SourceItem, SourcePart, clean, said_by, texts_of

FIELDS = (
    *("image", "images", "picture", "pictures", "audio", "audios", "sound", "speech"),
    *("video", "videos", "movie", "shape", "shapes", "mesh", "meshes", "3d"),
    *("file", "file_name", "path", "media"),
)
"""fields that hold files"""
URLS = {f"{name}_url" for name in ("image", "audio", "video", "mesh", "shape", "file")}
"""types of parts that hold {"url": …} in a field of their own name"""
LINE_BYTES = 300 * 2**20
"""longest line: a file of 200 MiB as a data URL"""


def items(path: Path, prefix: str) -> Iterator[SourceItem]:
    """Yield the items of a file of JSON lines; a key is `prefix` and the line's number."""
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(LINE_BYTES):
                number += 1
                if line.strip():
                    yield _item(line, f"{prefix}{number}", f"{clean(str(path))}:{number}", path)
    except OSError as error:
        reason = f"{path}:{number + 1}: cannot be read ({error.strerror}); copy it anew"
        yield SourceItem(f"{prefix}{number + 1}…", fault=Fault("damaged_container", reason))


def _item(line: bytes, key: str, name: str, path: Path) -> SourceItem:
    """Return the item of a line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = clean(f"{name}: is not JSON ({error}); give one object per line")
        return SourceItem(key, fault=Fault("bad_record", reason))
    return item_of(record, key, name, path.parent)


def item_of(record: Any, key: str, name: str, folder: Path | None) -> SourceItem:
    """Return the item of a record, whose paths lie below `folder`; without one it names none."""
    if not isinstance(record, Mapping):
        reason = f"{name}: is not an object; give one object per line"
        return SourceItem(key, fault=Fault("bad_record", reason))
    if isinstance(record.get("content"), list):
        parts = [_part_of(part, name, folder) for part in record["content"]]
    else:
        parts = [part for field in FIELDS for part in _files(record.get(field), name, folder)]
        sha256 = record.get("sha256")
        if sha256 and len(parts) == 1:
            parts = [parts[0]._replace(sha256=str(sha256))]
        parts += texts_of(record, name)
    if not parts:
        reason = f"{name}: names neither a file nor a text; give such as image and text"
        return SourceItem(key, fault=Fault("bad_record", reason))
    return SourceItem(key, tuple(parts), said_by(record))


def _files(value: Any, name: str, folder: Path | None) -> list[SourcePart]:
    """Return the files of a field: one, or a list of them."""
    if isinstance(value, list):
        return [part for each in value for part in _files(each, name, folder)]
    if isinstance(value, Mapping):
        value = value.get("url") or value.get("path")
    return [file_of(value, name, folder)] if isinstance(value, str) and value else []


def _part_of(part: Any, name: str, folder: Path | None) -> SourcePart:
    """Return a part of OpenAI's form."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        language = part.get("language")
        return SourcePart(
            name, text=part["text"], language=language if isinstance(language, str) else None
        )
    if kind == "input_audio" and isinstance(part.get("input_audio"), Mapping):
        return _decoded(str(part["input_audio"].get("data", "")), name)
    url = part.get(kind) if kind in URLS else None
    url = url.get("url") if isinstance(url, Mapping) else url
    if isinstance(url, str):
        return file_of(url, name, folder)._replace(sha256=part.get("sha256"))
    known = ", ".join(("text", "input_audio", *sorted(URLS)))
    reason = f"{name}: has a part of type {kind!r}; give one of {known}"
    return SourcePart(name, fault=Fault("bad_record", clean(reason)))


def file_of(value: str, name: str, folder: Path | None) -> SourcePart:
    """Return a file that a record names by a data URL or a path below `folder`."""
    if value.startswith("data:"):
        head, _, body = value.partition(",")
        if head.endswith(";base64"):
            return _decoded(body, name)
        return SourcePart(name, data=urllib.parse.unquote_to_bytes(body))
    if "://" in value:
        reason = f"{name}: names {value:.100}, which is not fetched; fetch it and give its path"
        return SourcePart(name, fault=Fault("not_fetched", clean(reason)))
    if folder is None or "\0" in value:
        reason = f"{name}: names {value:.100}, which is not in it; give the bytes"
        return SourcePart(name, fault=Fault("missing_file", clean(reason)))
    path = folder / value
    # records are others' work: a path outside could name any file of this machine
    if not path.resolve().is_relative_to(folder.resolve()):
        reason = f"{name}: names {value:.100}, which lies outside {folder}; move it below"
        return SourcePart(name, fault=Fault("outside", clean(reason)))
    return SourcePart(clean(f"{name} ({value:.200})"), path=path, beside=path.parent)


def _decoded(body: str, name: str) -> SourcePart:
    """Return a file of base64."""
    try:
        return SourcePart(name, data=base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError):
        reason = f"{name}: has a file that is not base64; encode it anew"
        return SourcePart(name, fault=Fault("bad_record", reason))
