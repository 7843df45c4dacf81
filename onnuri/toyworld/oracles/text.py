"""This module is the oracle of text: the world's grammar. A sentence that it cannot parse is
wrong."""

from __future__ import annotations

from onnuri.toyworld.grammar import parse
from onnuri.toyworld.scene import Description


def observe(text: str) -> Description | None:
    """Return the description that a sentence states; None if it is not of the grammar."""
    return parse(text)


def same_answer(expected: str, actual: str) -> bool:
    """Return whether two short answers are the same words."""
    return expected.strip(" .").lower() == actual.strip(" .").lower()
