import pytest
import torch

from onnuri.decoding.engine import Engine, Plan
from onnuri.decoding.sample import SamplingConfig, draw, whether_first
from onnuri.model.backbone import BackboneConfig


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    model = BackboneConfig(vocabulary=120, width=48, layers=3, heads=3, hidden=96).build().eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)  # far from uniform, so that the likeliest id is clear
    return model


def greedy(network, prompt, steps, ranges):
    ids = list(prompt)
    for k in range(steps):
        logits = network(input_ids=torch.tensor([ids])).logits[0, -1]
        lo, hi = ranges[k]
        ids.append(lo + int(logits[lo:hi].argmax()))
    return ids[len(prompt):]


def test_cached_batched_padded_decoding_is_transformers_greedy(network):
    prompts = [[1, 2, 3, 4, 5, 6, 7], [9, 8], [40, 41, 42, 43]]
    ranges = ((0, 120), (30, 60), (0, 50), (70, 71), (100, 120)) * 2
    made = Engine(network).generate(prompts, Plan(ranges=ranges), SamplingConfig(temperature=0), [0, 0, 0])
    assert made == [greedy(network, p, len(ranges), ranges) for p in prompts]


def test_guidance_moves_away_from_the_prompt_without_input(network):
    plan, prompt, bare = Plan(ranges=((0, 120),)), [1, 2, 3, 4], [1]
    made = Engine(network).generate([prompt], plan, SamplingConfig(temperature=0, guidance=3.0), [0], [bare])
    with torch.no_grad():
        a, b = (network(input_ids=torch.tensor([p])).logits[0, -1] for p in (prompt, bare))
    assert made == [[int((b + 3 * (a - b)).argmax())]]


def test_rows_of_free_length_end_at_their_end(network):
    plan = Plan(free=(0, 60), end=90, longest=30)
    made = Engine(network).generate([[1], [2], [3]], plan, SamplingConfig(temperature=3.0, top_p=1.0), [0, 1, 2])
    assert all(0 <= t < 60 for row in made for t in row) and all(len(row) <= 30 for row in made)


def test_positions_agree_with_what_leads_them(network):
    ranges = ((0, 4), (10, 13), (20, 23), (30, 33))
    plan, prompts = Plan(ranges=ranges, leads=(0, 0, 2, 2)), [[k] for k in range(80)]
    made = Engine(network).generate(prompts, plan, SamplingConfig(temperature=9.0, top_p=1.0), list(range(80)))
    last = [[t == hi - 1 for t, (_, hi) in zip(row, ranges, strict=True)] for row in made]
    assert all(a == b and c == d for a, b, c, d in last)
    assert {(a, c) for a, _, c, _ in last} == {(False, False), (False, True), (True, False), (True, True)}


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_whether_comes_before_which(temperature):
    shares = torch.tensor([[0.2, 0.15, 0.15, 0.1, 0.4], [0.1, 0.1, 0.05, 0.05, 0.7]])
    made = whether_first(shares.log(), temperature)
    drawn = torch.stack([draw(made, temperature, 1.0, [torch.Generator().manual_seed(2 * s + k) for k in range(2)])
                         for s in range(3000)])
    power = 1 / temperature if temperature else 50.0
    for row, odds in enumerate(shares.double()):
        last, others = odds[-1] ** power, odds[:-1].sum() ** power
        assert float((drawn[:, row] == 4).double().mean()) == pytest.approx(float(last / (last + others)), abs=0.03)
        first = float(odds[0] ** power / (odds[:-1] ** power).sum() * others / (last + others))
        if temperature:
            assert float((drawn[:, row] == 0).double().mean()) == pytest.approx(first, abs=0.03)


def test_a_seed_gives_the_same_row_whatever_else_is_in_the_batch(network):
    plan, sampling = Plan(ranges=((0, 120),) * 8), SamplingConfig(temperature=1.0, top_p=0.9)
    alone = Engine(network).generate([[5, 6]], plan, sampling, [7])
    together = Engine(network).generate([[1, 2, 3], [5, 6]], plan, sampling, [1, 7])
    assert together[1] == alone[0]


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    drawn = {int(draw(logits, 1.0, 0.7, [torch.Generator().manual_seed(s)])) for s in range(200)}
    assert drawn == {0, 1}


def test_temperature_one_draws_as_the_shares_say():
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1]])).expand(4000, 3)
    drawn = draw(logits, 1.0, 1.0, [torch.Generator().manual_seed(s) for s in range(4000)])
    shares = torch.bincount(drawn, minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)


def test_our_forward_is_transformers(network):
    ids = torch.randint(0, 120, (3, 25), generator=torch.Generator().manual_seed(4))
    engine = Engine(network)
    cache = torch.zeros(engine.layers, 2, 3, engine.heads, 25, engine.size)
    positions, causal = torch.arange(25).expand(3, -1), torch.ones(3, 1, 25, 25, dtype=torch.bool).tril()
    with torch.no_grad():
        whole = engine.hidden(ids[:, :20], positions[:, :20], cache, 0, causal[..., :20, :20])
        parts = [engine.hidden(ids[:, k : k + 1], positions[:, k : k + 1], cache, k, causal[..., k : k + 1, : k + 1])
                 for k in range(20, 25)]
        ours = torch.cat([whole, *parts], 1) @ engine.embedding.T
        assert torch.allclose(ours, network(input_ids=ids).logits, atol=1e-4)


def test_ids_are_told_as_they_are_drawn(network):
    told = []
    made = Engine(network).generate([[1, 2], [3]], Plan(ranges=((0, 120),) * 5), SamplingConfig(), [1, 2],
                                    on_step=lambda step, ids: told.append((step, ids)))
    assert [step for step, _ in told] == list(range(5))
    assert [list(row) for row in zip(*(ids for _, ids in told), strict=True)] == made


def test_a_script_is_put_in_at_the_start_and_after_every_end(network):
    """Every id that was fed, in order: forced runs, ids of the free range, ends; the answer has the drawn ones only."""
    scripts, fed = [[[100, 101], [102]], [[110]], []], []
    plan = Plan(free=(0, 60), end=90, longest=60, stretch=7)
    made = Engine(network).generate([[1], [2, 3], [4]], plan, SamplingConfig(temperature=3.0, top_p=1.0), [0, 1, 2],
                                    scripts=scripts, on_step=lambda step, ids: fed.append(ids))
    for row, (script, answer) in enumerate(zip(scripts, made, strict=True)):
        ids = [step[row] for step in fed]
        runs = script or [[]]
        for run in runs:
            assert ids[: len(run)] == run
            free = ids[len(run) : ids.index(90, len(run))]
            assert all(0 <= t < 60 for t in free) and len(free) <= 7
            assert answer[: len(free)] == free
            answer, ids = answer[len(free) :], ids[len(run) + len(free) + 1 :]
        assert answer == []


def test_scripted_rows_are_each_as_they_are_alone(network):
    plan, sampling = Plan(free=(0, 60), end=90, longest=40, stretch=9), SamplingConfig(temperature=2.0)
    prompts, scripts = [[1], [2, 3, 4]], [[[100], [101], [102]], [[110, 111]]]
    together = Engine(network).generate(prompts, plan, sampling, [3, 4], scripts=scripts)
    alone = [Engine(network).generate([p], plan, sampling, [s], scripts=[c])[0] for p, s, c in zip(prompts, (3, 4), scripts)]
    assert together == alone
