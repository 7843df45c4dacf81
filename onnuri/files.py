"""Files and folders that are whole or not there: written under a temporary name, then renamed.
Knows no format of a medium.

Imports nothing slow, so that a command that prints a table starts at once.
"""

from __future__ import annotations

import contextlib
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
    """Under a temporary name in the same folder, then renamed: whole or not at all."""
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise MediaError(
            str(path), Phrase("cannot be written ({})", error.strerror), "give another place"
        ) from None


def write_json(value: Any, path: Path, indent: int = 1) -> None:
    """The same of JSON values."""
    write_bytes((json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode(), path)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which then takes the place of `folder`: whole or not at all.

    Raises ConfigError where it cannot be written.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except OSError as error:
        raise ConfigError(
            str(folder), Phrase("cannot be written ({})", error.strerror), "give another folder"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_place(path: Path | None) -> None:
    """Before long work: whether a file, if any, could be written there. Raises MediaError."""
    if path:
        make_folder(path.parent)
        if path.is_dir():
            raise MediaError(str(path), "is a folder", "give a file's name")


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(
            str(folder), Phrase("cannot be a folder ({})", error.strerror), "give another folder"
        ) from None
