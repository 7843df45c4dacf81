"""Muon against PyTorch's own, which iterates in bfloat16, and against what it promises."""

import pytest
import torch
from torch import nn
from torch.optim._muon import _zeropower_via_newtonschulz

from onnuri.training.optim import Muon, Optimizers, orthogonalise


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 24, 64), (2, 64, 24)])
def test_orthogonalised_matrices_keep_their_directions_and_have_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonalise(matrices)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    assert made.shape == shape
    values = torch.diagonal(u.transpose(1, 2) @ made @ v.transpose(1, 2), dim1=1, dim2=2)
    assert ((values > 0.3) & (values < 1.3))[s > 0.1 * s.amax()].all()


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_iterations_in_16_bits_are_those_of_pytorch(shape):
    torch.manual_seed(1)
    matrices = torch.randn(3, *shape)
    made = orthogonalise(matrices, dtype=torch.bfloat16)
    assert made.dtype == torch.float32
    for one, matrix in zip(made, matrices, strict=True):
        theirs = _zeropower_via_newtonschulz(matrix, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        # either is 1.5 % off what is not rounded
        assert (one - theirs.float()).norm() < 0.03 * one.norm()
    # rounded indeed
    assert not torch.equal(made, orthogonalise(matrices))


def test_steps_are_those_of_pytorch():
    torch.manual_seed(1)
    ours, theirs = (
        nn.ParameterList(
            [nn.Parameter(torch.randn(s) * 0.1) for s in ((16, 16), (16, 16), (16, 48), (48, 16))]
        )
        for _ in range(2)
    )
    theirs.load_state_dict(ours.state_dict())
    start = [p.detach().clone() for p in ours]
    a = Muon(ours, lr=0.01, weight_decay=0.1)
    b = torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q, before in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 0.03 * (q - before).norm()  # bfloat16's rounding


def test_embeddings_and_vectors_go_to_adamw():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens, self.inner = nn.Embedding(5, 4), nn.Linear(4, 4)

    net = Net()
    adamw, muon = Optimizers(net, True, 1e-3, 0.1, (0.9, 0.95)).each
    assert [p for g in muon.param_groups for p in g["params"]] == [net.inner.weight]
    assert {id(p) for g in adamw.param_groups for p in g["params"]} == {
        id(net.embed_tokens.weight),
        id(net.inner.bias),
    }
    assert len(Optimizers(net, False, 1e-3, 0.1, (0.9, 0.95)).each) == 1


def test_experts_are_matrices_of_their_own():
    class Net(nn.Module):
        def __init__(self, count):
            super().__init__()
            self.experts = nn.Module()
            self.experts.weight = nn.Parameter(
                torch.randn(count, 6, 4, generator=torch.Generator().manual_seed(1))
            )
            self.conv = nn.Conv1d(3, 3, 3)

    net = Net(2)
    adamw, muon = Optimizers(net, True, 1e-3, 0.1, (0.9, 0.95)).each
    assert [p.shape for g in muon.param_groups for p in g["params"]] == [(2, 6, 4)]
    assert {tuple(p.shape) for g in adamw.param_groups for p in g["params"]} == {(3, 3, 3), (3,)}
    apart = [nn.Parameter(w.detach().clone()) for w in net.experts.weight]
    gradient = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2))
    net.experts.weight.grad = gradient.clone()
    for p, g in zip(apart, gradient, strict=True):
        p.grad = g.clone()
    muon.step()
    Muon(apart, lr=1e-3, weight_decay=0.1).step()
    assert torch.allclose(net.experts.weight, torch.stack(apart), atol=1e-6)


def test_a_kernel_is_a_matrix_of_what_each_output_sums():
    torch.manual_seed(2)
    weights = torch.randn(6, 4, 3, 3) * 0.1
    kernel, matrix = nn.Parameter(weights.clone()), nn.Parameter(weights.flatten(1).clone())
    other = nn.Parameter(torch.randn(6, 4, 3, 3) * 0.1)  # of the same shape: stacked with it
    one, two = (Muon(params, lr=0.01, weight_decay=0.1) for params in ([kernel, other], [matrix]))
    for _ in range(3):
        kernel.grad = torch.randn_like(kernel)
        matrix.grad = kernel.grad.flatten(1)
        other.grad = torch.randn_like(other)
        one.step()
        two.step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-6)
    assert (kernel - weights).abs().max() > 0.01
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv1d(4, 4, 3))
    muon = Optimizers(convolution, True, 0.01, 0.0, (0.9, 0.95)).each[1]
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(4, 3, 3, 3)]
