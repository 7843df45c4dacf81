"""Cross-entropy by chunks against PyTorch's over all logits at once."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from onnuri.model import cross_entropy as module
from onnuri.model.backbone import build_hf_model
from onnuri.model.cross_entropy import cross_entropy
from onnuri.model.loss import next_token_loss
from onnuri.recipes import NAMES, find
from onnuri.recipes.nano import nano


def drawn(tokens, vocabulary, width, seed, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    hidden, head = (
        torch.randn(n, width, generator=draw).to(dtype).requires_grad_()
        for n in (tokens, vocabulary)
    )
    return (
        hidden,
        head,
        torch.randint(0, vocabulary, (tokens,), generator=draw),
        torch.rand(tokens, generator=draw),
    )


def plain(hidden, head, targets, weights):
    return (F.cross_entropy((hidden @ head.T).float(), targets, reduction="none") * weights).sum()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 50),
    st.integers(1, 20),
    st.integers(1, 45),
    st.integers(0, 99),
    st.integers(0, 40),
    st.floats(0.1, 30),
)
def test_loss_and_gradients_are_those_of_all_logits_at_once(
    tokens, vocabulary, width, rows, seed, left_out, scale
):
    hidden, head, targets, weights = drawn(tokens, vocabulary, width, seed)
    weights[:left_out] = 0.0
    one, other = (
        cross_entropy(hidden, head, targets, weights, rows),
        plain(hidden, head, targets, weights),
    )
    torch.testing.assert_close(one, other)
    for found, wanted in zip(
        torch.autograd.grad(one * scale, (hidden, head)),
        torch.autograd.grad(other * scale, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_in_sixty_four_bits_it_is_the_same_to_the_last_digits():
    hidden, head, targets, weights = drawn(50, 300, 16, 5, torch.float64)
    one, other = (of(hidden, head, targets, weights.double()) for of in (cross_entropy, plain64))
    torch.testing.assert_close(one, other, rtol=1e-13, atol=0)
    for found, wanted in zip(
        torch.autograd.grad(one, (hidden, head)),
        torch.autograd.grad(other, (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-14)


def test_what_counts_for_nothing_changes_nothing():
    hidden, head, targets, weights = drawn(12, 30, 8, 0)
    weights[5:] = 0.0
    few = cross_entropy(hidden[:5], head, targets[:5], weights[:5])
    torch.testing.assert_close(cross_entropy(hidden, head, targets, weights), few)
    assert not torch.autograd.grad(cross_entropy(hidden, head, targets, weights), hidden)[0][
        5:
    ].any()


def test_sixteen_bits_lose_no_more_than_all_at_once():
    """Both against 64 bits. The head's gradient is rounded once a chunk."""
    hidden, head, targets, weights = drawn(256, 500, 32, 0, torch.bfloat16)
    exact = [t.detach().double().requires_grad_() for t in (hidden, head)]
    loss = plain(*exact, targets, weights.double())
    wanted = torch.autograd.grad(loss, exact)
    errors = {}
    for name, made in (
        ("plain", plain(hidden, head, targets, weights)),
        ("chunks", cross_entropy(hidden, head, targets, weights, 32)),
    ):
        found = torch.autograd.grad(made, (hidden, head))
        errors[name] = [
            float((f.double() - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True)
        ]
        assert made.item() == pytest.approx(loss.item(), rel=1e-3)
    assert (
        errors["chunks"][0] < 1.05 * errors["plain"][0]
        and errors["chunks"][1] < 1.5 * errors["plain"][1]
    ), errors


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_loss_of_every_class(name):
    """transformers' own, at the same weights; a scaled head's too."""
    values = (
        nano(name).values
        | {"vocab_size": 96, "hidden_size": 48}
        | ({"logits_scaling": 0.5} if name == "hyperclovax_omni" else {})
    )
    torch.manual_seed(0)
    network = build_hf_model(find(name).family, values)
    ids = torch.randint(0, 96, (2, 20))
    ours, theirs = next_token_loss(network, ids).mean, network(input_ids=ids, labels=ids).loss
    torch.testing.assert_close(ours, theirs)
    by_ours, by_theirs = (
        torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        for loss in (ours, theirs)
    )
    for one, other in zip(by_ours, by_theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(2, 40),
    st.integers(1, 12),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_targets_that_are_distributions_are_scored_by_their_divergence(
    tokens, vocabulary, width, rows, seed
):
    """Against PyTorch's own divergence of all logits at once, in 64 bits; targets with ids of
    probability 0 too."""
    hidden, head, targets, weights = drawn(tokens, vocabulary, width, seed, torch.float64)
    soft = torch.rand(
        vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    soft = soft * (soft > 0.4) + torch.eye(vocabulary)
    soft = soft / soft.sum(1, keepdim=True)
    each = torch.empty(tokens, dtype=torch.float64)
    one = cross_entropy(hidden, head, targets, weights.double(), rows, soft=soft, losses=each)
    plain_each = (
        F.kl_div((hidden @ head.T).log_softmax(1), soft[targets], reduction="none").sum(1) * weights
    )
    torch.testing.assert_close(one, plain_each.sum(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(each, plain_each.detach(), rtol=1e-10, atol=1e-12)
    for found, wanted in zip(
        torch.autograd.grad(one, (hidden, head)),
        torch.autograd.grad(plain_each.sum(), (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


def test_nothing_is_as_large_as_all_logits():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), named=None):
            out = function(*args, **(named or {}))
            self.size = max(
                [
                    self.size,
                    *(
                        t.numel()
                        for t in (out if isinstance(out, tuple) else [out])
                        if torch.is_tensor(t)
                    ),
                ]
            )
            return out

    hidden, head, targets, weights = drawn(64, 300, 8, 0)
    with Largest() as largest:
        cross_entropy(hidden, head, targets, weights, 8).backward()
    assert largest.size == 300 * 8  # a chunk's, and the head's gradient


@pytest.mark.slow
def test_two_hundred_thousand_ids_take_less_than_a_sixth_of_all_logits():
    """Bytes that live at once during the loss and its backward pass, weights and their gradients
    apart, in one process."""

    class Peak(TorchDispatchMode):
        """Counts new storages while they live."""

        def __init__(self):
            super().__init__()
            self.living = self.peak = 0
            self.seen = set()

        def __torch_dispatch__(self, function, types, args=(), named=None):
            out = function(*args, **(named or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if (
                    torch.is_tensor(tensor)
                    and (key := tensor.untyped_storage()._cdata) not in self.seen
                ):
                    self.seen.add(key)
                    size = tensor.untyped_storage().nbytes()
                    self.living += size
                    self.peak = max(self.peak, self.living)
                    weakref.finalize(tensor.untyped_storage(), self.gone, key, size)
            return out

        def gone(self, key, size):
            self.seen.discard(key)
            self.living -= size

    tokens, vocabulary, width = 2048, 200_000, 64
    hidden, head, targets, weights = drawn(tokens, vocabulary, width, 0)
    with Peak() as peak:
        loss = cross_entropy(hidden, head, targets, weights, 128)
        loss.backward()
    assert 4 * 128 * vocabulary < peak.peak < 0.15 * (4 * tokens * vocabulary)
    some = slice(
        0, 200
    )  # all logits of all tokens are 1.6 GB: some tokens' gradients, which no other token's change
    exact = [t.detach().double().requires_grad_() for t in (hidden[some], head)]
    (wanted,) = torch.autograd.grad(
        plain64(*exact, targets[some], weights[some].double()), exact[:1]
    )
    (whole,) = torch.autograd.grad(plain(hidden[some], head, targets[some], weights[some]), hidden)
    ours, theirs = (float((g[some] - wanted).norm() / wanted.norm()) for g in (hidden.grad, whole))
    assert ours < 2e-6 and ours < 1.1 * theirs, (
        ours,
        theirs,
    )  # 1.1e-6 and 1.5e-6: 32 bits over 200,000 terms
    torch.testing.assert_close(
        hidden.grad[some] / weights.sum(), whole[some] / weights.sum(), rtol=0, atol=1e-6
    )


def plain64(hidden, head, targets, weights):
    return (F.cross_entropy(hidden @ head.T, targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gpu_compiles_is_what_a_cpu_computes(dtype, soft):
    hidden, head, targets, weights = drawn(9, 21, 5, 3, dtype)
    hidden, head = hidden.detach(), head.detach()
    goal = torch.rand(21, 21).softmax(-1) if soft else None
    compiled = torch.compile(module._gradient, backend="aot_eager", fullgraph=True)
    for found, wanted in zip(
        compiled(hidden, head, targets, weights, goal),
        module._gradient(hidden, head, targets, weights, goal),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
