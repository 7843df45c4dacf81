"""The forward pass in fixed shapes on a CPU: the hidden states of `HFForward`, and through the
engine what transformers' `generate` says."""

import pytest
import small_models
import torch

import onnuri
from onnuri.errors import ConfigError
from onnuri.inference import static_forward
from onnuri.inference.cache import Cache
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.hf_forward import HFForward
from onnuri.inference.request import Request, SamplingConfig, TokenConstraint
from onnuri.inference.static_forward import PromptChunk, StaticForward
from onnuri.model import backbone
from onnuri.model.answer import run_pipelines
from onnuri.recipes.nano import nano

VOCABULARY, ROWS, POSITIONS = 150, 6, 700
LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
}
# grouped heads; grouped heads, experts and a sliding window; latents and a sliding window; latents
# with a stand-in for an indexer
FAMILIES = ("llama", "exaone_moe", "vaetki", "axk2")


@pytest.fixture(scope="module", params=FAMILIES)
def network(request):
    torch.manual_seed(5)
    by_family = {"exaone_moe": "k_exaone", "vaetki": "vaetki", "axk2": "axk2"}
    values = LLAMA if request.param == "llama" else nano(by_family[request.param]).values
    values = {**values, "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
    values |= {"sliding_window": 6} if "sliding_window" in values else {}
    model = backbone.build_hf_model(request.param, values).eval()
    with torch.no_grad():
        # far from uniform, so that the likeliest id is clear
        model.get_input_embeddings().weight.mul_(20)
    return model


def pair_of(network, lengths):
    """Return both forward passes with their caches, and prompts of these lengths, prefilled in
    rows one after another."""
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, VOCABULARY, (n,), generator=draw).tolist() for n in lengths]
    plain, cache = HFForward(network), Cache.of(network, ROWS)
    for row, prompt in enumerate(prompts):
        plain.prefill(torch.tensor(prompt), row, 0, cache)
    made, own = StaticForward(network, static := Cache.static(network, ROWS)), static
    return plain, cache, made, own, prompts


def test_decoding_gives_the_states_of_the_plain_pass(network):
    lengths = [3, 254, 17, 1, 200]  # 5 rows are padded to 6; 254 grows beyond the first limit
    plain, cache, made, own, prompts = pair_of(network, lengths)
    made.prefill_last([PromptChunk(p, row, 0) for row, p in enumerate(prompts)], own)
    for step in range(4):
        ids, held = [step + k for k in range(5)], [n + step for n in lengths]
        for count in (5, 2):  # the same rows in several shapes
            expected = plain.decode(ids[:count], held[:count], cache)
            torch.testing.assert_close(
                made.decode(ids[:count], held[:count], own), expected, rtol=1e-4, atol=1e-4
            )


def test_prompts_that_are_prefilled_together_give_the_states_of_each(network):
    lengths = [9, 30, 12, 300]
    plain, cache, made, own, prompts = pair_of(network, lengths)
    heads, rows = [5, 0, 12, 250], [3, 0, 4, 1]  # one at once, the others in two parts
    expected = {}
    for prompt, row in zip(prompts, rows, strict=True):
        expected[row] = plain.prefill(torch.tensor(prompt), row, 0, cache)
    first = [
        PromptChunk(p[:n], row, 0) for p, n, row in zip(prompts, heads, rows, strict=True) if n
    ]
    states = dict(zip([chunk.row for chunk in first], made.prefill_last(first, own), strict=True))
    for chunk in first:
        known = expected[chunk.row][len(chunk.ids) - 1]
        torch.testing.assert_close(states[chunk.row], known, rtol=1e-4, atol=1e-4)
    rest = [
        PromptChunk(p[n:], row, n) for p, n, row in zip(prompts, heads, rows, strict=True) if p[n:]
    ]
    for chunk, state in zip(rest, made.prefill_last(rest, own), strict=True):
        torch.testing.assert_close(state, expected[chunk.row][-1], rtol=1e-4, atol=1e-4)


def test_a_padded_step_leaves_the_rows_behind_it_as_they_are(network):
    made = StaticForward(network, own := Cache.static(network, ROWS))
    made.prefill_last([PromptChunk([7, 8, 9, 10], row, 0) for row in range(6)], own)
    before = [layer[:, 5, :, :-1].clone() for layer in own.layers]
    made.decode([1, 2, 3, 4, 5], [4, 4, 4, 4, 4], own)  # as 6 rows, of which the last is in use
    for layer, was in zip(own.layers, before, strict=True):
        assert torch.equal(layer[:, 5, :, :-1], was)


def test_the_engine_says_what_transformers_says(network):
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(0, VOCABULARY, (n,), generator=draw).tolist() for n in (3, 17, 40, 9)]
    expected = [small_models.likeliest_ids(network, prompt, 12) for prompt in prompts]
    # fewer rows than requests, and prompts in parts: rows move while others are prefilled
    engine = Engine(network, EngineConfig(rows=3, prefill_tokens=8, static=True))
    assert isinstance(engine.forward, StaticForward)
    allowed = TokenConstraint(position_ranges=((0, VOCABULARY),) * 12)
    handles = []
    for prompt in prompts:
        request = Request(
            prompt=prompt, token_constraint=allowed, sampling=SamplingConfig(temperature=0)
        )
        handles.append(engine.submit(request))
        engine.step()
    engine.run(handles)
    assert [handle.ids for handle in handles] == expected
    again = engine.generate([prompts[2]], allowed, SamplingConfig(temperature=0), [0])
    assert again == [expected[2]] and engine.prefixes.reused >= 32


class StandInGraph:
    """Stands for a CUDA graph: replays by running the step."""

    def __init__(self, made, size, limit):
        self.replay = lambda: made._step(size, limit)


def test_each_shape_is_captured_once(network, monkeypatch):
    made = StaticForward(network, own := Cache.static(network, ROWS))
    shapes, ids, lengths = [], [1, 2, 3], [0, 0, 0]

    def capture(size, limit):
        shapes.append((size, limit))
        return StandInGraph(made, size, limit)

    expected = made.decode(ids, lengths, own)
    made.captures = True
    monkeypatch.setattr(made, "_capture", capture)
    assert torch.equal(made.decode(ids, lengths, own), expected)
    made.decode([1, 2, 3, 4], [0, 0, 0, 0], own)
    made.decode([1], [300], own)
    assert shapes == [(4, 256), (1, 384)] and sorted(made.graphs) == sorted(shapes)


def test_what_cannot_be_captured_decodes_uncaptured(network, monkeypatch, caplog):
    made = StaticForward(network, own := Cache.static(network, ROWS))
    expected = made.decode([1, 2], [0, 0], own)

    def refuse(size, limit):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    made.captures = True
    monkeypatch.setattr(made, "_capture", refuse)
    for _ in range(2):
        assert torch.equal(made.decode([1, 2], [0, 0], own), expected)
    assert [record.getMessage() for record in caplog.records if record.name == "onnuri"] == [
        "no CUDA graphs for this model (operation not permitted when stream is capturing): "
        "it decodes uncaptured"
    ]


def test_a_step_looks_at_no_value(network):
    """On the meta device there are none to look at, and a tensor that is elsewhere is an error."""
    with torch.device("meta"):
        outline = backbone.build_hf_model(network.config.model_type, network.config.to_dict())
    if outline._can_set_experts_implementation():
        outline.set_experts_implementation("batched_mm")
    meta = torch.device("meta")
    made = StaticForward(outline.eval(), Cache.static(outline, ROWS, meta))
    with torch.inference_mode():
        made._step(4, 256)
    assert made.states.device.type == "meta"


def test_a_cache_of_few_positions_refuses_longer_requests(network):
    engine = Engine(network, EngineConfig(rows=2, positions=20, static=True))
    allowed = TokenConstraint(position_ranges=((0, VOCABULARY),) * 5)
    assert len(engine.generate([[1] * 15], allowed, SamplingConfig(temperature=0), [0])[0]) == 5
    with pytest.raises(ConfigError, match="longer than the model's 20 positions"):
        engine.submit(Request(prompt=[1] * 16, token_constraint=allowed))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_device_is_refused(network):
    with pytest.raises(ConfigError) as error:
        Engine(network, EngineConfig(device="cuda"))
    expected = "--device cuda: needs a CUDA GPU, and torch sees none; use --device cpu"
    assert str(error.value) == expected


def test_shapes_are_few_and_hold_every_step():
    sizes, limits = static_forward.batch_sizes(24), static_forward.length_limits(4160)
    assert sizes == [1, 2, 4, 8, 12, 16, 24]
    assert limits == [256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 4160]
    assert static_forward.batch_sizes(3) == [1, 2, 3] and static_forward.length_limits(64) == [64]


def test_norms_of_llamas_kind_are_fused_and_others_are_left(network):
    made = StaticForward(network, Cache.static(network, ROWS))
    norms = [m for m in network.modules() if type(m).__name__.endswith("RMSNorm")]
    # VAETKI's multiply by 1 + w, and A.X K2's gated ones do more
    others = [m for m in norms if type(m).__name__ in ("VaetkiRMSNorm", "AXK2GatedRMSNorm")]
    assert set(made.norms) == set(norms) - set(others) and norms
    made.prefill(torch.arange(5), 0, 0, made.cache)
    assert not any("forward" in vars(module) for module in norms)


def test_a_norm_that_computes_something_else_is_not_replaced():
    class ZeroCentred(torch.nn.Module):
        """Has the attributes of Llama's, and multiplies by 1 + w."""

        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(torch.zeros(8)), 1e-6

        def forward(self, x):
            return (1 + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)

    assert not static_forward._fused_norms(ZeroCentred())


def test_the_shipped_model_answers_the_same_in_fixed_shapes():
    """Guidance, gates and constraints through both engines, requests of all media side by side."""
    model = onnuri.load()
    engine = Engine(model.network, EngineConfig(rows=6, static=True))
    greedy = {name: own.replace(temperature=0.0) for name, own in model.sampling.items()}

    def answers():
        inputs = [("text", "a small red sphere is left of a blue cube")]
        return [
            model.answers.answer(to, inputs, "en", greedy)
            for to in ("image", "audio", "shape", "text")
        ]

    for own, known in zip(
        run_pipelines(engine, answers()), run_pipelines(model.engine, answers()), strict=True
    ):
        assert list(own) == list(known) and len(own)
