"""This module holds the settings of `onnuri data fetch real`, and imports nothing slow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from onnuri.config import Config

Group = Literal["pictures", "skin-tones", "text", "sounds", "animations", "meshes"]


class FetchConfig(Config):
    """A FetchConfig says what is fetched, and where the packages' files are kept."""

    groups: tuple[Group, ...] = ("pictures", "text")
    """pictures: emoji in five styles, stamps, clip art and photographs with names, 222 MB to
    download; text: Korean–English paragraphs of two manuals, 14 MB; skin-tones: the pictures'
    emoji in their skin tones, no further download; sounds, 208 MB, most of it the pictures'
    stamps; animations: Fluent emoji that move, 732 MB; meshes: furniture, 120 MB"""
    archives: Path | None = None
    """folder where the packages' files are kept and looked for, so that files laid there by hand
    are taken; onnuri/real in the user's cache folder without it"""
    any_version: bool = False
    """take packages of other versions too: each of their items counts if its own SHA-256 is the
    manifest's"""
    licence: Literal["any", "permissive"] = "any"
    """permissive: no GPL and no share-alike (docs/data.md has the list); packages of
    nothing else are not downloaded"""
    workers: int | None = None
    """processes that decode; as many as CPU cores without it; 0: none of their own"""
