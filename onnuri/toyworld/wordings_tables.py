"""This module holds the tables of people's wordings in both languages (`wordings.json`), and says
which of them are held out of training: a fifth, chosen by hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from onnuri.modality import Language

_TABLES: dict[str, Any] = json.loads(
    Path(__file__).with_name("wordings.json").read_text(encoding="utf-8")
)


FRAMES: dict[Language, dict[str, list[str]]] = _TABLES["frames"]
"""frames around a noun phrase or a clause, by language; around a Korean clause also verb endings"""


BODIES: dict[Language, dict[str, list[str]]] = _TABLES["bodies"]
"""A stands beside B: `r` and `p` are places (`q` the other way round), `its` one of B's, `sa` and
`sb` sides of the picture (`la` and `lb` without an article), `a` and `b` name the things again,
`oa` and `ob` as "the red one\""""


LOOK: dict[Language, list[str]] = _TABLES["look"]
"""requests to describe what is shown"""


QUESTIONS: dict[Language, dict[str, list[str]]] = _TABLES["questions"]


EDITS: dict[Language, dict[str, list[str]]] = _TABLES["edits"]


REQUESTS: dict[str, dict[str, list[str]]] = _TABLES["requests"]
"""parts of a request, by language: any opening goes with any verb, any object and any closing"""


@dataclasses.dataclass(frozen=True, order=True)
class Wording:
    """A Wording is one way of saying a scene."""

    language: Language
    kind: str
    """whether the body is a noun phrase or a clause"""
    frame: str
    body: str

    @property
    def held_out(self) -> bool:
        """Return whether training never uses the wording, since its frame or its body is held
        out."""
        return (self.language, self.frame) in HELD_FRAMES or (
            self.language,
            self.body,
        ) in HELD_BODIES


def rank(name: str) -> str:
    """Return the hash by which wordings are ranked, so that the held-out ones stay the same for
    ever."""
    return hashlib.sha256(f"wording 0|{name}".encode()).hexdigest()


def _lowest(names: list[tuple[Language, str]], share: float) -> frozenset[tuple[Language, str]]:
    """Return a fixed share of the names, those with the lowest hashes, so that every run picks the
    same."""
    return frozenset(sorted(names, key=lambda n: rank("|".join(n)))[: round(share * len(names))])


HELD_FRAMES = _lowest(
    [
        (lang, f)
        for lang, kinds in FRAMES.items()
        for frames in kinds.values()
        for f in frames
        if f != "{}"
    ],
    0.165,
)


HELD_BODIES = _lowest(
    [(lang, b) for lang, kinds in BODIES.items() for bodies in kinds.values() for b in bodies],
    0.055,
)


WORDINGS: tuple[Wording, ...] = tuple(
    Wording(language, kind, frame, body)
    for language, kinds in FRAMES.items()
    for kind, frames in kinds.items()
    for frame in frames
    for body in BODIES[language][kind]
)


def training(options: list[str], held_out: bool) -> list[str]:
    """Return the options that training uses, or with `held_out` the others: a fifth by hash, never
    the first."""
    held = sorted(options[1:], key=rank)[: max(1, round(0.2 * len(options)))]
    return held if held_out else [o for o in options if o not in held]
