import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.toyworld.scene import (
    COLORS,
    HELD_OUT,
    INVERSE,
    MOTIONS,
    REACH,
    SECONDS,
    SIZES,
    SOLIDS,
    Thing,
    fits,
    generator,
    held_out,
    motion_path,
    relation,
    sample_edit,
    sample_scene,
)

SEEDS = st.integers(0, 2**40)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_a_box_holds_a_thing_at_every_time_and_is_no_larger(motion, size):
    """Against the motion's path at ten times as many times; a turning point between two of the
    box's is missed by little."""
    thing = Thing(solid="cube", color="red", size=size, motion=motion, x=0.3, z=-0.2)
    places = [motion_path(motion, t) for t in np.linspace(0, SECONDS, 321)]
    reach = np.array([SIZES[size] * REACH * scale for _, _, scale in places])
    right, up = (
        np.array([place[k] for place in places]) + start for k, start in enumerate((0.3, -0.2))
    )
    wanted = [(right - reach).min(), (up - reach).min(), (right + reach).max(), (up + reach).max()]
    assert thing.box() == pytest.approx(wanted, abs=2e-3)


def test_vocabulary_of_the_world_is_as_large_as_promised():
    assert (
        len(SOLIDS) >= 8
        and len(COLORS) >= 10
        and len(SIZES) == 3
        and len(MOTIONS) >= 7
        and "still" in MOTIONS
    )
    radii = sorted(SIZES.values())
    assert all(
        b / a > 1.05**2 * 1.2 for a, b in itertools.pairwise(radii)
    )  # bins stay apart under the zoom


def test_about_eight_percent_of_every_kind_is_held_out():
    kinds = {k: [h for h in HELD_OUT if h[0] == k] for k in ("color", "motion", "relation")}
    assert len(kinds["color"]) / (len(SOLIDS) * len(COLORS)) == pytest.approx(0.08, abs=0.01)
    assert len(kinds["motion"]) / (len(SOLIDS) * (len(MOTIONS) - 1)) == pytest.approx(
        0.08, abs=0.02
    )
    assert len(kinds["relation"]) / (4 * len(SOLIDS) ** 2) == pytest.approx(0.08, abs=0.01)
    assert all(("relation", INVERSE[r], b, a) in HELD_OUT for _, r, a, b in kinds["relation"])


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_training_scenes_hold_nothing_held_out_and_fit(seed):
    scene = sample_scene(seed)
    assert not held_out(scene) and fits(scene) and 1 <= len(scene.things) <= 3
    assert len(scene.stated) == len(scene.things) - 1 and set(scene.stated) <= scene.relations()


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_edits_of_training_make_no_held_out_composition(seed):
    scene = sample_scene(seed)
    edit = sample_edit(np.random.default_rng(seed), scene, allow_motion=True)
    if edit:
        after = edit.apply(scene)
        assert fits(after) and not held_out(after) and after != scene


def test_scenes_are_deterministic_and_splits_are_apart():
    assert sample_scene(5) == sample_scene(5)
    assert all(held_out(sample_scene(k, "held_out")) for k in range(20))
    assert not any(held_out(sample_scene(k, "seen")) for k in range(20))
    draws = {
        s: tuple(generator(s, 3).integers(2**60, size=4)) for s in ("train", "seen", "held_out")
    }
    assert len(set(draws.values())) == 3


def test_no_test_scene_is_a_training_scene():
    bare = {dataclasses.replace(sample_scene(k), seed=0) for k in range(100)}
    assert not bare & {dataclasses.replace(sample_scene(k, "seen"), seed=0) for k in range(100)}


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions_start_at_rest_position(motion):
    assert motion_path(motion, 0.0) == pytest.approx((0, 0, 1))
    moved = [motion_path(motion, t) for t in np.linspace(0, SECONDS, 9)]
    assert (motion == "still") == all(p == pytest.approx((0, 0, 1)) for p in moved)


def test_relation_is_antisymmetric():
    for dx, dz in [(0.5, 0.1), (-0.4, 0.2), (0.1, 0.6), (0.2, -0.9)]:
        assert INVERSE[relation(dx, dz)] == relation(-dx, -dz)
