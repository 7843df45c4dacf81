"""Codes that share their rows by digits: the sums are right, they train, and they fold into a plain
model."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from onnuri.data.pack import PackedRow
from onnuri.errors import ConfigError
from onnuri.model import backbone
from onnuri.model.backbone import BackboneConfig
from onnuri.model.digit_table import (
    DigitEmbedding,
    SharedCodes,
    digit_cross_entropy,
    digit_numbers,
    fold,
    share_digits,
)
from onnuri.model.objective import omni_loss
from onnuri.model.token_layout import CandidateSet

LEVELS = (3, 2, 4)
START, ROWS = 5, 31  # 24 codes between 5 ids before and 2 after


def model():
    torch.manual_seed(0)
    return BackboneConfig(vocabulary=ROWS, width=16, layers=1, heads=2, hidden=24).build()


def logits(network, ids):
    positions = torch.arange(len(ids))[None]
    hidden = backbone.hidden_states(
        network, torch.tensor([ids]), positions, torch.tensor([len(ids)])
    )
    return hidden[0] @ network.get_output_embeddings().weight.T


@pytest.mark.parametrize("pairs", [False, True])
def test_rows_are_sums_over_digits(pairs):
    network = model()
    before = network.get_input_embeddings().weight.detach().clone()
    share_digits(network, START, LEVELS, pairs)
    table = network.get_input_embeddings()
    made = network.get_input_embeddings().weight
    assert torch.equal(made[:START], before[:START]) and torch.equal(made[29:], before[29:])
    for c, b, a in itertools.product(range(4), range(2), range(3)):
        numbers = [a, 3 + b, 5 + c] + ([9 + a + 3 * b, 15 + b + 2 * c] if pairs else [])
        expected = table.rows[numbers].sum(0)
        assert torch.allclose(made[START + a + 3 * b + 6 * c], expected, atol=1e-6)
    assert 0.5 < float(made[START:29].detach().std() / before.std()) < 2


def test_numbers_of_rows_have_no_gap():
    numbers = digit_numbers(LEVELS, True)
    assert numbers.shape == (24, 5)
    assert numbers.unique().tolist() == list(range(3 + 2 + 4 + 6 + 8))


def test_a_step_on_one_code_moves_those_that_share_a_digit():
    network = model()
    share_digits(network, START, LEVELS, pairs=False)
    before = network.get_input_embeddings().weight.detach().clone()
    optimizer = torch.optim.SGD(
        [p for n, p in network.named_parameters() if n.endswith("rows")], 0.5
    )
    network.get_input_embeddings().weight[START].sum().backward()
    optimizer.step()
    moved = (network.get_input_embeddings().weight - before).abs().sum(1) > 1e-6
    shares = [
        a == 0 or b == 0 or c == 0 for c, b, a in itertools.product(range(4), range(2), range(3))
    ]
    assert moved[START:29].tolist() == shares and not moved[:START].any() and not moved[29:].any()


def test_both_tables_are_one_and_train_together():
    network = model()
    share_digits(network, START, LEVELS)
    names = [name for name, _ in network.named_parameters() if "layers" not in name]
    assert names == ["model.embed_tokens.plain", "model.embed_tokens.rows", "model.norm.weight"]
    positions, lengths = torch.arange(3)[None], torch.tensor([3])
    hidden = backbone.hidden_states(network, torch.tensor([[7, 8, 9]]), positions, lengths)
    table = network.get_input_embeddings()
    # through the head alone, whose input does not carry gradients
    network.get_output_embeddings()(hidden.detach()).log_softmax(-1)[0, 0, 8].backward()
    assert table.rows.grad.abs().sum() > 0 and table.plain.grad.abs().sum() > 0


def test_a_folded_model_is_a_plain_one_with_equal_logits(tmp_path):
    from transformers import AutoModelForCausalLM

    network = model()
    share_digits(network, START, LEVELS)
    ids = [0, 6, 17, 28, 30]
    expected = logits(network, ids).detach()
    fold(network)
    assert torch.equal(logits(network, ids), expected)
    assert network.get_input_embeddings().weight is network.get_output_embeddings().weight
    backbone.save(network, tmp_path, 0, 1, 2, torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.allclose(plain(torch.tensor([ids])).logits[0], expected, atol=1e-5)
    fold(network)  # again: nothing to do
    assert torch.equal(logits(network, ids), expected)


def test_an_id_is_looked_up_as_in_the_whole_table():
    network = model()
    share_digits(network, START, LEVELS)
    table = network.get_input_embeddings()
    ids = torch.arange(ROWS).view(1, ROWS)
    assert torch.allclose(table(ids)[0], table.weight, atol=1e-6)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans(), st.integers(0, 99))
def test_the_loss_is_that_of_a_softmax_over_all_codes(levels, pairs, seed):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(math.prod(levels) + 3, 6, generator=generator, dtype=torch.float64)
    shared = DigitEmbedding(table, 2, tuple(levels), pairs)
    hidden = torch.randn(7, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(math.prod(levels), (7,), generator=generator)
    weights = torch.rand(7, generator=generator, dtype=torch.float64)
    losses = torch.empty(7, dtype=torch.float64)
    parts = SharedCodes(2, shared.rows, tuple(levels), shared.numbers, shared.plain)
    made = digit_cross_entropy(hidden, parts, labels, weights, losses)
    logits = hidden @ shared.weight[2 : shared.end].T
    expected = F.cross_entropy(logits, labels, reduction="none") * weights
    assert torch.allclose(losses, expected, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(made, [hidden, shared.rows]),
        torch.autograd.grad(expected.sum(), [hidden, shared.rows]),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_a_row_of_several_media_has_the_loss_of_the_whole_table():
    """Text around codes that share their rows: as if each code had the row that is its sum."""
    torch.manual_seed(1)
    sets = tuple(
        CandidateSet(codebook=name, lo=lo, hi=hi)
        for name, lo, hi in (("text", 0, START), ("image", START, 29), ("other", 29, ROWS))
    )
    row = PackedRow(
        ids=torch.tensor([[0, 7, 28, 3, 29, 30, 5]]),
        positions=torch.arange(7)[None],
        lengths=torch.tensor([7]),
        weights=torch.tensor([[0.0, 1, 0.5, 2, 1, 1, 1]]),
        modality_ids=torch.tensor([[0, 1, 1, 0, 2, 2, 1]]),
    )
    network = model()
    share_digits(network, START, LEVELS)
    made = omni_loss(network, sets, row)
    made.sum.backward()
    gradient = network.model.layers[0].mlp.up_proj.weight.grad.clone()
    fold(network)
    network.zero_grad()
    whole = omni_loss(network, sets, row)
    whole.sum.backward()
    assert torch.allclose(made.sum, whole.sum) and torch.allclose(
        made.by_modality, whole.by_modality
    )
    other = network.model.layers[0].mlp.up_proj.weight.grad
    assert torch.allclose(gradient, other, rtol=1e-3, atol=1e-7)


def test_what_cannot_be_shared_is_one_line():
    with pytest.raises(ConfigError, match="beyond the vocabulary of 31"):
        share_digits(model(), 8, LEVELS)
    untied = model()
    untied.lm_head.weight = torch.nn.Parameter(torch.zeros(ROWS, 16))
    with pytest.raises(ConfigError, match="tied tables alone"):
        share_digits(untied, START, LEVELS)
