"""Classes that our own forward pass does not know, through the engine: what transformers'
`generate` says, in any company."""

import pytest
import small_models
import torch

from onnuri import recipes
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.hf_forward import HFForward
from onnuri.inference.request import Request, SamplingConfig, TokenConstraint
from onnuri.model import backbone
from onnuri.recipes.nano import nano

VOCABULARY, END = 150, 149


@pytest.fixture(scope="module", params=recipes.NAMES)
def network(request):
    torch.manual_seed(5)
    values = {**nano(request.param).values, "vocab_size": VOCABULARY}
    values |= {"sliding_window": 6} if "sliding_window" in values else {}
    model = backbone.build_hf_model(recipes.find(request.param).family, values).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(
            20
        )  # far from uniform, so that the likeliest id is clear
    return model


def test_greedy_decoding_is_that_of_transformers(network):
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, VOCABULARY, (n,), generator=draw).tolist() for n in (3, 17, 30, 9)]
    expected = [small_models.likeliest_ids(network, prompt, 12) for prompt in prompts]
    engine = Engine(
        network, EngineConfig(rows=3, prefill_tokens=8)
    )  # fewer rows than requests: one comes when another has gone
    assert isinstance(engine.forward, HFForward)
    allowed = TokenConstraint(position_ranges=((0, VOCABULARY),) * 12)
    handles = []
    for k, prompt in enumerate(prompts):
        handles.append(
            engine.submit(
                Request(
                    prompt=prompt,
                    token_constraint=allowed,
                    sampling=SamplingConfig(temperature=0),
                    seed=k,
                )
            )
        )
        engine.step()
    engine.run(handles)
    assert [t.ids for t in handles] == expected
    with torch.no_grad():  # and afterwards the class alone still is what it was
        ids = torch.tensor([prompts[1]])
        assert (
            network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=12,
                pad_token_id=0,
                eos_token_id=None,
            )[0, 17:].tolist()
            == expected[1]
        )


def test_a_prefix_that_was_kept_gives_the_same(network):
    engine = Engine(network, EngineConfig(rows=2))
    allowed, prompt = (TokenConstraint(position_ranges=((0, VOCABULARY),) * 5), list(range(1, 40)))
    first, second = (
        engine.generate([prompt], allowed, SamplingConfig(temperature=0), [0])[0] for _ in range(2)
    )
    assert first == second and engine.prefixes.reused >= 32
