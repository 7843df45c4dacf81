"""This module writes and reads a store of tokenised documents, and cuts it into rows of training.

    folder/00000.ids.npy    uint32: the ids of a shard's documents, end to end
    folder/00000.ends.npy   int64: where each document of the shard ends
    folder/store.json       the shards, and what the ids mean; the folder appears when it is whole

Ids are read by memory map, so a store may be larger than memory. Rows are cut from the documents in
a new random order per epoch, end to end, so none is padded; a document that a row's end cuts goes
on in the next row as a sequence of its own. Row number j is a pure function of (seed, j).
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from onnuri import files
from onnuri.data.pack import PackedRow
from onnuri.errors import ConfigError

SUMMARY = "store.json"
VERSION = 1
SHARD_TOKENS = 1 << 28
"""ids per shard: 1 GiB"""
KEPT_EPOCHS = 2
"""epochs whose order stays in memory: a row may lie across the end of one"""


def write_store(
    folder: Path,
    documents: Iterable[Sequence[int] | np.ndarray],
    vocabulary: int,
    ids_from: str,
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Write documents, each a sequence of ids below `vocabulary`, as a store.

    `ids_from` names what the ids mean, such as the hash of a tokenizer or of a token layout: a
    store is only read by a run that gives the same. Empty documents are left out. Raises
    ConfigError for an id out of range and for a store without documents.
    """
    with files.whole_folder(folder) as part:
        shards: list[dict[str, Any]] = []
        ids: list[np.ndarray] = []
        tokens = 0
        for number, document in enumerate(documents):
            checked = _checked(document, vocabulary, number)
            if not len(checked):
                continue
            ids.append(checked)
            tokens += len(checked)
            if tokens >= shard_tokens:
                shards.append(_write_shard(part, len(shards), ids))
                ids, tokens = [], 0
        if ids:
            shards.append(_write_shard(part, len(shards), ids))
        if not shards:
            raise ConfigError(str(folder), "would hold no document", "give at least one")
        summary = {
            "version": VERSION,
            "vocabulary": vocabulary,
            "ids_from": ids_from,
            "shards": shards,
        }
        files.write_json(summary, part / SUMMARY)


def _checked(document: Sequence[int] | np.ndarray, vocabulary: int, number: int) -> np.ndarray:
    """Return a document's ids as uint32. Raises ConfigError for an id out of range."""
    ids = np.asarray(document, dtype=np.int64)
    if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
        wrong = int(ids[(ids < 0) | (ids >= vocabulary)][0])
        raise ConfigError(
            f"id {wrong} of document {number}",
            f"is outside 0 to {vocabulary - 1}",
            "give the vocabulary of the tokenizer that made it",
        )
    return ids.astype(np.uint32)


def _write_shard(folder: Path, number: int, documents: list[np.ndarray]) -> dict[str, Any]:
    """Write one shard and return its line of the summary."""
    ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
    ids = np.concatenate(documents)
    np.save(folder / f"{number:05}.ids.npy", ids)
    np.save(folder / f"{number:05}.ends.npy", ends)
    # by it a run knows that its data are the same when it goes on
    digest = hashlib.sha256(ids.data)
    digest.update(ends.data)
    return {"tokens": int(ends[-1]), "documents": len(documents), "sha256": digest.hexdigest()}


class DocumentStore:
    """A DocumentStore reads the documents of a store by memory map."""

    def __init__(self, folder: Path, ids_from: str | None = None) -> None:
        """Open a store. Raises ConfigError for a folder that holds none, for one whose files are
        not as long as it says, and for one whose ids mean something else than `ids_from`."""
        self.folder = folder
        summary = _summary(folder)
        if ids_from is not None and summary["ids_from"] != ids_from:
            raise ConfigError(
                str(folder),
                f"holds ids of another vocabulary ({summary['ids_from']}, not {ids_from})",
                "make the store with this model's tokenizer",
            )
        self.vocabulary = int(summary["vocabulary"])
        self.ids_from = str(summary["ids_from"])
        self.digest = hashlib.sha256(json.dumps(summary, sort_keys=True).encode()).hexdigest()
        """names the store's content"""
        self._ids: list[np.ndarray] = []
        ends: list[np.ndarray] = []
        for number, shard in enumerate(summary["shards"]):
            shard_ids, shard_ends = _open_shard(folder, number)
            if len(shard_ids) != shard["tokens"] or len(shard_ends) != shard["documents"]:
                raise ConfigError(
                    f"{folder / f'{number:05}.ids.npy'}",
                    f"holds {len(shard_ids)} ids in {len(shard_ends)} documents instead of "
                    f"{shard['tokens']} in {shard['documents']}",
                    "write the store anew",
                )
            self._ids.append(shard_ids)
            ends.append(shard_ends)
        self.first_document = np.cumsum([0, *(len(each) for each in ends)])
        """number of the first document of each shard, and of all"""
        self._starts = np.concatenate([np.concatenate([[0], each[:-1]]) for each in ends])
        self.lengths = np.concatenate([np.diff(each, prepend=0) for each in ends])
        """int64 [documents]: ids of each document"""
        self.tokens = int(self.lengths.sum())
        """ids of all documents together"""

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.lengths)

    def document(self, number: int) -> np.ndarray:
        """Return the ids of a document, uint32."""
        shard = int(np.searchsorted(self.first_document, number, side="right")) - 1
        start = int(self._starts[number])
        return self._ids[shard][start : start + int(self.lengths[number])]


def _summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a store. Raises ConfigError if there is none or it cannot be read."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        version = summary["version"]
        if not summary["shards"] or not {"vocabulary", "ids_from"} <= summary.keys():
            raise KeyError("shards, vocabulary or ids_from")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            str(folder),
            f"holds no store of tokens ({type(error).__name__}: {error})",
            "give a folder that write_store wrote",
        ) from None
    if version != VERSION:
        raise ConfigError(
            str(folder), f"is a store of version {version}", f"write it anew: {VERSION} is read"
        )
    return dict(summary)


def _open_shard(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a shard by memory map and the ends of its documents."""
    try:
        ids = np.load(folder / f"{number:05}.ids.npy", mmap_mode="r")
        return ids, np.load(folder / f"{number:05}.ends.npy")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / f'{number:05}.ids.npy'}",
            f"cannot be read ({error})",
            "write the store anew",
        ) from None


class _Epoch(NamedTuple):
    """The order in which one epoch reads the documents."""

    order: np.ndarray
    """[documents]: numbers of the documents"""
    ends: np.ndarray
    """int64 [documents]: where each ends in the epoch, in ids"""


class StoreRows:
    """A StoreRows cuts the documents of a store into rows of a fixed number of ids."""

    def __init__(self, store: DocumentStore, tokens: int, seed: int = 0) -> None:
        """Cut a store into rows of `tokens` ids, in the orders that follow from `seed`."""
        self.store, self.tokens, self.seed = store, tokens, seed
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the orders out where a worker process gets a copy: each counts its own."""
        return {**self.__dict__, "_epochs": OrderedDict()}

    def row(self, index: int) -> PackedRow:
        """Return row number `index`; after the last document of an epoch comes the next epoch."""
        pieces: list[np.ndarray] = []
        position, missing = index * self.tokens, self.tokens
        while missing:
            epoch, offset = divmod(position, self.store.tokens)
            taken = self._from_epoch(epoch, offset, missing)
            pieces += taken
            length = sum(len(piece) for piece in taken)
            position, missing = position + length, missing - length
        lengths = np.array([len(piece) for piece in pieces])
        weights = np.ones(self.tokens, np.float32)
        weights[np.cumsum(lengths) - lengths] = 0.0  # nothing comes before a sequence's first id
        return PackedRow(
            ids=torch.from_numpy(np.concatenate(pieces).astype(np.int64))[None],
            positions=torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))[None],
            lengths=torch.from_numpy(lengths),
            weights=torch.from_numpy(weights)[None],
            modality_ids=torch.zeros(1, self.tokens, dtype=torch.int64),
        )

    def _from_epoch(self, epoch: int, offset: int, count: int) -> list[np.ndarray]:
        """Return the pieces of documents that hold up to `count` ids from `offset` on, fewer where
        the epoch ends."""
        order, ends = self._epoch(epoch)
        pieces = []
        k = int(np.searchsorted(ends, offset, side="right"))
        while count and k < len(order):
            document = self.store.document(int(order[k]))
            piece = document[offset - (int(ends[k]) - len(document)) :][:count]
            pieces.append(piece)
            offset, count, k = offset + len(piece), count - len(piece), k + 1
        return pieces

    def _epoch(self, number: int) -> _Epoch:
        """Return an epoch's order, which depends on the seed and the epoch alone."""
        if number not in self._epochs:
            rng = np.random.default_rng([self.seed, number])
            order = rng.permutation(len(self.store)).astype(np.uint32)
            self._epochs[number] = _Epoch(order, np.cumsum(self.store.lengths[order]))
            if len(self._epochs) > KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        return self._epochs[number]
