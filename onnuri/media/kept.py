"""This module holds the record of a media file as it is kept: checked, without metadata, in one
form per modality.

It decodes nothing; each modality's module fills it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from onnuri.modality import Modality


class Kept(NamedTuple):
    """A Kept holds what is kept of a media file, and facts about it."""

    modality: Modality
    data: bytes
    """the file's content in the form that is kept: WebP without loss, FLAC, MP4 or WebM with the
    streams as they were, GLB"""
    media_type: str
    """media type of that form (RFC 6838)"""
    format: str
    """name of the format in which the file came"""
    facts: dict[str, Any]
    """width, height (pixels), frames, seconds, hz, channels, faces, alpha, where they apply"""
    array: Any = None
    """what resemblance is judged by: a picture uint8 [H, W, 3 or 4], a sound float32 [T] at 16 kHz;
    None for other modalities"""
