"""This module draws vector pictures (SVG) as pixels, for ingestion alone: the server reads none.

It needs resvg (the extra `data`). What a drawing names outside itself is not read: resvg would open
any path of this machine. Texts need fonts, which differ between machines, so they are left out.
"""

from __future__ import annotations

import re

from onnuri.errors import DependencyError, MediaError

NAME = "SVG"
"""name of the format, as `formats.sniff` has it"""
SIDE = 256
"""longest side of a drawing, in pixels"""
_IMAGE = re.compile(r"<(?:[\w.-]+:)?(?:image|feImage)\b[^>]*", re.IGNORECASE)
_LINK = re.compile(r"""href\s*=\s*(["'])\s*(?!data:|#)""", re.IGNORECASE)
_ENTITY = re.compile(r"""<!ENTITY\s[^>]*?(["'])(?:(?!\1).)*[<&]""", re.DOTALL)
"""an entity whose text may become an element where `_IMAGE` does not see it"""


def draw(data: bytes, name: str, side: int = SIDE) -> bytes:
    """Return an SVG as a PNG with alpha, of which the longest side has `side` pixels.

    Raises MediaError for a drawing that is damaged, names other files, or shows nothing, and
    DependencyError without resvg.
    """
    try:
        import resvg_py
    except ImportError:
        raise DependencyError(
            "resvg_py", "is needed to draw SVG", "pip install 'onnuri[data]'"
        ) from None
    try:
        words = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MediaError(
            name, "is an SVG that is not UTF-8", "save it as UTF-8", code="damaged_file"
        ) from None
    if _ENTITY.search(words) or any(_LINK.search(tag) for tag in _IMAGE.findall(words)):
        raise MediaError(
            name, "is an SVG that names other files", "embed its pictures", code="outside"
        )
    try:
        drawn = resvg_py.svg_to_bytes(
            svg_string=words, width=side, height=side, skip_system_fonts=True
        )
    except ValueError as error:
        raise MediaError(
            name, f"is an SVG that cannot be drawn ({error})", "save it anew", code="damaged_file"
        ) from None
    return bytes(drawn)
