"""Routers are nudged towards even loads, by their bias or by a loss, and only while they are watched."""

import copy

import pytest
import torch

from onnuri import recipes
from onnuri.model import backbone
from onnuri.model.balance import STEP, Balance
from onnuri.recipes.nano import nano


def built(name):
    torch.manual_seed(3)
    return backbone.stock_model(recipes.find(name).family, {**nano(name).values, "vocab_size": 64})


def loads(model, ids):
    """Share of the choices that each expert of each router has, [routers, experts]."""
    seen = []
    hooks = [m.register_forward_hook(lambda m, args, made: seen.append(torch.bincount(made[2].flatten(), minlength=8)))
             for m in model.modules() if type(m).__name__.endswith("TopkRouter")]
    with torch.no_grad():
        model.model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen) / seen[0].sum()


@pytest.mark.parametrize("name", [
    "axk1", "vaetki", *(pytest.param(name, marks=pytest.mark.slow) for name in ("solar_open", "k_exaone"))])
def test_watched_routers_come_to_even_loads(name):
    model, ids = built(name), torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(1))
    before = loads(model, ids)
    routers = [p for n, p in model.named_parameters() if n.endswith("mlp.gate.weight")]
    descent = torch.optim.Adam(routers, lr=2e-3)
    for _ in range(60):
        with Balance(model) as balance:
            model.model(input_ids=ids)
        if name == "vaetki":
            balance.loss().backward()
            descent.step()
            model.zero_grad()
        else:
            assert balance.loss() == 0.0
    after = loads(model, ids)
    assert after.std(1).mean() < 0.7 * before.std(1).mean()


def test_a_bias_moves_towards_the_idle_and_copies_carry_no_hooks():
    model, ids = built("axk1"), torch.zeros(1, 5, dtype=torch.long)  # one token: two experts have all of the load
    with Balance(model):
        model.model(input_ids=ids)
    bias = model.model.layers[1].mlp.gate.e_score_correction_bias
    assert sorted((bias / STEP).round().tolist()) == [-1.0] * 2 + [1.0] * 6
    kept = bias.clone()
    copy.deepcopy(model).model(input_ids=ids)
    model.model(input_ids=ids)
    assert torch.equal(bias, kept)
