"""This module holds the settings of `onnuri data ingest`, and imports nothing slow."""

from __future__ import annotations

from typing import Literal

from onnuri.config import Config


class IngestConfig(Config):
    """An IngestConfig says what is let in, and what is said of it."""

    licence: Literal["any", "permissive"] = "any"
    """permissive: only works whose stated licence lets anyone use and change them (docs/data.md has
    the list); the others are in rejected.jsonl"""
    source: str | None = None
    """name of PATH in the table, under which a second run goes on; the last part of PATH without
    it"""
    stated_licence: str | None = None
    """licence of every item that names none, such as CC0-1.0"""
    stated_credit: str | None = None
    """credit of every item that names none"""
    near_duplicates: Literal["merge", "keep"] = "merge"
    """merge: a picture or sound that is nearly the same as an earlier one is taken for it, and a
    text that is nearly the same is left out"""
    workers: int | None = None
    """processes that decode; as many as CPU cores without it; 0: none of their own"""
