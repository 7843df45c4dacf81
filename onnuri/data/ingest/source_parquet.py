"""This module reads a Parquet file as items, one per row: columns of bytes, or of {bytes, path} as
Hugging Face's datasets write pictures and sounds, beside columns of text.

Where a row has a list of files and a list of texts of equal length, of which one is null at each
place, it is an interleaved document in that order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnuri.data.ingest.records import Fault, SourceItem, SourcePart, clean, said_by, texts_of
from onnuri.data.ingest.source_lines import FIELDS, file_of

ROWS = 16
"""rows read at once: they may hold a movie each"""


def items(path: Path, prefix: str) -> Iterator[SourceItem]:
    """Yield the items of a Parquet file; a key is `prefix` and the row's number, from 0 on."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=ROWS):
                for record in batch.to_pylist():
                    name = f"{clean(str(path))}:{number}"
                    yield _item(record, f"{prefix}{number}", name, path.parent)
                    number += 1
    except (OSError, pyarrow.ArrowException) as error:
        line = " ".join(str(error).split())
        reason = clean(f"{path}: is damaged or cut off from row {number} on ({line:.200})")
        fault = Fault("damaged_container", f"{reason}; copy it anew")
        yield SourceItem(f"{prefix}{number}…", fault=fault)


def _item(record: Mapping[str, Any], key: str, name: str, folder: Path) -> SourceItem:
    """Return the item of a row."""
    parts = _interleaved(record, name, folder)
    if not parts:
        files = [_files(field, value, name, folder) for field, value in record.items()]
        parts = [part for each in files for part in each]
        sha256 = record.get("sha256")
        if sha256 and len(parts) == 1:
            parts = [parts[0]._replace(sha256=str(sha256))]
        parts += texts_of(record, name)
    if not parts:
        reason = f"{name}: has neither a file nor a text; name its columns such as image and text"
        return SourceItem(key, fault=Fault("bad_record", reason))
    return SourceItem(key, tuple(parts), said_by(record))


def _interleaved(record: Mapping[str, Any], name: str, folder: Path) -> list[SourcePart]:
    """Return the parts of a row that is an interleaved document, in its order; else none."""
    texts = record.get("texts")
    if not isinstance(texts, list):
        return []
    for field, files in record.items():
        if field == "texts" or not isinstance(files, list) or len(files) != len(texts):
            continue
        if any((one is None) == (other is None) for one, other in zip(texts, files, strict=True)):
            continue
        parts: list[SourcePart] = []
        for words, file in zip(texts, files, strict=True):
            if isinstance(words, str):
                parts.append(SourcePart(name, text=words))
            else:
                parts += _files("image", file, name, folder)
        return parts
    return []


def _files(field: str, value: Any, name: str, folder: Path) -> list[SourcePart]:
    """Return the files of a column's value."""
    where = f"{name} ({clean(field)})"
    if isinstance(value, bytes):
        return [SourcePart(where, data=value)]
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):
            return [SourcePart(where, data=value["bytes"])]
        is_file = set(value) <= {"bytes", "path"} and isinstance(value.get("path"), str)
        return [file_of(value["path"], where, folder)] if is_file else []
    if isinstance(value, list):
        return [part for each in value for part in _files(field, each, name, folder)]
    if isinstance(value, str) and field in FIELDS:
        return [file_of(value, where, folder)]
    return []
