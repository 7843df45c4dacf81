"""This module writes files and folders atomically: under a temporary name, which is then renamed.

It knows no media format, and imports nothing slow, so that a command that prints a table starts at
once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnuri.errors import ConfigError, MediaError
from onnuri.phrases import Phrase


def write_bytes(data: bytes, path: Path) -> None:
    """Write a file atomically, making its folder. Raises MediaError if it cannot be written."""
    make_folder(path.parent)
    try:
        # in the same folder, since only there a rename is atomic
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(part, 0o644)  # mkstemp lets nobody else read it
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
            raise
    except OSError as error:
        raise MediaError(
            str(path), Phrase("cannot be written ({})", error.strerror), "give another place"
        ) from None


def write_json(value: Any, path: Path, indent: int = 1) -> None:
    """Write a JSON value to a file atomically. Raises MediaError if it cannot be written."""
    write_bytes((json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode(), path)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which then replaces `folder`, unless an error is raised.

    What an earlier process that was killed has left is removed. Raises ConfigError if it cannot be
    written.
    """
    part, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        if old.exists() and not folder.exists():  # killed between the two renames below
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if folder.exists():  # moved, not deleted: a process that is killed leaves it whole
            folder.rename(old)
        part.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            str(folder), Phrase("cannot be written ({})", error.strerror), "give another folder"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_place(path: Path | None) -> None:
    """Raise MediaError if a file, should one be asked for, could not be written to a path; called
    before long work."""
    if path:
        make_folder(path.parent)
        if path.is_dir():
            raise MediaError(str(path), "is a folder", "give a file's name")


def cache_folder() -> Path:
    """Return the folder of this user's caches: `$XDG_CACHE_HOME/onnuri`, or `~/.cache/onnuri` where
    that names no absolute path (XDG Base Directory Specification)."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "onnuri"


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises MediaError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(
            str(folder), Phrase("cannot be a folder ({})", error.strerror), "give another folder"
        ) from None


def rendered(template: Path, **values: Any) -> str:
    """Return a page, a Jinja template's text with values; what is in them is escaped."""
    import jinja2  # here, because a terminal needs no page

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**values)
