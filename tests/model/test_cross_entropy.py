"""Cross-entropy by chunks against PyTorch's over all logits at once."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from onnuri.model.backbone import stock_model
from onnuri.model.cross_entropy import cross_entropy
from onnuri.model.objective import next_token_loss
from onnuri.recipes import NAMES, find
from onnuri.recipes.nano import nano


def drawn(tokens, vocabulary, width, seed, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(n, width, generator=draw).to(dtype).requires_grad_() for n in (tokens, vocabulary))
    return hidden, head, torch.randint(0, vocabulary, (tokens,), generator=draw), torch.rand(tokens, generator=draw)


def plain(hidden, head, targets, weights):
    return (F.cross_entropy((hidden @ head.T).float(), targets, reduction="none") * weights).sum()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 20), st.integers(1, 45), st.integers(0, 99), st.integers(0, 40),
       st.floats(0.1, 30))
def test_loss_and_gradients_are_those_of_all_logits_at_once(tokens, vocabulary, width, rows, seed, left_out, scale):
    hidden, head, targets, weights = drawn(tokens, vocabulary, width, seed)
    weights[:left_out] = 0.0
    one, other = cross_entropy(hidden, head, targets, weights, rows), plain(hidden, head, targets, weights)
    torch.testing.assert_close(one, other)
    for found, wanted in zip(torch.autograd.grad(one * scale, (hidden, head)), torch.autograd.grad(other * scale, (hidden, head)),
                             strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_what_counts_for_nothing_changes_nothing():
    hidden, head, targets, weights = drawn(12, 30, 8, 0)
    weights[5:] = 0.0
    few = cross_entropy(hidden[:5], head, targets[:5], weights[:5])
    torch.testing.assert_close(cross_entropy(hidden, head, targets, weights), few)
    assert not torch.autograd.grad(cross_entropy(hidden, head, targets, weights), hidden)[0][5:].any()


def test_sixteen_bits_lose_no_more_than_all_at_once():
    """Both against 64 bits. The head's gradient is rounded once a chunk."""
    hidden, head, targets, weights = drawn(256, 500, 32, 0, torch.bfloat16)
    exact = [t.detach().double().requires_grad_() for t in (hidden, head)]
    loss = plain(*exact, targets, weights.double())
    wanted = torch.autograd.grad(loss, exact)
    errors = {}
    for name, made in (("plain", plain(hidden, head, targets, weights)),
                       ("chunks", cross_entropy(hidden, head, targets, weights, 32))):
        found = torch.autograd.grad(made, (hidden, head))
        errors[name] = [float((f.double() - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True)]
        assert made.item() == pytest.approx(loss.item(), rel=1e-3)
    assert errors["chunks"][0] < 1.05 * errors["plain"][0] and errors["chunks"][1] < 1.5 * errors["plain"][1], errors


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_loss_of_every_class(name):
    """transformers' own, at the same weights; a scaled head's too."""
    values = nano(name).values | {"vocab_size": 96, "hidden_size": 48} | (
        {"logits_scaling": 0.5} if name == "hyperclovax_omni" else {})
    torch.manual_seed(0)
    network = stock_model(find(name).family, values)
    ids = torch.randint(0, 96, (2, 20))
    ours, theirs = next_token_loss(network, ids), network(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(ours, theirs)
    by_ours, by_theirs = (torch.autograd.grad(loss, list(network.parameters()), allow_unused=True) for loss in (ours, theirs))
    for one, other in zip(by_ours, by_theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_nothing_is_as_large_as_all_logits():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), named=None):
            out = function(*args, **(named or {}))
            self.size = max([self.size, *(t.numel() for t in (out if isinstance(out, tuple) else [out]) if torch.is_tensor(t))])
            return out

    hidden, head, targets, weights = drawn(64, 300, 8, 0)
    with Largest() as largest:
        cross_entropy(hidden, head, targets, weights, 8).backward()
    assert largest.size == 300 * 8  # a chunk's, and the head's gradient
