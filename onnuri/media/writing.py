"""This module is the one way out of media files: it writes a modality's array in the format of a
name's ending, and refuses an answer without content.

The modality's module encodes; the module itself knows no encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnuri.errors import MediaError
from onnuri.files import write_bytes
from onnuri.media import audio, image, mesh, text, video
from onnuri.modality import TABLE

_ENCODERS: dict[str, Callable[[Any, str], bytes]] = {
    **dict.fromkeys(image.ENCODERS, image.picture_bytes),
    **dict.fromkeys([*audio.CODINGS, ".aac"], audio.sound_bytes),
    **dict.fromkeys([*video.ENCODERS, ".gif"], video.movie_bytes),
    **dict.fromkeys(TABLE["shape"].suffixes, mesh.mesh_bytes),
}
"""functions that turn an array and an ending into a file's bytes, by ending"""


def write(item: Any, path: Path) -> None:
    """Write a modality's array to a file in the format of its ending. Raises MediaError."""
    write_bytes(to_bytes(item, path.suffix.lower()), path)


def to_bytes(item: Any, suffix: str) -> bytes:
    """Return a modality's array as a file's bytes in the format of an ending. Raises MediaError for
    an unknown one."""
    if isinstance(item, str):
        return text.text_bytes(item)
    if suffix in _ENCODERS:
        return _ENCODERS[suffix](item, suffix)
    raise MediaError(
        f"{suffix!r}",
        "is not a format that is written",
        "use one of " + ", ".join(s for m in TABLE.values() for s in m.suffixes),
    )


def check_answer(item: Any, modality: str) -> None:
    """Raise MediaError for an answer without content: silence, a plain colour, no surface."""
    is_empty = {
        "text": lambda: not item.strip(),
        "image": lambda: image.is_plain(item),
        "audio": lambda: audio.is_silent(item),
        "video": lambda: all(image.is_plain(frame) for frame in item[::4]),
        "shape": lambda: item[..., 3].max() < 128,
    }
    lacks = {
        "text": "no words",
        "image": "nothing to be seen in it",
        "audio": "nothing to be heard in it",
        "video": "nothing to be seen in it",
        "shape": "no surface",
    }
    if is_empty[modality]():
        raise MediaError(
            f"the answer ({modality})",
            f"has {lacks[modality]}",
            "ask for something else or another --seed",
            code="empty_answer",
            modality=modality,
        )
