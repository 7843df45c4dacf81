"""This module scores an observed scene against the expected one: the number of attributes right, of
those that source and target can both show.

It knows no modality's analysis. Objects are matched by best assignment; a missing or extra object
makes all its attributes wrong. A relation is right if the target states it of the matched objects,
in either direction.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from onnuri.toyworld.attributes import ATTRIBUTES, Attribute
from onnuri.toyworld.scene import INVERSE, Description, Traits

OF_THING: tuple[Attribute, ...] = ("solid", "color", "size", "motion")


_TIES = {"solid": 0.01, "color": 0.02}
"""bonus of equal attributes, which decides between assignments that are equally good, also where
these attributes are not scored"""


@dataclasses.dataclass(frozen=True)
class Score:
    """A Score holds the numbers of attributes right and asked for, by attribute."""

    right: dict[str, int]
    asked: dict[str, int]

    @property
    def attributes(self) -> tuple[int, int]:
        """Return the numbers of attributes right and asked for, over all attributes."""
        return sum(self.right.values()), sum(self.asked.values())

    @property
    def scene(self) -> bool:
        """Return whether the whole scene is right."""
        return self.right == self.asked


def score(
    expected: Description,
    seen: Description | None,
    attributes: frozenset[Attribute],
    stated: frozenset[tuple[int, str, int]] | None = None,
) -> Score:
    """Return the score of an observed scene (`seen`) against the expected one, on some attributes.

    `stated` are the relations asked for, each in one direction. Without it the target chooses which
    relations to state, as a sentence does: one is asked for per object after the first, and it is
    right if it is true.
    """
    asked: dict[str, int] = {a: 0 for a in ATTRIBUTES if a in attributes}
    right = dict(asked)
    of_thing = [a for a in OF_THING if a in attributes]
    for thing in expected.things:
        for a in of_thing:
            asked[a] += getattr(thing, a) is not None
    things_seen = list(seen.things) if seen else []
    pairs = match(expected.things, things_seen, of_thing)
    for i, j in pairs.items():
        for a in of_thing:
            value = getattr(expected.things[i], a)
            right[a] += value is not None and getattr(things_seen[j], a) == value
    for _ in range(
        len(things_seen) - len(expected.things)
    ):  # an extra object: all its attributes are wrong
        for a in of_thing:
            asked[a] += 1
    if "relation" in attributes:
        asked["relation"], right["relation"] = _relations(expected, seen, pairs, stated)
    return Score(right, asked)


def match(
    expected: tuple[Traits, ...], things_seen: list[Traits], attributes: list[Attribute]
) -> dict[int, int]:
    """Return the index of the matched object for each expected index, so that the most attributes
    are equal in all; colour and solid decide ties."""
    if not things_seen or not expected:
        return {}
    gain = np.array(
        [
            [
                sum(getattr(e, a) == getattr(f, a) for a in attributes)
                + sum(tie for a, tie in _TIES.items() if getattr(e, a) == getattr(f, a))
                for f in things_seen
            ]
            for e in expected
        ]
    )
    return {int(i): int(j) for i, j in zip(*linear_sum_assignment(-gain))}


def _relations(
    expected: Description,
    seen: Description | None,
    pairs: dict[int, int],
    stated: frozenset[tuple[int, str, int]] | None,
) -> tuple[int, int]:
    """Return the numbers of relations asked for and right."""
    if stated is not None:
        if not seen:
            return len(stated), 0
        return len(stated), sum(
            i in pairs and j in pairs and (pairs[i], r, pairs[j]) in seen.relations
            for i, r, j in stated
        )
    count = len(expected.things) - 1
    if not seen or count <= 0:
        return max(count, 0), 0
    back = {j: i for i, j in pairs.items()}
    relations_seen = {(i, r, j) for i, r, j in seen.relations if i < j} | {
        (j, INVERSE[r], i) for i, r, j in seen.relations if j < i
    }
    true_count = sum(
        i in back and j in back and (back[i], r, back[j]) in expected.relations
        for i, r, j in relations_seen
    )
    return max(count, len(relations_seen)), min(true_count, max(count, len(relations_seen)))
