"""What codecs say of their codes: the laptop's own specs, and any that can be written."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_specs import toy_specs

from onnuri.codecs.spec import CodecSpec, Field, SlotLayout, Stream
from onnuri.errors import ConfigError
from onnuri.modality import MEDIA, TABLE
from onnuri.toyworld.attributes import ATTRIBUTES, CARRIES
from onnuri.toyworld.codecs.objects import OBJECTS
from onnuri.toyworld.codecs.visual import VIDEO_CHUNKS

SPECS = {spec.name: spec for spec in toy_specs()}


def test_ranges_stay_within_their_codebook_and_fields_do_not_overlap():
    for spec in SPECS.values():
        if spec.slots:
            assert all(0 <= lo < hi <= spec.num_codes for lo, hi in spec.slots.position_ranges)
            spans = sorted(
                (spec.slots.base(f.name), spec.slots.base(f.name) + f.span)
                for f in spec.slots.fields
            )
            assert (
                all(a[1] == b[0] for a, b in itertools.pairwise(spans))
                and spans[-1][1] == spec.num_codes
            )


def test_tokens_per_item_keep_to_the_issue():
    assert (
        SPECS["image"].item_codes <= 64
        and SPECS["video"].item_codes <= 320
        and SPECS["shape"].item_codes <= 64
    )
    assert SPECS["audio"].shape.hz <= 25


def test_a_video_begins_as_its_first_frame():
    image, video = SPECS["image"].slots.position_ranges, SPECS["video"].slots.position_ranges
    assert video[: len(image)] == image and len(video) - len(image) == OBJECTS * VIDEO_CHUNKS
    assert SPECS["image"].codebook == SPECS["video"].codebook


def test_every_modality_carries_known_attributes():
    assert set(TABLE) == set(MEDIA) == set(SPECS) == set(CARRIES)
    assert all(carried <= set(ATTRIBUTES) for carried in CARRIES.values())


def test_an_object_is_there_or_absent_in_all_its_codes():
    layout = SPECS["image"].slots
    each = (len(layout.position_ranges) - 4) // OBJECTS
    assert layout.slot_gates == (None,) * 4 + tuple(
        4 + k * each for k in range(OBJECTS) for _ in range(each)
    )
    video = SPECS["video"].slots.slot_gates
    assert video == layout.slot_gates + tuple(
        4 + k * each for _ in range(VIDEO_CHUNKS) for k in range(OBJECTS)
    )
    shape = SPECS["shape"].slots.slot_gates
    assert [k for k, v in enumerate(shape) if v == k] == [0, 11, 22] and shape[-1] == 22


@st.composite
def layouts(draw):
    """Any fields, once or for every object."""
    slots = draw(st.integers(1, 4))
    fields = tuple(
        Field(
            name=f"f{k}",
            count=draw(st.integers(1, 3)),
            codes=draw(st.integers(1, 50)),
            optional=draw(st.booleans()),
            weight=draw(st.floats(0, 4)),
        )
        for k in range(draw(st.integers(1, 5)))
    )
    each = tuple(f.name for f in fields if f.optional)
    order = (*(f.name for f in fields if not f.optional), *(each * slots))
    return SlotLayout(fields=fields, order=order, slots=slots)


@settings(max_examples=60, deadline=None)
@given(layouts(), st.one_of(st.none(), st.floats(1, 100)))
def test_any_spec_comes_back_from_its_file_with_its_own_kind_of_shape(layout, hz):
    for shape in (layout, Stream(hz=hz)):
        spec = CodecSpec(
            name="any",
            codec="any",
            modality="image",
            codebook="any",
            codebooks=(layout.num_codes,),
            shape=shape,
            max_codes=9,
        )
        again = CodecSpec.from_json(json.loads(json.dumps(spec.to_json())))
        assert again == spec and type(again.shape) is type(shape)


@settings(max_examples=60, deadline=None)
@given(layouts())
def test_every_position_has_a_range_a_weight_and_a_gate(layout):
    ranges = layout.position_ranges
    assert len(ranges) == len(layout.weights) == len(layout.slot_gates) == layout.item_codes
    names = [name for name in layout.order for _ in range(layout.field(name).count)]
    for place, (name, (lo, hi), gate) in enumerate(
        zip(names, ranges, layout.slot_gates, strict=True)
    ):
        assert hi - lo == layout.field(name).span and (gate is None) == (
            not layout.field(name).optional
        )
        assert gate is None or (gate <= place and layout.slot_gates[gate] == gate)
    assert len({gate for gate in layout.slot_gates if gate is not None}) in (0, layout.slots)


def test_a_kind_of_shape_that_is_not_known_is_said():
    values = SPECS["audio"].to_json()
    with pytest.raises(
        ConfigError, match="kind 'spiral': is not known; use one of slots, stream, grid"
    ):
        CodecSpec.from_json({**values, "shape": {"kind": "spiral"}})
