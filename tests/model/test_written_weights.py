"""A box of a tensor is found again in a checkpoint, however transformers cut and turned it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.model.written_weights import Part, WrittenWeight, box_of, split


@st.composite
def views(draw):
    """A tensor of numbers, a view of a box of it with its dimensions in another order, and a box
    within that box."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    source = torch.arange(torch.Size(shape).numel()).view(shape)
    view, starts, sizes = source, [], []
    for dim, size in enumerate(shape):
        first = draw(st.integers(0, size - 1))
        stop = draw(st.integers(first + 1, size))
        view = view[(slice(None),) * dim + (slice(first, stop),)]
        starts.append(first)
        sizes.append(stop - first)
    view = view.permute(draw(st.permutations(range(len(shape)))))
    inner_starts = [draw(st.integers(s, s + n - 1)) for s, n in zip(starts, sizes, strict=True)]
    inner_sizes = [
        draw(st.integers(1, s + n - first))
        for s, n, first in zip(starts, sizes, inner_starts, strict=True)
    ]
    box = Part("w", tuple(inner_starts), tuple(inner_sizes), tuple(range(len(shape))))
    return source, view, box


@given(case=views())
@settings(max_examples=200, deadline=None)
def test_a_box_is_found_again_in_what_was_written(case):
    source, view, box = case
    part = box_of(view, source, "w")
    assert part is not None
    weight = WrittenWeight(part, tuple(view.shape), view.dtype)
    stored = view.contiguous()
    place = tuple(slice(s, s + n) for s, n in zip(box.starts, box.sizes, strict=True))
    assert torch.equal(weight.restore(stored[weight.place(box)], box), source[place])
    for each in split(box, 4):
        place = tuple(slice(s, s + n) for s, n in zip(each.starts, each.sizes, strict=True))
        assert torch.equal(weight.restore(stored[weight.place(each)], each), source[place])


def test_what_is_no_box_is_none():
    source = torch.arange(24).view(4, 6)
    assert box_of(source[:, ::2], source, "w") is None
    assert box_of(source.flatten()[3:9], source, "w") is None
    assert box_of(source.flatten().view(6, 4), source, "w") is None
