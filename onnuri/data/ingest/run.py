"""This module drives ingestion: items of a path through worker processes into the tables of a
folder.

It can be killed at any moment and loses and doubles nothing. What is done is what the files say: a
key that is among the documents, in rejected.jsonl, or in duplicates.jsonl as a document is not
read again. Rejections and duplicates are written before media, media before documents; all of it
follows from the items' order alone, so a run that was killed ends in the rows of one that was not.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from onnuri.data.ingest import table
from onnuri.data.ingest.duplicates import NearPictures, NearSounds, NearTexts
from onnuri.data.ingest.licences import identifier, is_permissive
from onnuri.data.ingest.pool import prepare_all
from onnuri.data.ingest.records import (
    Fault,
    PreparedItem,
    PreparedPart,
    Said,
    SourceItem,
    clean,
    merged,
)
from onnuri.data.ingest.settings import IngestConfig
from onnuri.data.ingest.sources import read_items
from onnuri.data.ingest.table import DOCUMENTS, MEDIA, LineFile, Tables
from onnuri.errors import ConfigError

BATCH_ITEMS = 256
BATCH_BYTES = 64 * 2**20
BATCH_SECONDS = 20.0
"""items, and bytes of media, that are written at once, and how long they wait for it at most"""
SPLITS = (("train", 80), ("dev", 90), ("test", 100))
"""splits, and the hundredth of hashes at which each ends"""
NO_SPLIT = "none"
"""split of a document whose media or concept belong to more than one"""


class Summary(NamedTuple):
    """A Summary holds what one run of ingestion did."""

    items: int
    documents: int
    media: Counter[str]
    rejected: int
    duplicates: int
    seconds: float
    decoder_share: float
    """share of the workers' time in decoders and encoders"""
    first_fault: str = ""


def ingest(path: Path, out: Path, config: IngestConfig) -> Summary:
    """Ingest a path into a folder, or go on where an earlier run ended.

    Raises ConfigError for a path that is nothing to ingest, for a folder that is something else or
    of another version, for settings other than those of the earlier run, and for a full disk.
    """
    check_settings(config)
    items = read_items(path)
    first = next(items, None)  # a mistake shows before anything is written
    if first is None:
        raise ConfigError(str(path), "holds nothing to ingest", "give a path with files")
    _refuse_within(path, out)
    place = clean(str(path.resolve()))
    return ingest_items(itertools.chain([first], items), place, path.resolve().name, out, config)


def check_settings(config: IngestConfig) -> None:
    """Raise ConfigError for a number of workers below 0, DependencyError without the extra
    `data`."""
    table.check_packages()
    if config.workers is not None and config.workers < 0:
        raise ConfigError(f"--workers {config.workers}", "is below 0", "give 0 or more")


def ingest_items(
    items: Iterator[SourceItem], place: str, name: str, out: Path, config: IngestConfig
) -> Summary:
    """Ingest items that come from `place` into a folder, or go on where an earlier run ended.

    Their keys stand under `name`, unless the settings give another source. Raises ConfigError for a
    folder that is something else or of another version, for settings other than those of the
    earlier run, for a full disk, and if nothing is taken.
    """
    tables = Tables(out, create=True)
    with table.locked(out):
        source = _register(tables, place, name, config)
        tables.sweep()
        writer = Writer(tables, source, config)
        summary = _run(writer, items, config)
        tables.sweep()
    if not summary.documents and not len(writer.done_before):
        raise ConfigError(
            place,
            f"holds nothing that is taken: {summary.rejected} rejected, the first because "
            f"{summary.first_fault}",
            f"see {out / table.REJECTED}",
        )
    return summary


def _refuse_within(path: Path, out: Path) -> None:
    """Raise ConfigError for a folder that is to be written into the one that is read."""
    if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
        raise ConfigError(f"--out {out}", f"lies within {path}", "give a folder outside it")


def _register(tables: Tables, place: str, name: str, config: IngestConfig) -> str:
    """Return the name of a place in the table, under which its keys stand. Raises ConfigError if
    the name is another place's, or was ingested with other settings."""
    name = clean(config.source or name)
    entry = {
        "path": place,
        **{k: getattr(config, k) for k in ("licence", "stated_licence", "stated_credit")},
        "near_duplicates": config.near_duplicates,
    }
    known = tables.settings["sources"].get(name)
    if known is None:
        tables.settings["sources"][name] = entry
        tables.save_settings()
    elif known["path"] != entry["path"] and config.source is None:
        raise ConfigError(
            place,
            f"has the name of {known['path']}, which is in {tables.out} already",
            "give it a name with --source",
        )
    else:
        for setting, value in entry.items():
            if setting != "path" and known[setting] != value:
                raise ConfigError(
                    f"--{setting.replace('_', '-')} {value}",
                    f"was {known[setting]} when {name} was ingested",
                    "give the same, or another --source or --out",
                )
    return name


def _run(writer: Writer, items: Iterator[SourceItem], config: IngestConfig) -> Summary:
    """Ingest items and print what is done."""
    workers = os.cpu_count() or 1 if config.workers is None else config.workers
    console = Console(highlight=False, soft_wrap=True)
    columns = (
        SpinnerColumn(),
        TextColumn("ingest {task.completed} items, {task.fields[speed]:.1f} a second"),
        TimeElapsedColumn(),
    )
    start = time.perf_counter()
    decoders, count = 0.0, 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        row = bar.add_task("ingest", total=None, speed=0.0)
        for prepared in prepare_all(writer.missing(items), workers):
            writer.add(prepared)
            decoders += prepared.decoder_seconds
            count += 1
            elapsed = time.perf_counter() - start
            bar.update(row, completed=count, speed=count / max(elapsed, 1e-9))
        writer.write()
    seconds = time.perf_counter() - start
    summary = Summary(
        items=count,
        documents=writer.documents,
        media=writer.media,
        rejected=writer.rejected,
        duplicates=writer.duplicates,
        seconds=seconds,
        decoder_share=decoders / max(seconds * max(workers, 1), 1e-9),
        first_fault=writer.first_fault,
    )
    _print(console, writer.tables.out, summary)
    return summary


def _print(console: Console, out: Path, summary: Summary) -> None:
    """Print a summary, unless nothing came in."""
    if not summary.documents and summary.rejected:
        return
    media = ", ".join(f"{count:,} {modality}" for modality, count in sorted(summary.media.items()))
    console.print(
        f"wrote {out}: {summary.documents:,} documents, media: {media or 'none'}; "
        f"{summary.rejected:,} rejected, {summary.duplicates:,} duplicates"
    )
    rate = summary.items / max(summary.seconds, 1e-9)
    console.print(
        f"{summary.items:,} items in {summary.seconds:.1f} s: {rate:.1f} a second, "
        f"{summary.decoder_share:.0%} of the workers' time in decoders and encoders"
    )


class Writer:
    """A Writer turns prepared items into rows and writes them in batches."""

    def __init__(self, tables: Tables, source: str, config: IngestConfig) -> None:
        """Read what the folder holds, for items of the path that is called `source`."""
        self.tables, self.source, self.config = tables, source, config
        self.rejected_file = LineFile(tables.out / table.REJECTED)
        self.duplicates_file = LineFile(tables.out / table.DUPLICATES)
        self.documents = self.rejected = self.duplicates = 0
        self.media: Counter[str] = Counter()
        self.first_fault = ""
        self._forgotten = table.forgotten(tables.out)
        self._indices: dict[str, NearPictures | NearSounds] = {
            "image": NearPictures(),
            "audio": NearSounds(),
        }
        self._texts = NearTexts()
        self._media: dict[str, tuple[str, str]] = {}
        """split and first key of every medium, by its hash"""
        self._digests: dict[bytes, str] = {}
        """key of every document, by its content"""
        self._done: set[str] = set()
        self._lines: set[tuple[str, int]] = set()
        """key and part of what duplicates.jsonl holds"""
        self._read()
        self.done_before = frozenset(self._done)
        self._clear()

    def _clear(self) -> None:
        """Begin a batch."""
        self._new_rejected: list[dict[str, Any]] = []
        self._new_duplicates: list[dict[str, Any]] = []
        self._new_media: list[dict[str, Any]] = []
        self._new_documents: list[dict[str, Any]] = []
        self._bytes = 0
        self._begun = time.monotonic()

    def _read(self) -> None:
        """Read what is in the folder already."""
        columns = ["hash", "modality", "likeness", "split", "key"]
        for row in self.tables.rows(MEDIA, columns):
            self._media[row["hash"]] = (row["split"], row["key"])
            self._index(row["modality"], row["hash"], row["likeness"])
        for row in self.tables.rows(DOCUMENTS, ["key", "digest", "bands"]):
            self._done.add(row["key"])
            self._digests.setdefault(row["digest"], row["key"])
            self._texts.add(row["key"], tuple(row["bands"]))
        self._done |= {line["key"] for line in self.rejected_file.read()}
        for line in self.duplicates_file.read():
            self._lines.add((line["key"], line["part"]))
            if line["part"] < 0:
                self._done.add(line["key"])

    def _index(self, modality: str, name: str, likeness: bytes | None) -> None:
        """Let later media be compared with one."""
        if likeness:
            self._indices[modality].add(name, likeness)

    def missing(self, items: Iterator[SourceItem]) -> Iterator[SourceItem]:
        """Yield the items that are not done, with keys that are unique in the table."""
        for item in items:
            key = f"{self.source}/{item.key}"
            if key not in self._done:
                yield item._replace(key=key)

    def add(self, item: PreparedItem) -> None:
        """Add an item to the batch, and write that once it is large enough."""
        said = merged(item.said, Said(self.config.stated_licence, self.config.stated_credit))
        fault = item.fault or self._refusal(item, said)
        if fault:
            self._reject(item.key, fault)
        else:
            self._add_document(item, said)
        rows = len(self._new_documents) + len(self._new_rejected) + len(self._new_duplicates)
        late = time.monotonic() - self._begun > BATCH_SECONDS
        if rows >= BATCH_ITEMS or self._bytes >= BATCH_BYTES or late:
            self.write()

    def _refusal(self, item: PreparedItem, said: Said) -> Fault | None:
        """Return why a good item is not taken all the same; None if it is."""
        if self.config.licence == "permissive" and not is_permissive(said.licence):
            stated = f"licence {said.licence!r}" if said.licence else "no licence"
            reason = f"{item.key}: has {stated}, which is not permissive; leave it out"
            return Fault("licence", reason)
        for number, part in enumerate(item.parts):
            if part.hash in self._forgotten:
                reason = f"{item.key}: holds {part.hash}, which was to be forgotten; leave it out"
                return Fault("forgotten", reason, number)
        return None

    def _reject(self, key: str, fault: Fault) -> None:
        """Add a rejection to the batch."""
        self._new_rejected.append(
            {"key": key, "part": fault.part, "code": fault.code, "reason": fault.reason}
        )
        self.rejected += 1
        self.first_fault = self.first_fault or fault.reason

    def _add_document(self, item: PreparedItem, said: Said) -> None:
        """Add a document and its new media to the batch, unless it is one that is there already."""
        hashes = [self._kept_hash(item, part) for part in item.parts]
        parts = [_part_row(part, name) for part, name in zip(item.parts, hashes, strict=True)]
        digest = _digest(parts)
        if digest in self._digests:
            self._duplicate(item.key, -1, "document", None, self._digests[digest])
            return
        if self.config.near_duplicates == "merge" and item.bands:
            near = self._texts.find(item.bands)
            if near is not None:
                self._duplicate(item.key, -1, "text", None, near)
                return
        split = self._split(said, [name for name in hashes if name], digest)
        for number, (part, name) in enumerate(zip(item.parts, hashes, strict=True)):
            self._add_medium(item.key, number, part, name, split)
        self._new_documents.append(
            {
                "key": item.key,
                "source": said.source or self.source,
                "parts": parts,
                "licence": identifier(said.licence) if said.licence else None,
                "credit": said.credit,
                "concept": said.concept,
                "style": said.style,
                "kind": said.kind,
                "tags": [tag._asdict() for tag in said.tags],
                "split": split,
                "digest": digest,
                "bands": list(item.bands),
            }
        )
        self._digests[digest] = item.key
        self._texts.add(item.key, item.bands)
        self.documents += 1

    def _kept_hash(self, item: PreparedItem, part: PreparedPart) -> str | None:
        """Return the hash under which a medium is in the table or will be: its own, or that of one
        that is nearly the same."""
        if part.hash is None or part.hash in self._media:
            return part.hash
        modality = part.kept.modality if part.kept else ""
        # two pictures of one document that are nearly the same are so on purpose: before and after
        together = sum(p.kept is not None and p.kept.modality == modality for p in item.parts)
        if self.config.near_duplicates == "keep" or not part.likeness or together > 1:
            return part.hash
        return self._indices[modality].find(part.likeness) or part.hash

    def _add_medium(
        self, key: str, number: int, part: PreparedPart, name: str | None, split: str
    ) -> None:
        """Add a part's medium to the batch, or a line on whose duplicate it is."""
        if part.kept is None or name is None:
            return
        kept = part.kept
        if name in self._media:
            if self._media[name][1] != key:
                kind = "equal" if name == part.hash else "near"
                self._duplicate(key, number, kind, part.hash, name)
            return
        self._new_media.append(
            {
                "hash": name,
                "modality": kept.modality,
                "media_type": kept.media_type,
                "data": kept.data,
                "bytes": len(kept.data),
                "format": kept.format,
                **kept.facts,
                "likeness": part.likeness or None,
                "split": split,
                "key": key,
            }
        )
        self._media[name] = (split, key)
        self._index(kept.modality, name, part.likeness)
        self.media[kept.modality] += 1
        self._bytes += len(kept.data)

    def _duplicate(self, key: str, part: int, kind: str, name: str | None, kept: str) -> None:
        """Add a line on a duplicate to the batch, unless an earlier run has written it."""
        self.duplicates += 1
        if (key, part) not in self._lines:
            line = {"key": key, "part": part, "kind": kind, "hash": name, "kept": kept}
            self._new_duplicates.append(line)

    def _split(self, said: Said, hashes: list[str], digest: bytes) -> str:
        """Return a document's split: the one that is said, or by the hash of its concept, of its
        media, or its own. A document that would bring a medium into a second split belongs to
        none."""
        known = {self._media[name][0] for name in hashes if name in self._media}
        if said.split:
            split = said.split
        elif said.concept:
            split = split_of(said.concept.casefold().strip())
        elif len(known) == 1:
            return known.pop()
        else:
            split = split_of(hashes[0] if hashes else digest.hex())
        return split if known <= {split} else NO_SPLIT

    def write(self) -> None:
        """Write the batch: what is told about, then media, then documents."""
        self.rejected_file.append(self._new_rejected)
        self.duplicates_file.append(self._new_duplicates)
        self.tables.append(self._new_media, self._new_documents)
        self._clear()


def split_of(name: str) -> str:
    """Return the split of a name: 80 of 100 hashes are train, 10 dev, 10 test."""
    hundredth = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100
    return next(split for split, end in SPLITS if hundredth < end)


def _part_row(part: PreparedPart, name: str | None) -> dict[str, Any]:
    """Return a part as a row of the table has it."""
    modality = part.kept.modality if part.kept else "text"
    return {"modality": modality, "text": part.text, "language": part.language, "hash": name}


def _digest(parts: list[dict[str, Any]]) -> bytes:
    """Return 16 bytes that are equal for documents of equal texts and media."""
    content = [(part["hash"], part["text"]) for part in parts]
    return hashlib.sha256(repr(content).encode()).digest()[:16]
