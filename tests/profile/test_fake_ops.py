"""What stands in for PyTorch's own while a step is traced, against PyTorch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.profile import fake_ops


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 40), st.integers(0, 1))
@settings(max_examples=80, deadline=None)
def test_pieces_are_those_of_chunk(long, short, chunks, dim):
    whole = torch.arange(long * short).reshape((long, short) if dim == 0 else (short, long))
    pieces, wanted = fake_ops.Pieces(whole, chunks, dim), torch.chunk(whole, chunks, dim)
    assert len(pieces) == len(wanted) and all(
        torch.equal(a, b) for a, b in zip(pieces, wanted, strict=True)
    )
    padded = fake_ops.Pieces(whole, chunks, dim, chunks)
    assert len(padded) == chunks and all(p.numel() == 0 for p in list(padded)[len(wanted) :])


@pytest.mark.parametrize(("cut", "joined"), [(0, 1), (1, 0), (-1, 0)])
def test_pieces_that_are_joined_another_way_have_the_shape_of_cat(cut, joined):
    whole = torch.zeros(272, 272)  # 16 pieces of 17: one more or less would have another length
    each = torch.chunk(whole, 16, cut)
    wanted = torch.cat(each, joined)
    with fake_ops.lazy_pieces():
        pieces = torch.chunk(whole, 16, cut)
        assert isinstance(pieces, fake_ops.Pieces) and [p.shape for p in pieces] == [
            p.shape for p in each
        ]
        assert torch.cat(pieces, joined).shape == wanted.shape
        out = torch.zeros(wanted.shape)
        assert torch.cat(pieces, dim=joined, out=out) is out
        assert isinstance(
            torch.chunk(whole, fake_ops.EAGER_PIECES, cut), tuple
        )  # few are made at once
        assert torch.equal(torch.cat(torch.chunk(whole, 4, 0)), whole)
    assert isinstance(torch.chunk(whole, 16, cut), tuple)
