"""The five media: their files, and the sizes of their arrays.

Knows nothing of networks. What a modality's codes look like, its codec says (`codecs/spec.py`), not
this table.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Modality = Literal["text", "image", "audio", "video", "shape"]
MEDIA: tuple[Modality, ...] = ("text", "image", "audio", "video", "shape")
Language = Literal["ko", "en"]
LANGUAGES: tuple[Language, ...] = ("ko", "en")
LANGUAGE_TOKENS = {"ko": "<|ko|>", "en": "<|en|>"}
"""The first token inside a text or audio segment says its language."""


def language_of(sentence: str) -> Language:
    """Korean if the sentence has any Hangul syllable, else English."""
    return "ko" if any("가" <= c <= "힣" for c in sentence) else "en"


Task = Literal["describe", "answer", "edit", "translate", "transcribe"]
TASKS: tuple[Task, ...] = ("describe", "answer", "edit", "translate", "transcribe")
"""what is asked of a model, where the inputs alone do not say it: a token before the answer"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModalityInfo:
    """One modality's row."""

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
"""of a sound: the model hears no more, and half of a sentence is not what was said"""
IMAGE_SIZE = 128
"""pixels, height and width"""
VIDEO_FRAMES = 17
VIDEO_FPS = 8
AUDIO_HZ = 16_000
VOXELS = 64
"""voxels a side of a shape's cube, which spans [-1, 1]³"""
