"""This module reads and writes text files in UTF-8."""

from __future__ import annotations

from onnuri.errors import MediaError


def read(data: bytes, name: str) -> str:
    """Return the text of a file's bytes in UTF-8. Raises MediaError for other bytes or no text."""
    if not data:
        raise MediaError(name, "is empty", "give a file with content")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise MediaError(name, "is not text in UTF-8", "save it as UTF-8") from None
    if not text:
        raise MediaError(name, "has no text", "give a file with a sentence")
    return text


def text_bytes(text: str) -> bytes:
    """Return text as a file's bytes in UTF-8, ending with a newline."""
    return (text + "\n").encode()
