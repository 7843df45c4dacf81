import torch
from hypothesis import given
from hypothesis import strategies as st

from onnuri.codecs.fsq import FSQ


@given(st.lists(st.integers(2, 9), min_size=1, max_size=4))
def test_codes_and_values_are_one_to_one(levels):
    fsq = FSQ(tuple(levels))
    values = fsq.decode(torch.arange(fsq.num_codes))
    inside = torch.atanh(values.clamp(-0.999, 0.999))
    assert (fsq.encode(inside) == torch.arange(fsq.num_codes)).all()
    assert torch.allclose(fsq(inside), values, atol=1e-6)
    assert len(torch.unique(values, dim=0)) == fsq.num_codes


def test_gradients_pass_straight_through():
    z = torch.randn(5, 3, requires_grad=True)
    FSQ((8, 8, 8))(z).sum().backward()
    assert torch.allclose(z.grad, 1 - torch.tanh(z) ** 2, atol=1e-6)
