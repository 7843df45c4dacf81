"""This module holds the words by which people ask for the styles of the real pictures.

A style without a word is one that nobody asks for by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from onnuri.modality import Language

STYLE_WORDS: Mapping[str, Mapping[Language, str]] = MappingProxyType(
    {
        "fluent-3d": {"ko": "3d", "en": "3d"},
        "fluent-flat": {"ko": "플랫", "en": "flat"},
        "noto": {"ko": "노토", "en": "noto"},
        "twemoji": {"ko": "트위터", "en": "twitter"},
        "openmoji": {"ko": "선화", "en": "outline"},
        "clipart": {"ko": "클립아트", "en": "clip art"},
        "tuxpaint": {"ko": "도장", "en": "stamp"},
        "scratch": {"ko": "만화", "en": "cartoon"},
        "scratch-background": {"ko": "배경", "en": "backdrop"},
    }
)
"""a style's word in each language, in small letters"""
