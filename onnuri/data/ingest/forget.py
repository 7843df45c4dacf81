"""This module removes media from a table for good, so that their bytes are in no file of it.

Killed on the way, the same command ends what it began: the hashes stand in forgotten.txt first. It
decodes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from onnuri.data.ingest import table
from onnuri.data.ingest.table import DOCUMENTS, MEDIA, Tables
from onnuri.errors import ConfigError

WHOLE_DIGITS, FEWEST_DIGITS = 64, 8
"""hexadecimal digits of a hash, and those that must be given of it"""
AT_ONCE = 500
"""keys in one statement"""
SMALL_ROWS = 1024
"""files of fewer rows are joined when a table is written anew"""


def forget(hashes: Sequence[str], out: Path) -> None:
    """Remove media by their hashes, or the first digits of them, with every document that has them
    and with media that were in these documents alone.

    Also forgotten are the hashes of media that were taken for them as near duplicates. Raises
    ConfigError for a hash that is not in the folder, and for first digits of several.
    """
    tables = Tables(out)
    with table.locked(out):
        present = {row["hash"] for row in tables.rows(MEDIA, ["hash"])}
        names = {_whole(digits, present | table.forgotten(out)) for digits in hashes}
        _remember(out, names | _near(out, names))
        keys, alone = _documents_of(tables, names)
        with table.writing(out):
            _delete(tables.documents, "key", keys)
            _delete(tables.media, "hash", (names & present) | alone)
            for dataset in (tables.documents, tables.media):
                # every file with a deleted row is written anew, without it
                dataset.optimize.compact_files(
                    materialize_deletions=True,
                    materialize_deletions_threshold=0.0,
                    target_rows_per_fragment=SMALL_ROWS,
                )
        tables.sweep()
    print(
        f"forgot {len(names & present)} media, {len(keys)} documents with them and "
        f"{len(alone)} media of these documents alone"
    )


def _whole(digits: str, known: set[str]) -> str:
    """Return the hash that begins with some digits. Raises ConfigError if it is none or several."""
    digits = digits.lower()
    if not re.fullmatch(r"[0-9a-f]+", digits) or len(digits) < FEWEST_DIGITS:
        raise ConfigError(
            digits,
            f"is not a hash of at least {FEWEST_DIGITS} hexadecimal digits",
            "see `onnuri data inspect`",
        )
    found = sorted(name for name in known if name.startswith(digits))
    if len(found) != 1:
        raise ConfigError(
            digits,
            f"begins {len(found) or 'no'} hashes of the table",
            "give more digits" if found else "see `onnuri data inspect`",
        )
    return found[0]


def _near(out: Path, names: set[str]) -> set[str]:
    """Return the hashes of media that were taken for others as near duplicates."""
    lines = table.read_lines(out / table.DUPLICATES)
    return {line["hash"] for line in lines if line["kept"] in names and line["hash"]}


def _remember(out: Path, names: set[str]) -> None:
    """Add hashes to those that may not come in again."""
    new = sorted(names - table.forgotten(out))
    with table.writing(out), (out / table.FORGOTTEN).open("a", encoding="utf-8") as file:
        file.write("".join(f"{name}\n" for name in new))
        file.flush()
        os.fsync(file.fileno())


def _documents_of(tables: Tables, names: set[str]) -> tuple[set[str], set[str]]:
    """Return the keys of documents that have some media, and the hashes of other media that no
    further document has."""
    keys: set[str] = set()
    beside: set[str] = set()
    elsewhere: set[str] = set()
    for row in tables.rows(DOCUMENTS, ["key", "parts"]):
        hashes = {part["hash"] for part in row["parts"] if part["hash"]}
        if hashes & names:
            keys.add(row["key"])
            beside |= hashes
        else:
            elsewhere |= hashes
    return keys, beside - elsewhere - names


def _delete(dataset: Any, column: str, values: Iterable[str]) -> None:
    """Delete the rows of a dataset with some values in a column."""
    ordered = sorted(values)
    for start in range(0, len(ordered), AT_ONCE):
        quoted = ("'" + value.replace("'", "''") + "'" for value in ordered[start:][:AT_ONCE])
        dataset.delete(f"{column} IN ({', '.join(quoted)})")
