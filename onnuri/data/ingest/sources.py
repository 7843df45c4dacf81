"""This module reads PATH as items, one after another in a fixed order: a folder of files, JSON
lines, a Parquet file or a WebDataset tar, or a folder with such files among others.

It decodes no media. An item's key is its place below PATH, the same at every reading; a damaged
container gives the items before the damage and one item with the fault for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnuri.data.ingest import source_folder, source_lines, source_parquet, source_tar
from onnuri.data.ingest.records import SourceItem, SourcePart
from onnuri.errors import ConfigError
from onnuri.media import formats

CONTAINERS = {
    ".tar": source_tar.items,
    ".tar.gz": source_tar.items,
    ".tgz": source_tar.items,
    ".parquet": source_parquet.items,
    ".jsonl": source_lines.items,
}
"""readers of files that hold many items, by ending"""
TEXT = ".txt"


def read_items(path: Path) -> Iterator[SourceItem]:
    """Yield the items of a path, each with a key of its own. Raises ConfigError for a path that
    cannot be read or is nothing that is ingested."""
    _check(path)
    if path.is_dir():
        found = _folder(path)
    elif (ending := _ending(path)) is not None:
        found = CONTAINERS[ending](path, "")
    elif path.suffix.lower() == TEXT:
        found = iter([SourceItem(path.name, (source_folder.text_part(path),))])
    else:
        part = SourcePart(str(path), path=path, beside=path.parent)
        found = iter([SourceItem(path.name, (part,))])
    return _with_own_keys(found)


def _check(path: Path) -> None:
    """Raise ConfigError for a path that is not there, may not be read, or holds nothing that is
    read."""
    if not path.exists():
        raise ConfigError(str(path), "does not exist", "check the path")
    try:
        if path.is_dir():
            next(path.iterdir(), None)
            return
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read ({error.strerror})", "check who may read it"
        ) from None
    known = _ending(path) is not None or path.suffix.lower() == TEXT
    if not known and not isinstance(form := formats.sniff(head), formats.Format):
        raise ConfigError(
            str(path),
            f"is {form or 'of no format'}, which is not ingested",
            f"give a folder, a file in {', '.join((*CONTAINERS, TEXT))}, or a media file",
        )


def _ending(path: Path) -> str | None:
    """Return which of the containers' endings a file has; None for none of them."""
    name = path.name.lower()
    return next((ending for ending in CONTAINERS if name.endswith(ending)), None)


def _folder(path: Path) -> Iterator[SourceItem]:
    """Yield the items of a folder, those of containers in it at their place in the order."""
    for item in source_folder.items(path):
        file = item.parts[0].path if len(item.parts) and item.fault is None else None
        ending = _ending(file) if file else None
        if file is None or ending is None:
            yield item
        else:
            yield from CONTAINERS[ending](file, f"{item.key}/")


def _with_own_keys(items: Iterator[SourceItem]) -> Iterator[SourceItem]:
    """Yield items, of which a second one of the same key gets a number behind it."""
    seen: set[str] = set()
    for item in items:
        key, number = item.key, 1
        while key in seen:
            number += 1
            key = f"{item.key}#{number}"
        seen.add(key)
        yield item._replace(key=key)
