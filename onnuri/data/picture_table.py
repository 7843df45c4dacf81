"""This module takes the pictures of a table of ingested media, with their names, into a store that
training reads.

It knows the table and the store, no codec and no model.
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from onnuri.data import picture_store
from onnuri.data.ingest.table import DOCUMENTS, Tables
from onnuri.data.picture_store import PictureItem
from onnuri.errors import ConfigError

MIRRORED = frozenset({"animals-nature", "food-drink"})
"""kinds whose mirror image shows the same; of all others some show letters, clocks or hands"""
AT_ONCE = 256
"""pictures whose files are held at once"""
CAMERA = re.compile(r"(?i)(img|dsc[fn]?|image|photo|pic|screenshot|untitled|p|사진|이미지)")
"""names that cameras and programs give"""
COLUMNS = ("key", "parts", "concept", "style", "kind", "tags", "split", "source")


def build(table: Path, out: Path, side: int, own: bool = False) -> int:
    """Write the pictures of a table into a store of squares of `side` pixels, and return their
    number.

    A document of one picture and any number of texts is a picture with names: its texts, each
    language's first one first, then its tags. With `own`, all pictures are to be trained on, and
    one without a text is named by its file. Raises ConfigError for a table without pictures and,
    with `own`, for a file's name that says nothing.
    """
    tables = Tables(table)
    rows = [row for row in tables.rows(DOCUMENTS, COLUMNS) if _picture_of(row)]
    if not rows:
        raise ConfigError(str(table), "has no picture with names of its own", "ingest some")
    items = [item_of(row) for row in rows]
    if own:
        items = [
            item.replace(split="train", names=item.names or (name_of_file(row["key"]),))
            for item, row in zip(items, rows, strict=True)
        ]
    picture_store.write(out, _pictures(tables, rows, items), len(rows), side)
    return len(rows)


def name_of_file(path: str) -> str:
    """Return the words of a file's name, without numbers that only count it: "red car" of
    `red_car-02.png`. Raises ConfigError if there are none."""
    stem = unicodedata.normalize("NFC", path).rpartition("/")[2].rpartition(".")[0]
    words = re.sub(r"[\s_\-.+]+", " ", stem).strip()
    words = re.sub(r"\s*(\(\d+\)|\d+)$", "", words).strip()
    if not words or CAMERA.fullmatch(words):
        raise ConfigError(
            path.rpartition("/")[2],
            "has no caption, and its name says nothing",
            f"name it after what it shows, or write that into {stem or 'cat'}.txt beside it",
        )
    return words


def digest(table: Path) -> str:
    """Return a name of a table's documents and their order."""
    hashed = hashlib.sha256()
    for row in Tables(table).rows(DOCUMENTS, ("key", "digest", "split")):
        hashed.update(repr(sorted(row.items())).encode())
    return hashed.hexdigest()


def _picture_of(row: dict[str, Any]) -> str | None:
    """Return the hash of a document's picture, None unless it is the document's only medium."""
    media = [part for part in row["parts"] if part["hash"]]
    is_picture = len(media) == 1 and media[0]["modality"] == "image"
    return str(media[0]["hash"]) if is_picture else None


def _pictures(
    tables: Tables, rows: list[dict[str, Any]], items: list[PictureItem]
) -> Iterator[tuple[PictureItem, np.ndarray]]:
    """Yield the pictures uint8 [H, W, 4] of documents with what they are."""
    starts = range(0, len(rows), AT_ONCE)
    for start in track(starts, "pictures", len(starts), transient=True):
        chunk = rows[start : start + AT_ONCE]
        files = tables.bytes_of(sorted({_picture_of(row) or "" for row in chunk}))
        for row, item in zip(chunk, items[start : start + AT_ONCE], strict=True):
            with Image.open(io.BytesIO(files[_picture_of(row) or ""])) as image:
                yield item, np.asarray(image.convert("RGBA"))


def item_of(row: dict[str, Any]) -> PictureItem:
    """Return what a document says about its picture."""
    texts = [(part["text"], part["language"] or "") for part in row["parts"] if part["text"]]
    tags = [(tag["text"], tag["language"]) for tag in row["tags"]]
    firsts: dict[str, str] = {}
    for text, language in texts:
        firsts.setdefault(language, text)
    names = dict.fromkeys([*firsts.values(), *(text for text, _ in (*texts, *tags))])
    return PictureItem(
        concept=row["concept"] or row["key"],
        style=row["style"] or row["source"],
        kind=row["kind"] or "",
        names=tuple(names),
        split=row["split"],
        may_mirror=row["kind"] in MIRRORED,
    )
