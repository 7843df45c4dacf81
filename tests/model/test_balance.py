"""Routers are nudged towards even loads, by their bias or by a loss, and only while they are
watched."""

import copy

import pytest
import torch

from onnuri import recipes
from onnuri.model import backbone
from onnuri.model import balance as balance_module
from onnuri.model.balance import STEP, Balance
from onnuri.parallel.recompute import checkpoint_activations
from onnuri.recipes.nano import nano


def built(name):
    torch.manual_seed(3)
    return backbone.build_hf_model(
        recipes.find(name).family, {**nano(name).values, "vocab_size": 64}
    )


def loads(model, ids):
    """Share of the choices that each expert of each router has, [routers, experts]."""
    seen = []
    hooks = [
        m.register_forward_hook(
            lambda m, args, made: seen.append(torch.bincount(made[2].flatten(), minlength=8))
        )
        for m in model.modules()
        if type(m).__name__.endswith("TopkRouter")
    ]
    with torch.no_grad():
        model.model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen) / seen[0].sum()


@pytest.mark.parametrize(
    "name",
    [
        "axk1",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("vaetki", "solar_open", "k_exaone")
        ),
    ],
)
def test_watched_routers_come_to_even_loads(name):
    model, ids = (
        built(name),
        torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(1)),
    )
    before = loads(model, ids)
    routers = [p for n, p in model.named_parameters() if n.endswith("mlp.gate.weight")]
    descent = torch.optim.Adam(routers, lr=2e-3)
    balance = Balance(model)
    for _ in range(60):
        with balance.watching():
            model.model(input_ids=ids)
            loss = balance.loss()
            if name == "vaetki":
                loss.backward()
                descent.step()
                model.zero_grad()
            else:
                assert loss == 0.0
        balance.apply()
    after = loads(model, ids)
    assert after.std(1).mean() < 0.7 * before.std(1).mean()


def bias_of(model):
    return model.model.layers[1].mlp.gate.e_score_correction_bias


def test_a_bias_moves_towards_the_idle_after_the_step_and_copies_carry_no_hooks():
    model, ids = (
        built("axk1"),
        torch.zeros(1, 5, dtype=torch.long),
    )  # one token: two experts have all of the load
    balance = Balance(model)
    with balance.watching():
        model.model(input_ids=ids)
    assert not bias_of(model).any()
    balance.apply()
    bias = bias_of(model)
    assert sorted((bias / STEP).round().tolist()) == [-1.0] * 2 + [1.0] * 6
    kept = bias.clone()
    copy.deepcopy(model).model(input_ids=ids)
    model.model(input_ids=ids)
    balance.apply()
    assert torch.equal(bias, kept)


def test_micro_batches_of_a_step_are_counted_together():
    """A bias moves by all that the step's tokens chose: here as by both halves at once, and not
    twice."""
    ids = torch.randint(0, 64, (4, 32), generator=torch.Generator().manual_seed(2))
    moved = []
    for parts in (ids.split(4), ids.split(2), ids.split(1)):
        model = built("axk1")
        balance = Balance(model)
        for part in parts:
            with balance.watching():
                model.model(input_ids=part)
        balance.apply()
        moved.append(bias_of(model).clone())
    assert moved[0].any() and torch.equal(moved[0], moved[1]) and torch.equal(moved[0], moved[2])


def test_all_ranks_tokens_count(monkeypatch):
    """Another rank's tokens chose the experts that are idle here: together they are even, and no
    bias moves."""
    model = built("axk1")
    balance = Balance(model)
    with balance.watching():
        model.model(input_ids=torch.zeros(1, 4, dtype=torch.long))
    for load in balance.loads.values():
        assert load.sum() == 8 and load.max() == 4
    monkeypatch.setattr(balance_module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(balance_module.dist, "all_reduce", lambda load: load.add_(4.0 - load))
    balance.apply()
    assert not bias_of(model).any()


@pytest.mark.parametrize("how", ["full", "selective"])
@pytest.mark.parametrize(
    "name",
    [
        n if n in ("axk1", "vaetki") else pytest.param(n, marks=pytest.mark.slow)
        for n in recipes.NAMES
    ],
)
def test_recomputation_changes_no_gradient_and_counts_nothing_twice(name, how):
    """A bias that moved within the forward pass sent the recomputed layer's tokens to other
    experts: a gradient was off by more than its size."""
    ids = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(1))
    found = []
    for recomputed in (False, True):
        model = built(name).double()
        model.config._experts_implementation = "eager"  # grouped products are of 32 bits at most
        if recomputed:
            checkpoint_activations(model, how)
        model.train()
        balance = Balance(model)
        with balance.watching():
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss + balance.loss()
            loss.backward()
        found.append(
            (
                loss.detach(),
                {n: p.grad for n, p in model.named_parameters()},
                list(balance.loads.values()),
            )
        )
        balance.apply()
    (one, own, loads_one), (other, again, loads_other) = found
    assert float(one) == float(other) and own.keys() == again.keys()
    for n, gradient in own.items():
        assert (gradient is None) == (again[n] is None)
        if gradient is not None:
            torch.testing.assert_close(again[n], gradient, rtol=1e-12, atol=1e-15, msg=n)
    assert len(loads_one) == len(loads_other) and all(map(torch.equal, loads_one, loads_other))


def test_padding_is_no_load_and_a_step_that_was_left_out_moves_nothing():
    """The same real tokens with and without padding behind them count the same; a norm that is not
    finite leaves the bias."""
    ids = torch.randint(0, 64, (1, 40), generator=torch.Generator().manual_seed(4))
    loads = []
    for row, tokens in (
        (ids, None),
        (torch.cat([ids, torch.zeros(1, 24, dtype=torch.long)], 1), 40),
    ):
        model = built("axk1")
        balance = Balance(model)
        balance.tokens = tokens
        with balance.watching():
            model.model(input_ids=row)
        loads.append(list(balance.loads.values()))
        balance.apply(torch.tensor(float("nan")))
        assert not bias_of(model).any()
    assert all(map(torch.equal, *loads))


@pytest.mark.long
@pytest.mark.parametrize("how", ["none", "full"])
@pytest.mark.parametrize("name", ["axk1", "vaetki"])
def test_compiled_layers_count_and_learn_as_others_do(name, how):
    """Rows of other lengths and paddings too: what a compiler takes for a constant counts wrongly
    from the second row on."""
    draw = torch.Generator().manual_seed(5)
    rows = [torch.randint(0, 64, (1, n), generator=draw) for n in (24, 24, 20)]
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = built(name).double()
        model.config._experts_implementation = "eager"
        model.train()
        if how == "full":
            checkpoint_activations(model, how)
        if compiled:
            for layer in model.model.layers:
                layer.compile(backend="aot_eager")
        balance = Balance(model)
        for step, tokens in enumerate((24, 17, 9)):
            with balance.watching():
                balance.start_row(tokens)
                hidden = model.model(input_ids=rows[step], use_cache=False).last_hidden_state
                loss = hidden.square().mean() + balance.loss()
                loss.backward()
            loads = {k: load.clone() for k, load in enumerate(balance.loads.values())}
            balance.apply()
            found.append((loss.detach(), loads, {n: p.grad for n, p in model.named_parameters()}))
    for (one, loads, own), (other, again, grads) in zip(found[:3], found[3:], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=0)
        assert loads.keys() == again.keys() and bool(loads) == (name == "axk1")
        assert all(torch.equal(loads[k], again[k]) for k in loads)
        for n, gradient in own.items():
            if gradient is not None:
                torch.testing.assert_close(grads[n], gradient, rtol=1e-10, atol=1e-14, msg=n)
