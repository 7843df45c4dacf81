import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.evaluation.interval import wilson
from onnuri.toyworld.attributes import ATTRIBUTES
from onnuri.toyworld.oracles.score import score
from onnuri.toyworld.scene import Description, Traits, sample_scene

ALL = frozenset(ATTRIBUTES)


def permuted(description: Description, order: list[int]) -> Description:
    place = {old: new for new, old in enumerate(order)}
    return Description(
        things=tuple(description.things[k] for k in order),
        relations=frozenset((place[i], r, place[j]) for i, r, j in description.relations),
    )


@given(st.integers(0, 10**6), st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_truth_in_any_order_is_all_right(seed, random):
    scene = sample_scene(seed)
    order = list(range(len(scene.things)))
    random.shuffle(order)
    seen = permuted(scene.description(), order)
    assert score(scene.description(), seen, ALL, frozenset(scene.stated)).scene
    assert score(scene.description(), seen, ALL).attributes[0] >= 4 * len(order)


@given(st.integers(0, 10**6), st.sampled_from(["solid", "color", "size", "motion"]))
@settings(max_examples=100, deadline=None)
def test_one_wrong_attribute_costs_one(seed, attribute):
    scene = sample_scene(seed)
    things = list(scene.description().things)
    things[0] = dataclasses.replace(things[0], **{attribute: "nothing"})
    seen = dataclasses.replace(scene.description(), things=tuple(things))
    got = score(scene.description(), seen, ALL - {"relation"}, frozenset())
    assert (
        got.asked[attribute] - got.right[attribute] == 1
        and got.attributes[1] - got.attributes[0] == 1
    )


def test_missing_and_extra_objects_make_all_their_attributes_wrong():
    red, blue = (
        Traits(solid="cube", color=c, size="small", motion="still") for c in ("red", "blue")
    )
    both, one = Description(things=(red, blue)), Description(things=(red,))
    some = ALL - {"relation"}
    assert score(both, one, some).attributes == (4, 8)
    assert score(one, both, some).attributes == (4, 8)
    assert score(both, None, some).attributes == (0, 8)
    assert not score(one, both, some).scene


def test_what_is_not_stated_is_not_asked():
    wanted = Description(things=(Traits(solid="cube", color="red"),))
    seen = Description(things=(Traits(solid="cube", color="red", size="large", motion="circle"),))
    assert score(wanted, seen, ALL).attributes == (2, 2)


def test_relations_stated_either_way_round_count_and_wrong_ones_do_not():
    a, b = Traits(solid="cube", color="red"), Traits(solid="star", color="blue")
    true = Description(things=(a, b), relations=frozenset({(0, "left_of", 1), (1, "right_of", 0)}))
    other_way = Description(
        things=(b, a), relations=frozenset({(0, "right_of", 1), (1, "left_of", 0)})
    )
    wrong = Description(things=(a, b), relations=frozenset({(0, "above", 1), (1, "below", 0)}))
    none = Description(things=(a, b))
    only = frozenset({"relation"})
    assert [score(true, d, only).attributes for d in (other_way, wrong, none)] == [
        (1, 1),
        (0, 1),
        (0, 1),
    ]
    assert [
        score(true, d, only, frozenset({(0, "left_of", 1)})).attributes for d in (other_way, wrong)
    ] == [(1, 1), (0, 1)]


def test_wilson_interval_against_published_values():
    # Newcombe 1998, table I: 81 of 263 → 0.2553 to 0.3662
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    low, high = wilson(0, 20)
    assert low == pytest.approx(0, abs=1e-9) and high == pytest.approx(0.1611, abs=1e-4)
    assert np.all(np.diff([wilson(k, 50)[0] for k in range(51)]) > 0)
