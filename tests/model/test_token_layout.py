"""A sequence that is read back is the one that was written, whatever media it chains."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_specs import toy_specs

from onnuri.errors import ConfigError
from onnuri.modality import LANGUAGES, MEDIA
from onnuri.model.token_layout import TokenLayout

LAYOUT = TokenLayout.of(toy_specs(300))


@st.composite
def items(draw):
    """(modality, language or None, codes) as a codec would give them."""
    modality = draw(st.sampled_from(MEDIA))
    spec = LAYOUT.spec(modality)
    if spec.slots:
        return (
            modality,
            None,
            [draw(st.integers(lo, hi - 1)) for lo, hi in spec.slots.position_ranges],
        )
    top = spec.num_codes - 1
    return (
        modality,
        draw(st.sampled_from([None, *LANGUAGES])),
        draw(st.lists(st.integers(0, top), max_size=20)),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(items(), max_size=5))
def test_segments_is_the_inverse_of_segment(given_items):
    ids = [LAYOUT.special("<bos>")]
    for modality, language, codes in given_items:
        ids += LAYOUT.segment(modality, np.array(codes, dtype=np.int64), language)
    read = LAYOUT.segments([*ids, LAYOUT.special("<eos>")])
    assert [(m, language, codes.tolist()) for m, language, codes in read] == given_items


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, LAYOUT.size - 1), max_size=60))
def test_segments_of_any_ids_are_codes_of_their_modality(ids):
    for modality, _, codes in LAYOUT.segments(ids):
        assert ((codes >= 0) & (codes < LAYOUT.spec(modality).num_codes)).all()


def test_an_item_that_is_not_closed_goes_on_to_the_end():
    ids = [*LAYOUT.opening("audio", "en"), *LAYOUT.ids("audio", np.array([7, 8]))]
    assert [(m, language, c.tolist()) for m, language, c in LAYOUT.segments(ids)] == [
        ("audio", "en", [7, 8])
    ]


def test_every_grid_position_allows_ids_of_its_own_codebook_only():
    for modality in MEDIA:
        allowed, (lo, hi) = LAYOUT.allowed(modality), LAYOUT.own(modality)
        assert (allowed is None) == (LAYOUT.spec(modality).item_codes is None)
        assert all(lo <= a < b <= hi for a, b in allowed or [])


@pytest.mark.parametrize("tasks", [False, True])
def test_a_layout_comes_back_from_its_file(tasks):
    layout = TokenLayout.of(toy_specs(300), tasks)
    again = TokenLayout.from_json(json.loads(json.dumps(layout.to_json())))
    assert (
        again == layout
        and again.candidate_sets() == layout.candidate_sets()
        and again.size == layout.size
    )


def test_every_id_is_in_one_candidate_set():
    sets = LAYOUT.candidate_sets()
    assert sets[0].lo == 0 and sets[-1].hi == LAYOUT.size
    assert all(a.hi == b.lo for a, b in itertools.pairwise(sets))


def test_two_codecs_of_one_modality_stand_side_by_side():
    """A second image codec, of codes that stream, has boundaries and ids of its own."""
    text, image, *rest = toy_specs(300)
    other = image.replace(
        name="patches", codebook="patches", codebooks=(1000,), shape=rest[0].shape
    )
    layout = TokenLayout.of([text, image, other, *rest])
    assert layout.size == LAYOUT.size + 1000 + 2
    picture = [lo for lo, _ in image.slots.position_ranges]
    ids = [*layout.segment("image", np.array(picture)), *layout.segment("patches", np.arange(7))]
    assert [(name, codes.tolist()) for name, _, codes in layout.segments(ids)] == [
        ("image", picture),
        ("patches", list(range(7))),
    ]


def test_codecs_that_cannot_stand_side_by_side_are_refused():
    specs = toy_specs(300)
    with pytest.raises(ConfigError, match="codec 'image': is there twice; give"):
        TokenLayout.of([*specs, specs[1]])
    with pytest.raises(
        ConfigError, match="codebook 'visual': has 3311 codes and 7 of 'more'; give"
    ):
        TokenLayout.of(
            [*specs, specs[1].replace(name="more", shape=specs[0].shape, codebooks=(7,))]
        )
    with pytest.raises(
        ConfigError,
        match="codebook 'visual': means other things in 'more' than in another codec; give",
    ):
        TokenLayout.of([*specs, specs[1].replace(name="more", shape=specs[0].shape)])
    with pytest.raises(ConfigError, match="a token layout: needs a codec 'text'; give"):
        TokenLayout.of(specs[1:])
