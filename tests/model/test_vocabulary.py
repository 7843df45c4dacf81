"""A sequence that is read back is the one that was written, whatever media it chains."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.modality import LANGUAGES, MEDIA, TABLE
from onnuri.model.vocabulary import Vocabulary

VOCABULARY = Vocabulary(300)


@st.composite
def items(draw):
    """(medium, language or None, codes) as a codec would give them."""
    medium = draw(st.sampled_from(MEDIA))
    grid = TABLE[medium].grid
    if grid:
        return medium, None, [draw(st.integers(lo, hi - 1)) for lo, hi in grid.ranges]
    top = (TABLE[medium].codes or VOCABULARY.text_codes) - 1
    return medium, draw(st.sampled_from([None, *LANGUAGES])), draw(st.lists(st.integers(0, top), max_size=20))


@settings(max_examples=60, deadline=None)
@given(st.lists(items(), max_size=5))
def test_segments_is_the_inverse_of_segment(given_items):
    ids = [VOCABULARY.special("<bos>")]
    for medium, language, codes in given_items:
        ids += VOCABULARY.segment(medium, np.array(codes, dtype=np.int64), language)
    read = VOCABULARY.segments([*ids, VOCABULARY.special("<eos>")])
    assert [(m, language, codes.tolist()) for m, language, codes in read] == given_items


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, VOCABULARY.size - 1), max_size=60))
def test_segments_of_any_ids_are_codes_of_their_medium(ids):
    for medium, _, codes in VOCABULARY.segments(ids):
        assert ((codes >= 0) & (codes < (TABLE[medium].codes or VOCABULARY.text_codes))).all()


def test_an_item_that_is_not_closed_goes_on_to_the_end():
    ids = [*VOCABULARY.opening("audio", "en"), *VOCABULARY.ids("audio", np.array([7, 8]))]
    assert [(m, language, c.tolist()) for m, language, c in VOCABULARY.segments(ids)] == [("audio", "en", [7, 8])]


def test_every_grid_position_allows_ids_of_its_own_codebook_only():
    for medium in MEDIA:
        allowed, (lo, hi) = VOCABULARY.allowed(medium), VOCABULARY.own(medium)
        assert (allowed is None) == (TABLE[medium].item_tokens is None)
        assert all(lo <= a < b <= hi for a, b in allowed or [])
