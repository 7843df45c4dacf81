"""How what was seen is held against what was asked: attributes right, of those that source and
target both carry.

Knows no modality's analysis. Objects are matched by best assignment; a missing or extra object makes
all its attributes wrong. A relation is right if the target states it of the matched objects, either
way round.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from onnuri.toyworld.attributes import ATTRIBUTES, Attribute
from onnuri.toyworld.scene import INVERSE, Description, Traits

OF_THING: tuple[Attribute, ...] = ("solid", "color", "size", "motion")


_TIES = {"solid": 0.01, "color": 0.02}
"""what decides between assignments that are equally good, also where these attributes are not asked
for"""


@dataclasses.dataclass(frozen=True)
class Score:
    """Attributes right and asked, by name."""

    right: dict[str, int]
    asked: dict[str, int]

    @property
    def attributes(self) -> tuple[int, int]:
        return sum(self.right.values()), sum(self.asked.values())

    @property
    def scene(self) -> bool:
        """Everything right."""
        return self.right == self.asked


def score(
    expected: Description,
    seen: Description | None,
    attributes: frozenset[Attribute],
    stated: frozenset[tuple[int, str, int]] | None = None,
) -> Score:
    """Hold `seen` against `expected` on some attributes.

    `stated`: the relations asked for, one way round. Without it the target chooses which to state,
    as a sentence does: one for every object after the first is asked for, and counted right if it
    is true.
    """
    asked: dict[str, int] = {a: 0 for a in ATTRIBUTES if a in attributes}
    right = dict(asked)
    of_thing = [a for a in OF_THING if a in attributes]
    for thing in expected.things:
        for a in of_thing:
            asked[a] += getattr(thing, a) is not None
    found = list(seen.things) if seen else []
    pairs = match(expected.things, found, of_thing)
    for i, j in pairs.items():
        for a in of_thing:
            want = getattr(expected.things[i], a)
            right[a] += want is not None and getattr(found[j], a) == want
    for _ in range(
        len(found) - len(expected.things)
    ):  # an extra object: all its attributes are wrong
        for a in of_thing:
            asked[a] += 1
    if "relation" in attributes:
        asked["relation"], right["relation"] = _relations(expected, seen, pairs, stated)
    return Score(right, asked)


def match(
    expected: tuple[Traits, ...], found: list[Traits], attributes: list[Attribute]
) -> dict[int, int]:
    """Expected index → found index, with most attributes equal in all; colour and solid decide
    ties."""
    if not found or not expected:
        return {}
    gain = np.array(
        [
            [
                sum(getattr(e, a) == getattr(f, a) for a in attributes)
                + sum(tie for a, tie in _TIES.items() if getattr(e, a) == getattr(f, a))
                for f in found
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
    """(asked, right)."""
    if stated is not None:
        if not seen:
            return len(stated), 0
        return len(stated), sum(
            i in pairs and j in pairs and (pairs[i], r, pairs[j]) in seen.relations
            for i, r, j in stated
        )
    wanted = len(expected.things) - 1
    if not seen or wanted <= 0:
        return max(wanted, 0), 0
    back = {j: i for i, j in pairs.items()}
    said = {(i, r, j) for i, r, j in seen.relations if i < j} | {
        (j, INVERSE[r], i) for i, r, j in seen.relations if j < i
    }
    true = sum(
        i in back and j in back and (back[i], r, back[j]) in expected.relations for i, r, j in said
    )
    return max(wanted, len(said)), min(true, max(wanted, len(said)))
