"""Dropout of attention: masks of (seed, row, layer), the same for any share of the heads and when a
layer is computed again; what would draw otherwise is refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from onnuri.errors import ConfigError
from onnuri.model import attention
from onnuri.model.attention_dropout import PART, tell_part
from onnuri.model.backbone import build_hf_model, hidden_states
from onnuri.parallel.apply import parallelize
from onnuri.parallel.recompute import checkpoint_activations, draws
from onnuri.planner.parallel import ParallelConfig

LENGTHS, HEADS = [5, 1, 9, 3], 4
VALUES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}


def layer(number=0, part=None):
    module = SimpleNamespace(config=SimpleNamespace(num_attention_heads=HEADS), layer_idx=number)
    if part is not None:
        setattr(module, PART, part)
    return module


def qkv(kv_heads=2):
    draw = torch.Generator().manual_seed(3)
    tokens = sum(LENGTHS)
    return [
        torch.randn(1, n, tokens, 8, dtype=torch.float64, generator=draw)
        for n in (HEADS, kv_heads, kv_heads)
    ]


def attend(query, key, value, module, dropout=0.4, window=None, seed=11):
    torch.manual_seed(seed)
    sequences = attention.RowSequences(LENGTHS)
    return attention.packed_attention(
        module, query, key, value, None, 0.3, sequences, window, dropout=dropout
    )[0]


@pytest.mark.parametrize("window", [None, 3])
def test_each_weight_is_kept_and_scaled_or_left_out(window):
    """Values that are one-hot in the key's place show the weights themselves."""
    query, key, _ = qkv(HEADS)
    tokens = sum(LENGTHS)
    value = torch.eye(tokens, dtype=torch.float64).expand(1, HEADS, tokens, tokens)
    weights = attend(query, key, value, layer(), 0.4, window)
    plain = attend(query, key, value, layer(), 0.0, window)
    kept = weights != 0
    torch.testing.assert_close(weights[kept], plain[kept] / 0.6)
    seen = plain != 0
    assert not (kept & ~seen).any() and 0.5 < (kept & seen).sum() / seen.sum() < 0.7


def test_the_mask_is_that_of_seed_and_layer():
    inputs = qkv()
    torch.rand(7)  # what was drawn before says nothing
    assert torch.equal(attend(*inputs, layer()), attend(*inputs, layer()))
    assert not torch.equal(attend(*inputs, layer(0)), attend(*inputs, layer(1)))
    assert not torch.equal(attend(*inputs, layer()), attend(*inputs, layer(), seed=12))
    single = [x.float() for x in inputs]
    torch.testing.assert_close(
        attend(*single, layer()).double(), attend(*inputs, layer()), rtol=1e-5, atol=1e-5
    )


def test_parts_of_the_heads_are_parts_of_the_whole():
    query, key, value = qkv()
    whole = attend(query, key, value, layer())
    parts = [
        attend(query[:, 2 * k : 2 * k + 2], key[:, k : k + 1], value[:, k : k + 1], layer(part=k))
        for k in range(2)
    ]
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-12, atol=1e-12)


def gradients(how, dropout=0.3):
    torch.manual_seed(0)
    network = build_hf_model("llama", {**VALUES, "attention_dropout": dropout}).double()
    network.train()
    if how != "none":
        checkpoint_activations(network, how)
    torch.manual_seed(5)
    ids = torch.arange(sum(LENGTHS))[None]
    hidden = hidden_states(network, ids, ids, torch.tensor(LENGTHS))
    hidden.square().sum().backward()
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("how", ["selective", "full"])
def test_a_layer_that_is_computed_again_leaves_out_the_same(how):
    expected, without = gradients("none"), gradients("none", 0.0)
    for name, gradient in gradients(how).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-14)
    assert not torch.equal(expected["model.norm.weight"], without["model.norm.weight"])


class WithDropout(nn.Module):
    """A layer with dropout of its own."""

    def __init__(self, p):
        super().__init__()
        self.mlp, self.drop = nn.Linear(4, 4), nn.Dropout(p)
        self.config = SimpleNamespace(num_attention_heads=4)


def test_numbers_are_kept_for_a_layer_that_draws_them():
    assert draws(WithDropout(0.1)) and not draws(WithDropout(0.0))
    assert draws(build_hf_model("llama", {**VALUES, "attention_dropout": 0.1}))
    assert not draws(build_hf_model("llama", VALUES))


def test_dropout_that_tensor_parallelism_would_draw_apart_is_refused():
    with pytest.raises(ConfigError, match=r"dropout 0.1 in drop: .* tp 2; use tp=1"):
        parallelize(WithDropout(0.1), ParallelConfig(tp=2, sequence_parallel=False))
    network = build_hf_model("llama", {**VALUES, "attention_dropout": 0.1})
    tell_part(network, 0)
    ids = torch.arange(6)[None]
    with pytest.raises(ConfigError, match=r"attention dropout 0.1.*'sdpa'"):
        network.train()(input_ids=ids)
    hidden_states(network, ids, ids, torch.tensor([6]))  # our attention
