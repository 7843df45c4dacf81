"""First values that are made box by box are those of the class itself: the same constants and
buffers, and the same distributions of random numbers."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers import initialization as init

from onnuri.model import initial_weights
from onnuri.model.backbone import build_hf_config
from onnuri.model.base import load_base
from onnuri.model.initial_weights import InitialWeights
from onnuri.model.written_weights import Part, whole_part
from onnuri.recipes import find
from onnuri.recipes.nano import nano

ROPES = {
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0},
}


def small(family, **more):
    return AutoConfig.for_model(family, **{**SMALL, **more})


def twin(recipe):
    """The small twin of a published model, with its own class."""
    values = {**nano(recipe).values, "vocab_size": 320}
    return build_hf_config(find(recipe).family, values)


CONFIGS = {
    "llama": lambda: small("llama", pad_token_id=7),
    "llama, tied": lambda: small("llama", pad_token_id=7, tie_word_embeddings=True),
    "llama, llama3": lambda: small("llama", rope_parameters=ROPES["llama3"]),
    "llama, yarn": lambda: small("llama", rope_parameters=ROPES["yarn"]),
    "qwen3, dynamic": lambda: small("qwen3", rope_parameters=ROPES["dynamic"]),
    "olmo2": lambda: small("olmo2"),
    "qwen3_moe": lambda: small("qwen3_moe", num_experts=8, moe_intermediate_size=24),
    "mixtral": lambda: small("mixtral", num_local_experts=4),
    "gemma3_text": lambda: small("gemma3_text", query_pre_attn_scalar=8),
    "gpt2": lambda: small("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=256),
    **{
        name: lambda name=name: twin(name)
        for name in ("axk1", "vaetki", "solar_open", "k_exaone", "hyperclovax_omni")
    },
}


def on_meta(config):
    return load_base(config, device="meta", dtype=torch.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_begins_as_its_class_begins_it(name):
    network = on_meta(CONFIGS[name]())
    names = {id(t): n for n, t in network.state_dict(keep_vars=True).items()}
    initial = InitialWeights(network, seed=3)
    assert not initial.unknown
    assert {id(t): n for n, t in network.state_dict(keep_vars=True).items()} == names
    torch.manual_seed(0)
    reference = AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32)
    expected = {
        **dict(reference.named_parameters(remove_duplicate=False)),
        **dict(reference.named_buffers(remove_duplicate=False)),
    }
    assert sorted(initial.dtypes) == sorted(expected)
    random = 0
    for tensor_name, tensor in expected.items():
        tensor = tensor.detach()
        found = initial.values(whole_part(tensor_name, tensor.shape))
        assert found.dtype == tensor.dtype and found.shape == tensor.shape, tensor_name
        drawn = "weight" in tensor_name or "proj" in tensor_name
        if not drawn or tensor.unique().numel() <= 1:
            assert torch.equal(found, tensor), tensor_name
            continue
        # both are samples of one distribution: six standard errors of the difference
        random += 1
        count, deviation = tensor.numel(), float(tensor.std())
        error = 6 * deviation * math.sqrt(2 / count)
        assert float(found.mean()) == pytest.approx(float(tensor.mean()), abs=error), tensor_name
        assert float(found.std()) == pytest.approx(deviation, abs=error), tensor_name
        assert torch.equal((found == 0).all(-1), (tensor == 0).all(-1)), tensor_name
    assert random > 8
    for head, table in network.all_tied_weights_keys.items():
        part = whole_part(table, expected[table].shape)
        assert torch.equal(initial.values(part), initial.values(part._replace(source=head)))


class OneWeight(nn.Module):
    """A module with what `InitialWeights` asks of a model of transformers."""

    def __init__(self, shape, initialise):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, device="meta"))
        self.initialise = initialise

    def initialize_weights(self):
        self.initialise(self.weight)


def one_weight(shape, initialise, seed=0):
    return InitialWeights(OneWeight(shape, initialise), seed)


def normal(weight):
    init.normal_(weight, mean=2.0, std=0.5)
    init.zeros_(weight[1])


@st.composite
def boxes(draw):
    shape = tuple(draw(st.lists(st.integers(2, 7), min_size=1, max_size=3)))
    starts = tuple(draw(st.integers(0, size - 1)) for size in shape)
    sizes = tuple(
        draw(st.integers(1, size - start)) for start, size in zip(starts, shape, strict=True)
    )
    return shape, Part("weight", starts, sizes, tuple(range(len(shape))))


@pytest.mark.parametrize("initialise", [normal, init.uniform_])
@given(case=boxes())
@settings(max_examples=60, deadline=None)
def test_a_box_holds_what_the_whole_holds_there(case, initialise):
    shape, box = case
    before, initial_weights.BLOCK = initial_weights.BLOCK, 5
    try:
        initial = one_weight(shape, initialise)
        whole = initial.values(whole_part("weight", shape))
        place = tuple(slice(s, s + n) for s, n in zip(box.starts, box.sizes, strict=True))
        assert torch.equal(initial.values(box), whole[place])
    finally:
        initial_weights.BLOCK = before
    if initialise is normal:
        assert not whole[1].any() and bool(whole[0].all())


def test_random_numbers_are_normal_and_differ_by_seed_name_and_place():
    initial = one_weight((300, 1000), lambda weight: init.normal_(weight, mean=2.0, std=0.5))
    numbers = initial.values(whole_part("weight", (300, 1000))).double()
    # independent: numpy's own draws of block 3 by the documented key
    key = int.from_bytes(hashlib.sha256(b"weight").digest()[:8])
    block = np.random.default_rng([0, key, 3]).standard_normal(1 << 16, dtype=np.float32)
    torch.testing.assert_close(
        numbers.flatten()[3 << 16 : 4 << 16], 2 + 0.5 * torch.from_numpy(block).double()
    )
    shares = torch.tensor([0.001, 0.02, 0.2, 0.5, 0.8, 0.98, 0.999], dtype=torch.float64)
    quantiles = torch.sort((numbers.flatten() - 2) / 0.5).values[(shares * 300_000).long()]
    expected = math.sqrt(2) * torch.erfinv(2 * shares - 1)
    density = torch.exp(-expected.square() / 2) / math.sqrt(2 * math.pi)
    error = torch.sqrt(shares * (1 - shares) / 300_000) / density
    assert bool(((quantiles - expected).abs() < 5 * error).all())
    blocks = numbers.flatten()[: 4 << 16].view(4, -1)
    assert float(torch.corrcoef(blocks).tril(-1).abs().max()) < 5 / 256
    other = one_weight((300, 1000), lambda weight: init.normal_(weight, mean=2.0, std=0.5), 1)
    assert not torch.equal(other.values(whole_part("weight", (300, 1000))).double(), numbers)
    network = on_meta(small("llama"))
    llama = InitialWeights(network, seed=0)
    one, two = (
        llama.values(whole_part(f"model.layers.{k}.self_attn.q_proj.weight", (32, 32)))
        for k in range(2)
    )
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    "initialise",
    [
        lambda weight: None,
        lambda weight: weight.mul_(2.0),
        lambda weight: init.copy_(weight, torch.rand(weight.shape, device=weight.device)),
        lambda weight: init.normal_(weight[1:]),
        lambda weight: (init.normal_(weight), weight.add_(1.0)),
        lambda weight: (init.normal_(weight), init.normal_(weight[1])),
        lambda weight: (init.zeros_(weight[1]), weight[0].add_(1.0)),
        lambda weight: init.constant_(weight, float(weight[0, 0])),
    ],
)
def test_what_depends_on_more_is_unknown(initialise):
    assert one_weight((4, 6), initialise).unknown == ["weight"]


def test_classes_that_compute_their_first_weights_are_unknown():
    initial = InitialWeights(on_meta(small("apertus")), seed=0)
    assert initial.unknown and all("act_fn" in name for name in initial.unknown)
