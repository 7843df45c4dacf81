"""This module turns text files into a store of tokens (`data/document_store.py`), which `onnuri
train pretrain` reads.

A document's ids are those that its tokenizer gives a prompt, with the token that ends a text behind
them. Text is text: where a document spells a special token out, it does not become that token.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from onnuri.data.document_store import DocumentStore, write_store
from onnuri.data.documents import TextDocument, check_files, read_documents
from onnuri.errors import ConfigError
from onnuri.model.base import load_tokenizer

BATCH_CHARACTERS = 4_000_000
"""characters that a tokenizer is given at once, over which it spreads its threads"""
UNLIMITED = 1 << 62
"""tokens per text: no document is cut, or warned of as too long"""


def tokenize(
    paths: Sequence[Path],
    out: Path,
    tokenizer_folder: Path,
    split_lines: bool = False,
    end: str | None = None,
) -> None:
    """Write the documents of text files as a store of tokens, which appears whole or not at all.

    `end` is the token that ends each document, if the tokenizer names none or another is wanted.
    Raises ConfigError for files that cannot be read, a place that is taken and a tokenizer without
    that token, and WeightsError where there is no tokenizer.
    """
    if out.exists():
        raise ConfigError(
            f"--out {out}", "is there already", "give another name, or delete it first"
        )
    size = check_files(paths)
    tokenizer = load_tokenizer(tokenizer_folder, alone=True)
    end_id = end_of_document(tokenizer, tokenizer_folder, end)
    documents = read_documents(paths, split_lines)
    first = next(documents, None)
    if first is None:
        raise ConfigError(
            ", ".join(map(str, paths)), "holds no document", "give a file with some text"
        )
    console = Console(highlight=False, soft_wrap=True)
    columns = (
        TextColumn("tokenize"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        documents = _shown(itertools.chain([first], documents), bar, size)
        write_store(
            out,
            encode_documents(documents, tokenizer, end_id),
            vocabulary_size(tokenizer),
            vocabulary_name(tokenizer),
        )
    store = DocumentStore(out)
    console.print(f"wrote {out}: {len(store):,} documents, {store.tokens:,} ids")


def end_of_document(tokenizer: Any, folder: Path, token: str | None = None) -> int:
    """Return the id of the token that ends a document: `token`, or the tokenizer's own. Raises
    ConfigError if the tokenizer has no such token."""
    name = token or tokenizer.eos_token
    if name is None:
        raise ConfigError(
            str(folder), "has a tokenizer that ends no text", "name its token with --end"
        )
    vocabulary = tokenizer.get_vocab()
    if name not in vocabulary:
        raise ConfigError(
            f"--end {name}", f"is no token of {folder}", "give one of its special tokens"
        )
    return int(vocabulary[name])


def encode_documents(
    documents: Iterable[TextDocument], tokenizer: Any, end_id: int
) -> Iterator[list[int]]:
    """Yield each document's ids: those that the tokenizer gives its text, and `end_id`."""
    tokenizer.model_max_length = UNLIMITED
    for texts in _batches(documents):
        for ids in tokenizer(texts, split_special_tokens=True)["input_ids"]:
            # some tokenizers end every text themselves
            yield ids if ids and ids[-1] == end_id else [*ids, end_id]


def vocabulary_size(tokenizer: Any) -> int:
    """Return one more than a tokenizer's highest id."""
    return int(max(tokenizer.get_vocab().values())) + 1


def vocabulary_name(tokenizer: Any) -> str:
    """Return a name of what a tokenizer's ids mean, equal for equal vocabularies alone."""
    pairs = sorted(tokenizer.get_vocab().items())
    return f"vocabulary {hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]}"


def _batches(documents: Iterable[TextDocument]) -> Iterator[list[str]]:
    """Yield the texts of documents, as many together as a tokenizer is given at once."""
    texts: list[str] = []
    characters = 0
    for document in documents:
        texts.append(document.text)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield texts
            texts, characters = [], 0
    if texts:
        yield texts


def _shown(documents: Iterable[TextDocument], bar: Progress, size: int) -> Iterator[TextDocument]:
    """Yield documents, and show on a bar how much of `size` bytes has been read."""
    row = bar.add_task("tokenize", total=size)
    for document in documents:
        bar.update(row, completed=document.bytes_read)
        yield document
