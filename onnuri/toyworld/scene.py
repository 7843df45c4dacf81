"""This module defines scenes of one to three solids with colour, size, motion and place, samples
them from seeds, and says which are held out of training.

It knows nothing of how a scene looks, sounds or reads: the sibling files render it. World units:
the cube [-1, 1]³, x to the right, y away from the viewer, z up. Everything follows from a seed.

Held-out compositions (about 8 % of each kind of pair) never occur in training, in any modality;
`HELD_OUT` lists them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
from typing import Any, Literal

import numpy as np

SOLIDS = (
    "sphere",
    "cube",
    "cylinder",
    "cone",
    "torus",
    "star",
    "cross",
    "capsule",
    "octahedron",
    "arch",
)
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.08, 0.10),
    "orange": (1.00, 0.48, 0.02),
    "yellow": (0.98, 0.88, 0.08),
    "green": (0.08, 0.60, 0.14),
    "cyan": (0.10, 0.82, 0.88),
    "blue": (0.10, 0.20, 0.88),
    "purple": (0.50, 0.10, 0.70),
    "pink": (1.00, 0.48, 0.72),
    "white": (0.97, 0.97, 0.97),
    "black": (0.07, 0.07, 0.07),
}
"""albedo RGB in [0, 1], in display space"""
SIZES: dict[str, float] = {"small": 0.150, "medium": 0.210, "large": 0.290}
"""radius in world units; neighbours differ by a factor of at least 1.38, the camera's zoom by 1.05
at most"""
MOTIONS = ("still", "left", "right", "rise", "sink", "circle", "bounce", "grow", "shrink")
RELATIONS = ("left_of", "right_of", "above", "below")
INVERSE = {"left_of": "right_of", "right_of": "left_of", "above": "below", "below": "above"}
BACKGROUNDS = 8
SECONDS = 2.0
"""a video's duration: 17 frames at 8 per second"""
REACH = 1.15
"""a solid of radius r stays within r · REACH of its centre on the screen, whatever its pose"""

Split = Literal["train", "seen", "held_out"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """A Traits holds what a description states of one object; None where it states nothing."""

    solid: str | None = None
    color: str | None = None
    size: str | None = None
    motion: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """A Description holds what a modality states of a scene: objects, and relations (subject,
    relation, object) between their indices."""

    things: tuple[Traits, ...]
    relations: frozenset[tuple[int, str, int]] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thing:
    """A Thing is one object of a scene. `x`, `y`, `z` are its centre at time 0; `yaw` is its angle
    in radians about the vertical."""

    solid: str
    color: str
    size: str
    motion: str
    x: float
    z: float
    y: float = 0.0
    yaw: float = 0.0

    @property
    def radius(self) -> float:
        """Return the radius in world units."""
        return SIZES[self.size]

    def place(self, seconds: float) -> tuple[float, float, float]:
        """Return the offset (dx, dz) from the start in world units and the scale factor at a time
        in [0, SECONDS]."""
        return motion_path(self.motion, seconds)

    def box(self) -> tuple[float, float, float, float]:
        """Return the bounds (x0, z0, x1, z1) in world units that hold the object during the whole
        video."""
        left, down, right, up = _extent(self.motion, self.radius * REACH)
        return self.x + left, self.z + down, self.x + right, self.z + up


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """A Scene holds objects in the order in which captions name them, and the properties of the
    view that no caption names (background, camera, light)."""

    things: tuple[Thing, ...]
    stated: tuple[tuple[int, str, int], ...] = ()
    """relations that a caption states: thing k + 1 to an earlier one, or an earlier one to it"""
    background: int = 0
    elevation: float = 0.25
    """the camera's angle above the horizon in radians"""
    azimuth: float = 0.0
    zoom: float = 1.0
    light: tuple[float, float] = (-0.6, 0.8)
    """azimuth and elevation of the light, radians"""
    seed: int = 0

    def relations(self) -> frozenset[tuple[int, str, int]]:
        """Return the relation of every ordered pair of objects as (subject, relation, object),
        stated in the caption or not."""
        return frozenset(
            (i, r, j)
            for i, j in itertools.permutations(range(len(self.things)), 2)
            if (
                r := relation(
                    self.things[i].x - self.things[j].x, self.things[i].z - self.things[j].z
                )
            )
        )

    def description(self) -> Description:
        """Return all that is true of the scene."""
        return Description(
            things=tuple(
                Traits(solid=t.solid, color=t.color, size=t.size, motion=t.motion)
                for t in self.things
            ),
            relations=self.relations(),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
    """An Edit changes one attribute (solid, color, size or motion) of one object."""

    index: int
    attribute: str
    value: str

    def apply(self, scene: Scene) -> Scene:
        """Return the scene after the edit."""
        things = list(scene.things)
        change: dict[str, Any] = {self.attribute: self.value}
        things[self.index] = dataclasses.replace(things[self.index], **change)
        return dataclasses.replace(scene, things=tuple(things))


@functools.cache
def _extent(motion: str, reach: float) -> tuple[float, float, float, float]:
    """Return the bounds (left, down, right, up) of a moving thing of radius `reach` about its
    place, in world units."""
    places = [motion_path(motion, t) for t in np.linspace(0.0, SECONDS, 33)]
    return (
        min(dx - reach * s for dx, _, s in places),
        min(dz - reach * s for _, dz, s in places),
        max(dx + reach * s for dx, _, s in places),
        max(dz + reach * s for _, dz, s in places),
    )


def motion_path(motion: str, seconds: float) -> tuple[float, float, float]:
    """Return the offset (dx, dz) in world units and the scale factor of a motion at a time in [0,
    SECONDS]; (0, 0, 1) at time 0."""
    u = seconds / SECONDS
    if motion == "circle":
        return 0.16 * (math.cos(2 * math.pi * u) - 1.0), 0.16 * math.sin(2 * math.pi * u), 1.0
    if motion == "bounce":
        return 0.0, 0.30 * abs(math.sin(2 * math.pi * u)), 1.0
    dx = {"left": -0.40, "right": 0.40}.get(motion, 0.0) * u
    dz = {"rise": 0.40, "sink": -0.40}.get(motion, 0.0) * u
    return dx, dz, 1.0 + {"grow": 0.5, "shrink": -0.4}.get(motion, 0.0) * u


def relation(dx: float, dz: float, dominance: float = 1.0) -> str | None:
    """Return the relation of an object at offset (dx, dz) from another; None unless one axis
    exceeds the other by the factor `dominance`."""
    if abs(dx) > dominance * abs(dz):
        return "right_of" if dx > 0 else "left_of"
    if abs(dz) > dominance * abs(dx):
        return "above" if dz > 0 else "below"
    return None


_SALT = "onnuri-0"
"""chosen so that the README's first sentence is a composition of training"""


def _fixed_share(
    kind: str, candidates: list[tuple[str, ...]], share: float
) -> set[tuple[str, ...]]:
    """Return a fixed share of the candidates, those whose names have the lowest hashes, so that
    every run picks the same."""
    ranked = sorted(
        candidates, key=lambda c: hashlib.sha256("|".join((_SALT, kind, *c)).encode()).hexdigest()
    )
    return set(ranked[: round(share * len(candidates))])


def _held_out() -> frozenset[tuple[str, ...]]:
    """Return the compositions that are held out of training, as `HELD_OUT` describes them."""
    pairs = {
        ("color", *c) for c in _fixed_share("color", list(itertools.product(SOLIDS, COLORS)), 0.08)
    }
    moving = [m for m in MOTIONS if m != "still"]
    motions = {
        ("motion", *c)
        for c in _fixed_share("motion", list(itertools.product(SOLIDS, moving)), 0.08)
    }
    # a relation and its inverse are one composition: both ways of saying it are held out
    picked = _fixed_share(
        "relation", list(itertools.product(("left_of", "above"), SOLIDS, SOLIDS)), 0.08
    )
    relations = {("relation", r, a, b) for r, a, b in picked} | {
        ("relation", INVERSE[r], b, a) for r, a, b in picked
    }
    return frozenset(pairs | motions | relations)


HELD_OUT: frozenset[tuple[str, ...]] = _held_out()
"""("color", solid, color), ("motion", solid, motion) and ("relation", relation, solid, solid)
that training never contains"""


def compositions(description: Description) -> set[tuple[str, ...]]:
    """Return every composition that a description contains, of the kinds that `HELD_OUT` lists."""
    pairs: set[tuple[str, ...]] = set()
    for t in description.things:
        if t.solid and t.color:
            pairs.add(("color", t.solid, t.color))
        if t.solid and t.motion and t.motion != "still":
            pairs.add(("motion", t.solid, t.motion))
    for i, r, j in description.relations:
        a, b = description.things[i].solid, description.things[j].solid
        if a and b:
            pairs.add(("relation", r, a, b))
    return pairs


def held_out(scene: Scene) -> set[tuple[str, ...]]:
    """Return the held-out compositions that a scene contains; empty for a scene of training."""
    return compositions(scene.description()) & HELD_OUT


def fits(scene: Scene) -> bool:
    """Return whether all objects stay in view, no two are alike, none ever touch, and the relation
    of every pair is clear."""
    boxes = [t.box() for t in scene.things]
    # "the red sphere" must name one thing
    if len({(t.solid, t.color) for t in scene.things}) < len(boxes):
        return False
    if any(min(b[0], b[1]) < -0.96 or max(b[2], b[3]) > 0.96 for b in boxes):
        return False
    for (i, a), (j, b) in itertools.combinations(enumerate(boxes), 2):
        if min(a[2], b[2]) - max(a[0], b[0]) > -0.07 and min(a[3], b[3]) - max(a[1], b[1]) > -0.07:
            return False
        one, two = scene.things[i], scene.things[j]
        if relation(one.x - two.x, one.z - two.z, dominance=1.5) is None:
            return False
    return True


def generator(split: Split, seed: int) -> np.random.Generator:
    """Return the random generator of a split and seed. Training and tests have separate streams,
    whatever their seeds."""
    return np.random.default_rng(
        [0 if split == "train" else 1, 0 if split != "held_out" else 1, seed]
    )


def sample_scene(seed: int, split: Split = "train", objects: int | None = None) -> Scene:
    """Return the scene of a seed, of `objects` objects or a random number of them. Scenes of
    `train` and `seen` hold no held-out composition, those of `held_out` at least one."""
    rng = generator(split, seed)
    count = objects or int(rng.choice([1, 2, 3], p=[0.35, 0.40, 0.25]))
    while True:
        scene = _random_scene(rng, count, seed)
        if scene is not None and bool(held_out(scene)) == (split == "held_out"):
            return scene


def _random_scene(rng: np.random.Generator, count: int, seed: int) -> Scene | None:
    """Return a random scene of `count` objects: attributes are drawn once, then places until they
    fit; None after 60 tries."""
    traits = [
        (
            str(rng.choice(SOLIDS)),
            str(rng.choice(list(COLORS))),
            str(rng.choice(list(SIZES))),
            str(rng.choice(MOTIONS[1:])) if rng.random() < 0.5 else "still",
        )
        for _ in range(count)
    ]
    view = dict(
        background=int(rng.integers(BACKGROUNDS)),
        elevation=float(rng.uniform(0.12, 0.36)),
        azimuth=float(rng.uniform(-0.15, 0.15)),
        zoom=float(rng.uniform(0.95, 1.05)),
        light=(float(rng.uniform(-0.9, 0.9)), float(rng.uniform(0.5, 1.1))),
        seed=seed,
    )
    yaws = rng.uniform(-0.4, 0.4, count)
    for _ in range(60):
        spots = rng.uniform(-0.8, 0.8, (count, 2))
        things = tuple(
            Thing(solid=s, color=c, size=z, motion=m, x=float(p[0]), z=float(p[1]), yaw=float(w))
            for (s, c, z, m), p, w in zip(traits, spots, yaws, strict=True)
        )
        scene = Scene(things=things, **view)  # type: ignore[arg-type]
        if fits(scene):
            return dataclasses.replace(scene, stated=_stated_relations(rng, scene))
    return None


def _stated_relations(rng: np.random.Generator, scene: Scene) -> tuple[tuple[int, str, int], ...]:
    """Return the relations that a caption states: for every object after the first, one to an
    earlier object, in a random direction."""
    relations = []
    for k in range(1, len(scene.things)):
        other = int(rng.integers(k))
        i, j = (k, other) if rng.random() < 0.5 else (other, k)
        relations.append(next((a, r, b) for a, r, b in scene.relations() if (a, b) == (i, j)))
    return tuple(relations)


def sample_edit(
    rng: np.random.Generator, scene: Scene, allow_motion: bool, split: Split = "train"
) -> Edit | None:
    """Return a random edit after which the scene still fits; None after 40 tries. In `train` and
    `seen` it makes no held-out composition; without `allow_motion` it changes no motion."""
    values = {"solid": SOLIDS, "color": tuple(COLORS), "size": tuple(SIZES), "motion": MOTIONS}
    for _ in range(40):
        index = int(rng.integers(len(scene.things)))
        attribute = str(
            rng.choice(
                ["solid", "color", "size", "motion"] if allow_motion else ["solid", "color", "size"]
            )
        )
        value = str(rng.choice(values[attribute]))
        edit = Edit(index=index, attribute=attribute, value=value)
        edited_scene = edit.apply(scene)
        if (
            value != getattr(scene.things[index], attribute)
            and fits(edited_scene)
            and (split == "held_out" or not held_out(edited_scene))
        ):
            return edit
    return None
