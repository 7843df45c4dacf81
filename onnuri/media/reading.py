"""This module is the one way in of media files: it detects what a file is, and has its modality's
module decode it.

Page, command line, API, uploads and jobs all come through `take`, so that a file is treated the
same everywhere. The module decodes nothing itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onnuri.errors import MediaError
from onnuri.media import audio, formats, image, mesh, text, video
from onnuri.media.kept import Kept
from onnuri.media.limits import LIMITS, Limits, check_bytes
from onnuri.modality import VIDEO_FRAMES, Modality


def read(path: Path, modality: str, limits: Limits = LIMITS) -> Any:
    """Return a file as its modality's array. Raises MediaError for a file of another one."""
    if modality == "text":
        data = read_bytes(path, limits)
        formats.check_suffix(path, "text")
        return text.read(data, str(path))
    return from_bytes(read_bytes(path, limits), modality, str(path), limits, path.parent)


def from_bytes(
    data: bytes, modality: str, name: str, limits: Limits = LIMITS, beside: Path | None = None
) -> Any:
    """Return a file's bytes as its modality's array.

    Raises MediaError, which calls the file `name`, for a file of another modality.
    """
    detected, item = take(data, modality, name, limits, beside)  # type: ignore[arg-type]
    if detected == modality:
        return item
    if (
        modality == "video" and _form_of(data, name).name == "GIF"
    ):  # a still GIF: its frame repeated
        return np.stack([image.square(item)] * VIDEO_FRAMES)
    raise formats.wrong_modality(name, modality, detected, _form_of(data, name).name)


def take_file(
    path: Path, declared: Modality | None = None, limits: Limits = LIMITS
) -> tuple[Modality, Any]:
    """Return what `take` returns for a file at a path, whatever the ending of its name."""
    return take(read_bytes(path, limits), declared, str(path), limits, path.parent)


def take(
    data: bytes,
    declared: Modality | None,
    name: str,
    limits: Limits = LIMITS,
    beside: Path | None = None,
) -> tuple[Modality, Any]:
    """Return a file's modality, detected by its bytes, and its array.

    An animated picture is a video and a still one an image, whichever of the two was `declared`. A
    movie declared as audio gives its sound. In all other cases the declared modality must match. A
    mesh's materials may be in the folder `beside`. Raises MediaError, which calls the file `name`.
    """
    form = _form_of(data, name)
    check_bytes(name, len(data), limits)
    possible = formats.MEDIA_OF[form.family]
    if declared and declared not in possible:
        raise formats.wrong_modality(name, declared, possible[0], form.name)
    if form.family == "picture":
        return image.read(data, form, name, limits)
    if form.family == "mesh":
        return "shape", mesh.read(data, form, name, limits.faces, beside)
    if form.family == "sound":
        return "audio", audio.read(data, form, name, limits)
    return video.read(data, form, name, limits, declared)


def keep(data: bytes, name: str, limits: Limits = LIMITS, beside: Path | None = None) -> Kept:
    """Return what is kept of a file: checked as `take` checks it and decoded to its end, in one
    form per modality, without metadata.

    A mesh's materials may be in the folder `beside`. Raises MediaError, which calls the file
    `name`.
    """
    form = _form_of(data, name)
    check_bytes(name, len(data), limits)
    if formats.is_cut_off(data):
        raise formats.damaged(form, name)
    if form.family == "picture":
        return image.keep(data, form, name, limits)
    if form.family == "mesh":
        return mesh.keep(data, form, name, limits.faces, beside)
    if form.family == "sound":
        return audio.keep(data, form, name, limits)
    return video.keep(data, form, name, limits)


def _form_of(data: bytes, name: str) -> formats.Format:
    """Return the format of a file's bytes. Raises MediaError for an empty file or a format that is
    not read."""
    if not data:
        raise MediaError(name, "is empty", "give a file with content", code="empty_file")
    form = formats.sniff(data)
    if form is None:
        raise MediaError(
            name,
            "is of no format that is read",
            f"give one of {formats.names()}",
            code="unknown_format",
        )
    if isinstance(form, str):
        raise MediaError(
            name,
            f"is {form}, which is not read",
            f"give one of {formats.names()}",
            code="unread_format",
            format=form,
        )
    return form


def read_bytes(path: Path, limits: Limits = LIMITS) -> bytes:
    """Return a file's content. Raises MediaError if it cannot be read or is larger than allowed."""
    if not path.exists():
        raise MediaError(str(path), "does not exist", "check the path")
    if not path.is_file():
        raise MediaError(str(path), "is not a file", "give a file")
    check_bytes(str(path), path.stat().st_size, limits)
    try:
        return path.read_bytes()
    except OSError as error:
        raise MediaError(
            str(path), f"cannot be opened ({error.strerror})", "check who may read it"
        ) from None
