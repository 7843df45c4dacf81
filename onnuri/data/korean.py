"""This module writes the Korean particles whose form follows from the word before them."""

from __future__ import annotations


def object_particle(word: str) -> str:
    """Return the particle of an object, 을 or 를, that fits a word's last syllable."""
    return "을" if has_final(word) else "를"


def subject_particle(word: str) -> str:
    """Return the particle of a subject, 이 or 가, that fits a word's last syllable."""
    return "이" if has_final(word) else "가"


def has_final(word: str) -> bool:
    """Return whether a word's last syllable is a Korean one that ends in a consonant."""
    last = word[-1:]
    # syllables are ordered by their last consonant, of which there are 28 with none
    return "가" <= last <= "힣" and bool((ord(last) - ord("가")) % 28)
