"""This module reads text files as documents: plain text, one document per file or per line, and
JSON Lines with a "text" per line; either may be compressed by gzip.

It knows no tokenizer. Documents come one after another, so a file may be larger than memory.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from onnuri.errors import ConfigError

GZIP = ".gz"
LINES = ".jsonl"
TEXT = ".txt"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""what some programs write before the first line of a file in UTF-8"""


class TextDocument(NamedTuple):
    """A TextDocument holds one document, and how far its file has been read."""

    text: str
    bytes_read: int
    """bytes of all files so far, as they lie on the disk"""


def check_files(paths: Iterable[Path]) -> int:
    """Return the bytes of all files together. Raises ConfigError for one that cannot be read, or
    whose name does not say what it holds."""
    size = 0
    for path in paths:
        if path.is_dir():
            raise ConfigError(str(path), "is a folder", f"give its files, such as {path}/*{LINES}")
        if _kind(path) not in (LINES, TEXT):
            raise ConfigError(
                str(path),
                f"ends neither in {TEXT} nor in {LINES}",
                f"rename it to what it holds; {GZIP} may stand behind it",
            )
        try:
            with path.open("rb"):
                size += path.stat().st_size
        except OSError as error:
            raise ConfigError(
                str(path), f"cannot be read ({error.strerror})", "give a file that is there"
            ) from None
    return size


def read_documents(paths: Iterable[Path], split_lines: bool = False) -> Iterator[TextDocument]:
    """Yield the documents of files, one after another; those of white space alone are left out.

    With `split_lines` each line of a plain text file is a document. Raises ConfigError, with file
    and line, for what is not UTF-8, not JSON, or has no text.
    """
    before = 0
    for path in paths:
        is_lines = _kind(path) == LINES
        with path.open("rb") as file:
            try:
                for number, line in _lines(path, file, is_lines or split_lines):
                    place = f"{path}:{number}" if is_lines or split_lines else str(path)
                    text = _decoded(line, place)
                    if text.strip() and is_lines:
                        text = _text_of(text, place)
                    if text.strip():
                        yield TextDocument(text, before + file.tell())
            except (OSError, EOFError, zlib.error) as error:
                raise ConfigError(
                    str(path),
                    f"cannot be read to its end ({error})",
                    "give a whole file: its copy may have been cut",
                ) from None
            before += file.seek(0, 2)


def _kind(path: Path) -> str:
    """Return a file's ending, without that of gzip."""
    return Path(path.name.removesuffix(GZIP)).suffix


def _lines(path: Path, file: IO[bytes], split: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers from 1 on, or all of it as one."""
    plain = cast(IO[bytes], gzip.GzipFile(fileobj=file) if path.suffix == GZIP else file)
    for number, line in enumerate(plain if split else [plain.read()], start=1):
        line = line.rstrip(b"\r\n") if split else line.replace(b"\r\n", b"\n")
        yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def _decoded(line: bytes, place: str) -> str:
    """Return bytes as text. Raises ConfigError if they are not UTF-8."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            place,
            f"is not UTF-8 (byte {error.start} is 0x{line[error.start]:02x})",
            "convert the file, such as with iconv -t utf-8",
        ) from None


def _text_of(line: str, place: str) -> str:
    """Return the text of a line of JSON. Raises ConfigError if there is none."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(place, f"is not JSON ({error})", "give one object per line") from None
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise ConfigError(place, 'has no "text"', 'write {"text": "…"}')
    return text
