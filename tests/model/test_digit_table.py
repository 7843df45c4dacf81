"""Codes that share their rows by digits: the sums are right, they train, and they fold into a plain
model."""

import itertools

import pytest
import torch

from onnuri.errors import ConfigError
from onnuri.model import backbone
from onnuri.model.backbone import BackboneConfig
from onnuri.model.digit_table import digit_numbers, fold, share_digits

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
    (table,) = network.get_input_embeddings().parametrizations.weight
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
    names = [name for name, _ in network.named_parameters()]
    assert len(names) == len(set(names)) and sum("parametrizations" in name for name in names) == 2
    logits(network, [7, 8, 9]).log_softmax(-1)[0, 8].backward()
    (table,) = network.get_output_embeddings().parametrizations.weight
    assert table.rows.grad is not None and table.rows.grad.abs().sum() > 0


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


def test_what_cannot_be_shared_is_one_line():
    with pytest.raises(ConfigError, match="beyond the vocabulary of 31"):
        share_digits(model(), 8, LEVELS)
    untied = model()
    untied.lm_head.weight = torch.nn.Parameter(torch.zeros(ROWS, 16))
    with pytest.raises(ConfigError, match="tied tables alone"):
        share_digits(untied, START, LEVELS)
