"""This module lists the five modalities: their files, and the sizes of their arrays.

It knows nothing of networks. What a modality's codes look like is in its codec's spec
(`codecs/spec.py`), not here.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Modality = Literal["text", "image", "audio", "video", "shape"]
MEDIA: tuple[Modality, ...] = ("text", "image", "audio", "video", "shape")
Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")
LANGUAGE_TOKENS = {"ko": "<|ko|>", "en": "<|en|>"}
"""special token of each language: the first token inside a text or audio segment"""


def language_of(sentence: str) -> Language:
    """Return "ko" if a sentence has any Hangul syllable, else "en"."""
    return "ko" if any("가" <= c <= "힣" for c in sentence) else "en"


def fold(sentence: str) -> str:
    """Return a sentence in small letters, with single spaces."""
    return " ".join(sentence.casefold().split())


Task = Literal["describe", "answer", "edit", "translate", "transcribe"]
TASKS: tuple[Task, ...] = ("describe", "answer", "edit", "translate", "transcribe")
"""tasks, each with a token before the answer that says what is asked if the inputs alone do not"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModalityInfo:
    """A ModalityInfo holds one modality's file name endings and media type."""

    name: Modality
    suffixes: tuple[str, ...]
    """file name endings that are read and written, the default first"""
    media_type: str
    """the default's media type (RFC 6838)"""


TABLE: dict[Modality, ModalityInfo] = {
    m.name: m
    for m in (
        ModalityInfo(name="text", suffixes=(".txt",), media_type="text/plain"),
        ModalityInfo(
            name="image", suffixes=(".png", ".jpg", ".jpeg", ".webp"), media_type="image/png"
        ),
        ModalityInfo(
            name="audio",
            suffixes=(".wav", ".flac", ".mp3", ".ogg", ".opus"),
            media_type="audio/wav",
        ),
        ModalityInfo(name="video", suffixes=(".mp4", ".webm", ".gif"), media_type="video/mp4"),
        ModalityInfo(
            name="shape", suffixes=(".glb", ".obj", ".ply", ".stl"), media_type="model/gltf-binary"
        ),
    )
}

HEARD_SECONDS = 15.36
"""longest sound that is read: the model hears no more, and a sentence must not be cut in half"""
IMAGE_SIZE = 128
"""height and width of a picture for the model, in pixels"""
VIDEO_FRAMES = 17
VIDEO_FPS = 8
AUDIO_HZ = 16_000
VOXELS = 64
"""voxels per side of a shape's cube, which spans [-1, 1]³"""
