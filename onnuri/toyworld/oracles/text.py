"""The oracle of text: the world's grammar. A sentence that it does not read is wrong."""

from __future__ import annotations

from onnuri.toyworld.grammar import parse
from onnuri.toyworld.scene import Description


def observe(text: str) -> Description | None:
    """What a sentence states; None where it is not of the grammar."""
    return parse(text)


def same_answer(expected: str, given: str) -> bool:
    """Whether two short answers are the same words."""
    return expected.strip(" .").lower() == given.strip(" .").lower()
