"""This module holds a folder of ingested media: two Lance datasets, and text files beside them.

    OUT/media.lance        one row per medium: hash, its bytes as a blob, facts, likeness
    OUT/documents.lance    one row per document: key, parts, licence, credit, concept, split …
    OUT/rejected.jsonl     what was not taken, and why
    OUT/duplicates.jsonl   what was there already, under which hash or key
    OUT/forgotten.txt      hashes of media that may never come in again
    OUT/ingest.json        version, and what was ingested with which settings

Media are appended before the documents that name them. A line of text is whole or was cut off: the
rest of a torn last line is removed when the folder is opened. The module decodes nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from onnuri import files
from onnuri.errors import ConfigError, DependencyError

VERSION = 2
MEDIA, DOCUMENTS = "media.lance", "documents.lance"
REJECTED, DUPLICATES = "rejected.jsonl", "duplicates.jsonl"
FORGOTTEN, SETTINGS, LOCK = "forgotten.txt", "ingest.json", ".lock"
PACKAGES = ("lance", "pyarrow", "datatrove", "resvg_py")
READ_ROWS = 1024
"""rows of small columns that are read at once"""


def check_packages() -> None:
    """Raise DependencyError unless the extra `data` is installed."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise DependencyError(
                package, "is needed to ingest media", "pip install 'onnuri[data]'"
            )


def media_schema() -> Any:
    """Return the columns of media."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(
                "hash",
                pa.string(),
                nullable=False,
                metadata={"lance-schema:unenforced-primary-key": "true"},
            ),
            pa.field("modality", pa.string(), nullable=False),
            pa.field("media_type", pa.string(), nullable=False),
            # a blob lies outside the pages that a scan of other columns reads
            pa.field(
                "data", pa.large_binary(), nullable=False, metadata={"lance-encoding:blob": "true"}
            ),
            pa.field("bytes", pa.int64(), nullable=False),
            pa.field("format", pa.string(), nullable=False),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("alpha", pa.bool_()),
            pa.field("frames", pa.int32()),
            pa.field("seconds", pa.float64()),
            pa.field("hz", pa.int32()),
            pa.field("channels", pa.int32()),
            pa.field("faces", pa.int32()),
            pa.field("likeness", pa.binary()),
            pa.field("split", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
        ],
        metadata={"onnuri": str(VERSION)},
    )


def document_schema() -> Any:
    """Return the columns of documents."""
    import pyarrow as pa

    part = pa.struct(
        [
            pa.field("modality", pa.string(), nullable=False),
            pa.field("text", pa.string()),
            pa.field("language", pa.string()),
            pa.field("hash", pa.string()),
        ]
    )
    tag = pa.struct(
        [
            pa.field("text", pa.string(), nullable=False),
            pa.field("language", pa.string(), nullable=False),
        ]
    )
    return pa.schema(
        [
            pa.field(
                "key",
                pa.string(),
                nullable=False,
                metadata={"lance-schema:unenforced-primary-key": "true"},
            ),
            pa.field("source", pa.string(), nullable=False),
            pa.field("parts", pa.list_(part), nullable=False),
            pa.field("licence", pa.string()),
            pa.field("credit", pa.string()),
            pa.field("concept", pa.string()),
            pa.field("style", pa.string()),
            pa.field("kind", pa.string()),
            pa.field("tags", pa.list_(tag), nullable=False),
            pa.field("split", pa.string(), nullable=False),
            pa.field("digest", pa.binary(16), nullable=False),
            pa.field("bands", pa.list_(pa.int64()), nullable=False),
        ],
        metadata={"onnuri": str(VERSION)},
    )


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Let one process at a time change a folder. Raises ConfigError if another one does."""
    with writing(out):
        file = (out / LOCK).open("w")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                str(out), "is being changed by another process", "wait until it ends"
            ) from None
        yield


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn errors of the disk in a `with` block into a ConfigError. Lance raises RuntimeError for
    some of them."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        line = " ".join(str(error).split())
        known = ("No space left on device", "File too large", "Permission denied")
        reason = next((words for words in known if words in line), f"{line:.200}")
        raise ConfigError(
            str(out),
            f"cannot be written ({reason})",
            "free or choose another place; the same command goes on",
        ) from None


class Tables:
    """A Tables is an open folder of ingested media."""

    def __init__(self, out: Path, create: bool = False) -> None:
        """Open a folder, or `create` it.

        Raises ConfigError for a folder that holds none or one of another version, DependencyError
        without the extra `data`.
        """
        check_packages()
        self.out = out
        if create:
            self._create()
        self.settings = self._read_settings()
        self.media = self._open(MEDIA)
        self.documents = self._open(DOCUMENTS)

    def _create(self) -> None:
        """Write what is missing of a folder: the settings first, by which it is known."""
        import lance

        files.make_folder(self.out)
        is_new = not (self.out / SETTINGS).exists()
        others = [name for name in os.listdir(self.out) if name != LOCK] if is_new else []
        if others:
            raise ConfigError(
                str(self.out), f"holds other files ({others[0]})", "give a new folder"
            )
        with writing(self.out):
            if is_new:
                files.write_json({"version": VERSION, "sources": {}}, self.out / SETTINGS)
            self._read_settings()
            for name, schema in ((MEDIA, media_schema()), (DOCUMENTS, document_schema())):
                if not (self.out / name).exists() or not _is_dataset(self.out / name):
                    lance.write_dataset(schema.empty_table(), str(self.out / name), schema=schema)

    def _read_settings(self) -> dict[str, Any]:
        """Return the folder's settings. Raises ConfigError if there are none of this version."""
        try:
            settings = json.loads((self.out / SETTINGS).read_text(encoding="utf-8"))
            version = settings["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                str(self.out),
                f"holds no ingested media ({type(error).__name__})",
                "give a folder that `onnuri data ingest` wrote",
            ) from None
        if version != VERSION:
            raise ConfigError(
                str(self.out),
                f"holds a table of version {version}, not {VERSION}",
                "ingest anew into another folder",
            )
        return dict(settings)

    def save_settings(self) -> None:
        """Write the settings."""
        files.write_json(self.settings, self.out / SETTINGS)

    def _open(self, name: str) -> Any:
        """Return a dataset. Raises ConfigError if it is not there, damaged, or of another
        version."""
        import lance

        path = self.out / name
        try:
            dataset = lance.dataset(str(path))
            version = (dataset.schema.metadata or {}).get(b"onnuri", b"").decode()
        except (OSError, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split())
            raise ConfigError(
                str(path), f"cannot be read ({line:.200})", "ingest anew into another folder"
            ) from None
        if version != str(VERSION):
            raise ConfigError(
                str(path),
                f"is a table of version {version or 'unknown'}, not {VERSION}",
                "ingest anew into another folder",
            )
        return dataset

    def append(self, media: Sequence[dict[str, Any]], documents: Sequence[dict[str, Any]]) -> None:
        """Append rows, media first, so that no document names a medium that is not there. Raises
        ConfigError if the disk is full."""
        import pyarrow as pa

        with writing(self.out):
            if media:
                self.media.insert(pa.Table.from_pylist(list(media), media_schema()))
            if documents:
                self.documents.insert(pa.Table.from_pylist(list(documents), document_schema()))

    def rows(self, name: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a dataset in their order, with some columns."""
        dataset = self.media if name == MEDIA else self.documents
        for batch in dataset.to_batches(
            columns=list(columns), scan_in_order=True, batch_size=READ_ROWS
        ):
            yield from batch.to_pylist()

    def bytes_of(self, hashes: Sequence[str]) -> dict[str, bytes]:
        """Return the bytes of media by their hash; hashes that are not there are left out."""
        names = ", ".join(f"'{name}'" for name in hashes if name.isalnum())
        if not names:
            return {}
        found = self.media.to_table(columns=["hash"], filter=f"hash IN ({names})", with_row_id=True)
        rows, ids = found["hash"].to_pylist(), found["_rowid"].to_pylist()
        contents = [blob.readall() for blob in self.media.take_blobs("data", ids=ids)]
        return dict(zip(rows, contents, strict=True))

    def sweep(self) -> None:
        """Remove old versions, and files that no version names: what a process that was killed
        while it wrote has left."""
        with writing(self.out):
            for dataset in (self.media, self.documents):
                dataset.cleanup_old_versions(
                    older_than=datetime.timedelta(microseconds=1), delete_unverified=True
                )


def _is_dataset(path: Path) -> bool:
    """Return whether a folder holds a dataset: a process that is killed while it creates one leaves
    files without a manifest."""
    return any((path / "_versions").glob("*.manifest"))


class LineFile:
    """A LineFile is a file of JSON lines to which lines are appended durably."""

    def __init__(self, path: Path) -> None:
        """Open a file, or begin it, and cut off a torn last line. Raises ConfigError if it cannot
        be written."""
        self.path = path
        with writing(path), path.open("ab+") as file:
            file.seek(0)
            whole = 0
            for line in file:
                whole += len(line) if line.endswith(b"\n") else 0
            file.truncate(whole)

    def append(self, records: Iterable[Any]) -> None:
        """Append records, which are on the disk when this returns. Raises ConfigError if they
        cannot be."""
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        if not lines:
            return
        with writing(self.path), self.path.open("ab") as file:
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the records. Raises ConfigError for a line that is not one."""
        return read_lines(self.path)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a file of JSON lines, none if there is no file. Raises ConfigError for a
    line that is not one."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                raise ConfigError(
                    f"{path}:{number}", "is not JSON", "restore the file or ingest anew"
                ) from None
            yield record


def forgotten(out: Path) -> set[str]:
    """Return the hashes of media that may not come in again."""
    path = out / FORGOTTEN
    return set(path.read_text().split()) if path.exists() else set()
