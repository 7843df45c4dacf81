"""Which styles sequence parallelism gives a class, and what it refuses. What it computes is held
against one process in `test_apply.py` and by `onnuri verify`."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from onnuri.errors import ConfigError
from onnuri.parallel.apply import _expand
from onnuri.parallel.sequence_parallel import SCATTERED, SUMMED, Tokens, plan_tokens
from onnuri.recipes.verify import _model_of


def changed(recipe):
    """What sequence parallelism changes in the first two layers' plan and in the last norm's."""
    _, network = _model_of(recipe)
    plan = _expand(network, network.tp_plan)
    styles = plan_tokens(network, plan)
    assert plan.items() - styles.items() <= {
        (name, "rowwise") for name, style in styles.items() if style == SCATTERED
    }
    layers = ("model.layers.0.", "model.layers.1.", "model.norm")
    return {
        name.removeprefix("model."): style
        for name, style in styles.items() - plan.items()
        if name.startswith(layers) and not name.endswith(".weight")
    }


def test_blocks_whose_products_are_cut_scatter_their_sums():
    norms = ("input_layernorm", "post_attention_layernorm")
    products = ("self_attn.o_proj", "mlp.down_proj")
    assert changed("laptop") == {
        "norm": SUMMED,
        **{f"layers.{k}.{name}": SUMMED for k in (0, 1) for name in norms},
        **{f"layers.{k}.{name}": SCATTERED for k in (0, 1) for name in products},
    }


def test_latent_attention_and_mixtures_stay_as_they_are():
    """A.X K1's first layer is dense; the norm within a mixture sees whole rows."""
    norms = ("input_layernorm", "post_attention_layernorm")
    assert changed("axk1") == {
        "norm": SUMMED,
        **{f"layers.{k}.{name}": SUMMED for k in (0, 1) for name in norms},
        "layers.0.mlp.down_proj": SCATTERED,
    }


class Network(nn.Module):
    """A network of one layer that has a block."""

    def __init__(self, scale=False, norm=True):
        super().__init__()
        layer, self.model = nn.Module(), nn.Module()
        layer.mlp = nn.Linear(4, 4)
        if scale:
            layer.scale = nn.Parameter(torch.ones(4))
        self.model.layers = nn.ModuleList([layer])
        if norm:
            self.model.norm = nn.LayerNorm(4)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Network(scale=True), "with scale of its own: is not known to sequence parallelism"),
        (Network(norm=False), "without a norm after its layers: is not known"),
    ],
)
def test_a_class_whose_weights_see_unknown_tokens_is_refused(network, words):
    with pytest.raises(ConfigError, match=words) as told:
        plan_tokens(network, {})
    assert "sp=off" in str(told.value) and "\n" not in str(told.value)
    assert plan_tokens(Network(), {}) == {"model.norm": SUMMED}


@pytest.mark.parametrize("shape", [(1, 3, 4), (6, 4)])
def test_a_block_that_gives_no_hidden_states_is_refused(shape):
    tokens = Tokens(SimpleNamespace())
    tokens.count = 6
    with pytest.raises(ConfigError, match="is no output of 6 tokens"):
        tokens.after_whole(nn.Linear(4, 4), (), (torch.zeros(shape), None))
