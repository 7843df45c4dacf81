"""This module holds the sizes up to which files are read, and the checks that modalities share.

It imports nothing slow, so that a command's help is quick.
"""

from __future__ import annotations

import dataclasses

from onnuri.errors import MediaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits holds the largest file of each kind that is read; a server may set its own."""

    file_bytes: int = 200 * 2**20
    """size of any file"""
    side: int = 8192
    """width and height of a picture, in pixels"""
    pixels: int = 16 * 10**6
    """width times height of a picture"""
    frame_side: int = 2048
    """width and height of a video, in pixels"""
    seconds: float = 30.0
    """duration of a video; that of a sound is at most `HEARD_SECONDS` too"""
    faces: int = 100_000
    """faces of a mesh"""


LIMITS = Limits()


def check_bytes(name: str, count: int, limits: Limits) -> None:
    """Raise MediaError for a file of more bytes than the limits allow."""
    if count > limits.file_bytes:
        raise MediaError(
            name,
            f"has {count} bytes, at most {limits.file_bytes} are read",
            "give a smaller file",
            code="file_too_large",
            most=limits.file_bytes,
        )


def check_seconds(name: str, seconds: float, limits: Limits) -> None:
    """Raise MediaError for a duration longer than the limits allow."""
    if seconds > limits.seconds:
        raise MediaError(
            name,
            f"lasts {seconds:.1f} s, at most {limits.seconds:.1f} s are read",
            "cut it",
            code="too_long",
            most=int(limits.seconds),
        )
