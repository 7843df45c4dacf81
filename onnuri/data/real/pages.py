"""This module finds pairs of a Korean and an English paragraph in two pages of a manual: HTML whose
paragraphs have the same ids (LibreOffice), or Mallard pages of the same structure (GNOME).

It reads no archive and knows no manifest.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import NamedTuple

from onnuri.modality import language_of

BLOCK = re.compile(r'<(p|h[1-6])\s[^>]*?id="([^"]+)"[^>]*>(.*?)</\1>', re.DOTALL)
"""a paragraph or heading with an id"""
MARKUP = re.compile(r"<[^>]*>")
MALLARD_BLOCKS = {"p", "title", "desc"}
"""elements of a Mallard page that hold running text (projectmallard.org/1.0)"""


class Pair(NamedTuple):
    """A Pair is a paragraph in both languages."""

    place: str
    """name of the paragraph within the page"""
    ko: str
    en: str


def pairs(path: str, korean: bytes, english: bytes) -> Iterator[Pair]:
    """Yield the pairs of two pages. A paragraph that is not translated is none."""
    if path.endswith(".page"):
        blocks = _mallard(korean, english)
    else:
        blocks = _html(korean, english)
    for place, ko, en in blocks:
        if ko and en and language_of(ko) == "ko" and language_of(en) == "en":
            yield Pair(place, ko, en)


def _html(korean: bytes, english: bytes) -> Iterator[Pair]:
    """Yield the paragraphs that have the same id in both pages."""
    ours, theirs = _by_id(korean), _by_id(english)
    for place, text in ours.items():
        if place in theirs:
            yield Pair(place, text, theirs[place])


def _by_id(page: bytes) -> dict[str, str]:
    """Return a page's paragraphs by their id; of an id that is there twice the first."""
    found: dict[str, str] = {}
    for match in BLOCK.finditer(page.decode("utf-8", "replace")):
        found.setdefault(match[2], _plain(html.unescape(MARKUP.sub("", match[3]))))
    return found


def _mallard(korean: bytes, english: bytes) -> Iterator[Pair]:
    """Yield the paragraphs of two pages in which the same elements follow each other; of other
    pages none, because nothing tells which belong together."""
    ours, theirs = _blocks(korean), _blocks(english)
    if [name for name, _ in ours] == [name for name, _ in theirs]:
        for number, ((name, ko), (_, en)) in enumerate(zip(ours, theirs, strict=True)):
            yield Pair(f"{number}-{name}", ko, en)


def _blocks(page: bytes) -> list[tuple[str, str]]:
    """Return a Mallard page's elements of running text in their order; none of a damaged page."""
    try:
        root = ET.fromstring(page)
    except ET.ParseError:
        return []
    found = []
    for element in root.iter():
        name = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
        if name in MALLARD_BLOCKS:
            found.append((name, _plain("".join(element.itertext()))))
    return found


def _plain(text: str) -> str:
    """Return text with single blanks."""
    return " ".join(text.split())
