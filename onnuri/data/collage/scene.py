"""This module says what a collage shows, and draws random scenes of some concepts. It knows no
pixels and no words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np

T = TypeVar("T")
Kind = Literal["one", "two", "count", "many"]
Size = Literal["small", "large"]
Tint = Literal["red", "green", "blue", "gray"]
Place = Literal["left", "right", "top", "bottom"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIZES: tuple[Size, ...] = get_args(Size)
TINTS: tuple[Tint, ...] = get_args(Tint)
PLACES: tuple[Place, ...] = get_args(Place)
RELATIONS: tuple[Place, ...] = ("left", "top")
"""places of the first of two things, as seen from the second: a sentence may tell them the other
way round, a scene does not"""
SHARES = {"one": 0.4, "two": 0.4, "count": 0.1, "many": 0.1}
"""shares of kinds of scenes"""
SIZED, TINTED, PLACED, OF_TWO_TINTED = 0.5, 0.25, 0.35, 0.15
"""shares of lone things with a size, a tint and a place that is told; of things of a pair with a
tint"""


class CollageThing(NamedTuple):
    """A CollageThing is one thing of a scene, or several that are alike."""

    concept: str
    size: Size | None = None
    tint: Tint | None = None
    """a colour that it is given, instead of its own"""


class CollageScene(NamedTuple):
    """A CollageScene says what a collage shows."""

    kind: Kind
    """one: a thing alone; two: a pair and how it stands; count: two to four alike; many: three or
    four things in rows"""
    things: tuple[CollageThing, ...]
    """of a pair the left or the upper one first, of many in reading order"""
    place: Place | None = None
    """of a lone thing, None for the middle; of a pair's first thing ("left" or "top")"""
    number: int = 1
    """how many there are of a thing, where they are alike"""


def sample_scene(concepts: Sequence[str], rng: np.random.Generator) -> CollageScene:
    """Return a random scene of some concepts, of which there are four at least."""
    kind = KINDS[int(rng.choice(len(KINDS), p=[SHARES[kind] for kind in KINDS]))]
    if kind == "one":
        size, tint = _maybe(rng, SIZES, SIZED), _maybe(rng, TINTS, TINTED)
        place = _maybe(rng, PLACES, PLACED)
        (concept,) = _some(concepts, 1, rng)
        return CollageScene(kind, (CollageThing(concept, size, tint),), place)
    if kind == "two":
        things = [
            CollageThing(concept, None, _maybe(rng, TINTS, OF_TWO_TINTED))
            for concept in _some(concepts, 2, rng)
        ]
        return CollageScene(kind, tuple(things), RELATIONS[int(rng.integers(2))])
    if kind == "count":
        tint = _maybe(rng, TINTS, OF_TWO_TINTED)
        (concept,) = _some(concepts, 1, rng)
        return CollageScene(
            kind, (CollageThing(concept, None, tint),), None, int(rng.integers(2, 5))
        )
    chosen = _some(concepts, int(rng.integers(3, 5)), rng)
    return CollageScene(kind, tuple(CollageThing(concept) for concept in chosen))


def _some(concepts: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Return different concepts."""
    return [concepts[int(k)] for k in rng.choice(len(concepts), count, replace=False)]


def _maybe(rng: np.random.Generator, options: Sequence[T], share: float) -> T | None:
    """Return one of some options in a share of calls, else None."""
    return options[int(rng.integers(len(options)))] if rng.random() < share else None
