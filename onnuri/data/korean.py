"""This module writes the Korean particles whose form follows from the word before them. It knows no
sentence."""

from __future__ import annotations

RIEUL = 8
"""number of ㄹ among a syllable's last consonants"""


def particle(word: str, pair: str) -> str:
    """Return the particle that a word's last syllable asks for; `pair` is "이/가", "은/는", "을/를",
    "와/과" or "으로/로"."""
    first, second = pair.split("/")
    final = final_of(word)
    if pair == "으로/로":
        return first if final not in (0, RIEUL) else second
    if pair == "와/과":
        return second if final else first
    return first if final else second


def final_of(word: str) -> int:
    """Return the number of the consonant that a word's last syllable ends in; 0 of none, and of a
    word that does not end in a Korean syllable (Unicode: syllable = base + 28 v + final)."""
    last = word[-1:]
    return (ord(last) - ord("가")) % 28 if "가" <= last <= "힣" else 0
