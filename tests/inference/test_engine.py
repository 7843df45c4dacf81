import numpy as np
import pytest
import torch

from onnuri.errors import BusyError, ConfigError
from onnuri.inference.cache import PAGE, Cache, PrefixCache
from onnuri.inference.cpu_llama import LlamaForward
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.request import Request, SamplingConfig, TokenConstraint
from onnuri.inference.sampler import draw, two_step_logits


def greedy(network, prompt, steps, ranges):
    ids = list(prompt)
    for k in range(steps):
        logits = network(input_ids=torch.tensor([ids])).logits[0, -1]
        lo, hi = ranges[k]
        ids.append(lo + int(logits[lo:hi].argmax()))
    return ids[len(prompt) :]


def test_cached_batched_padded_decoding_is_transformers_greedy(network):
    prompts = [[1, 2, 3, 4, 5, 6, 7], [9, 8], [40, 41, 42, 43]]
    ranges = ((0, 120), (30, 60), (0, 50), (70, 71), (100, 120)) * 2
    made = Engine(network).generate(
        prompts, TokenConstraint(position_ranges=ranges), SamplingConfig(temperature=0), [0, 0, 0]
    )
    assert made == [greedy(network, p, len(ranges), ranges) for p in prompts]


def test_guidance_moves_away_from_the_prompt_without_input(network):
    allowed, prompt, bare = TokenConstraint(position_ranges=((0, 120),)), [1, 2, 3, 4], [1]
    made = Engine(network).generate(
        [prompt], allowed, SamplingConfig(temperature=0, guidance=3.0), [0], [bare]
    )
    with torch.no_grad():
        a, b = (network(input_ids=torch.tensor([p])).logits[0, -1] for p in (prompt, bare))
    assert made == [[int((b + 3 * (a - b)).argmax())]]


def test_rows_of_free_length_end_at_their_end(network):
    allowed = TokenConstraint(vocab_range=(0, 60), end=90, max_tokens=30)
    made = Engine(network).generate(
        [[1], [2], [3]], allowed, SamplingConfig(temperature=3.0, top_p=1.0), [0, 1, 2]
    )
    assert all(0 <= t < 60 for row in made for t in row) and all(len(row) <= 30 for row in made)


def test_positions_agree_with_what_leads_them(network):
    ranges = ((0, 4), (10, 13), (20, 23), (30, 33))
    allowed, prompts = (
        TokenConstraint(position_ranges=ranges, slot_gates=(0, 0, 2, 2)),
        [[k] for k in range(80)],
    )
    made = Engine(network).generate(
        prompts, allowed, SamplingConfig(temperature=9.0, top_p=1.0), list(range(80))
    )
    last = [[t == hi - 1 for t, (_, hi) in zip(row, ranges, strict=True)] for row in made]
    assert all(a == b and c == d for a, b, c, d in last)
    assert {(a, c) for a, _, c, _ in last} == {
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    }


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_whether_comes_before_which(temperature):
    shares = torch.tensor([[0.2, 0.15, 0.15, 0.1, 0.4], [0.1, 0.1, 0.05, 0.05, 0.7]])
    made = two_step_logits(shares.log(), temperature)
    drawn = torch.stack(
        [
            draw(
                made, temperature, 1.0, [torch.Generator().manual_seed(2 * s + k) for k in range(2)]
            )
            for s in range(3000)
        ]
    )
    power = 1 / temperature if temperature else 50.0
    for row, odds in enumerate(shares.double()):
        last, others = odds[-1] ** power, odds[:-1].sum() ** power
        assert float((drawn[:, row] == 4).double().mean()) == pytest.approx(
            float(last / (last + others)), abs=0.03
        )
        first = float(odds[0] ** power / (odds[:-1] ** power).sum() * others / (last + others))
        if temperature:
            assert float((drawn[:, row] == 0).double().mean()) == pytest.approx(first, abs=0.03)


def test_a_seed_gives_the_same_row_whatever_else_is_in_the_batch(network):
    allowed, sampling = (
        TokenConstraint(position_ranges=((0, 120),) * 8),
        SamplingConfig(temperature=1.0, top_p=0.9),
    )
    alone = Engine(network).generate([[5, 6]], allowed, sampling, [7])
    together = Engine(network).generate([[1, 2, 3], [5, 6]], allowed, sampling, [1, 7])
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
    forward = LlamaForward(network)
    cache = Cache(forward.layers, 4, forward.heads, forward.positions, forward.size)
    states = [
        [forward.prefill(row[:7], k, 0, cache), forward.prefill(row[7 : 18 + k], k, 7, cache)]
        for k, row in enumerate(ids)
    ]
    lengths = torch.tensor([18, 19, 20])
    for _ in range(5):
        next_ids = ids[torch.arange(3), lengths].tolist()
        made = forward.decode(next_ids, lengths.tolist(), cache)
        for k in range(3):
            states[k].append(made[k : k + 1])
        lengths = lengths + 1
    with torch.no_grad():
        whole = network(input_ids=ids).logits
    for k, parts in enumerate(states):
        ours = forward.logits(torch.cat(parts), 0, 120)
        assert torch.allclose(ours, whole[k, : len(ours)], atol=1e-4)


def test_ids_are_told_as_they_are_drawn(network):
    told = [[], []]
    engine, allowed = Engine(network), TokenConstraint(position_ranges=((0, 120),) * 5)
    handles = [
        engine.submit(
            Request(prompt=[k + 1], token_constraint=allowed, seed=k, on_token=told[k].append)
        )
        for k in range(2)
    ]
    engine.step()
    assert [len(t) for t in told] == [1, 1] and not handles[0].done
    engine.run(handles)
    assert told == [t.ids for t in handles] and {t.finish for t in handles} == {"stop"}


def test_a_script_is_put_in_at_the_start_and_after_every_end(network):
    """Every id that was fed, in order: forced runs, ids of the free range, ends; the answer has the
    drawn ones only."""
    forced_segments = [[[100, 101], [102]], [[110]], []]
    fed = [[] for _ in forced_segments]
    allowed = TokenConstraint(vocab_range=(0, 60), end=90, max_tokens=60, max_segment=7)
    engine, sampling = Engine(network), SamplingConfig(temperature=3.0, top_p=1.0)
    handles = [
        engine.submit(
            Request(
                prompt=p,
                token_constraint=allowed,
                sampling=sampling,
                seed=k,
                forced_segments=forced_segments[k],
                on_token=fed[k].append,
            )
        )
        for k, p in enumerate([[1], [2, 3], [4]])
    ]
    engine.run(handles)
    answers = [handle.ids for handle in handles]
    for segments, ids, answer in zip(forced_segments, fed, answers, strict=True):
        for run in segments or [[]]:
            assert ids[: len(run)] == run
            free = ids[len(run) : ids.index(90, len(run))]
            assert all(0 <= t < 60 for t in free) and len(free) <= 7
            assert answer[: len(free)] == free
            answer, ids = answer[len(free) :], ids[len(run) + len(free) + 1 :]
        assert answer == []


def test_scripted_rows_are_each_as_they_are_alone(network):
    allowed, sampling = (
        TokenConstraint(vocab_range=(0, 60), end=90, max_tokens=40, max_segment=9),
        SamplingConfig(temperature=2.0),
    )
    prompts, forced_segments = [[1], [2, 3, 4]], [[[100], [101], [102]], [[110, 111]]]
    together = Engine(network).generate(
        prompts, allowed, sampling, [3, 4], forced_segments=forced_segments
    )
    alone = [
        Engine(network).generate([p], allowed, sampling, [s], forced_segments=[c])[0]
        for p, s, c in zip(prompts, (3, 4), forced_segments)
    ]
    assert together == alone


def mixed(network, seed, count=24):
    """Requests of all sorts: lengths, plans, guidance, scripts, temperatures."""
    rng = torch.Generator().manual_seed(seed)

    def number(least, most):
        return int(torch.randint(least, most, (), generator=rng))

    requests = []
    for k in range(count):
        prompt = torch.randint(0, 120, (number(1, 40),), generator=rng).tolist()
        sampling = SamplingConfig(temperature=(0.0, 1.0)[k % 2], guidance=(1.0, 2.0)[k % 3 == 0])
        if k % 4 == 0:
            # things that share ranges, at other places in other plans
            thing, skipped = ((0, 3), (50, 53)), number(0, 3)
            allowed = TokenConstraint(
                position_ranges=(*((80, 90),) * skipped, *thing * 3),
                slot_gates=(*(None,) * skipped, *(skipped + 2 * (j // 2) for j in range(6))),
            )
            forced_segments = []
        else:
            allowed = TokenConstraint(
                vocab_range=(0, 100),
                end=110,
                max_tokens=number(1, 30),
                max_segment=5 if k % 4 == 1 else 0,
            )
            forced_segments = [[100, 101], [102]] if k % 4 == 1 else []
        requests.append(
            Request(
                prompt=prompt,
                token_constraint=allowed,
                sampling=sampling,
                seed=k,
                unconditional_prompt=[1, 2],
                forced_segments=forced_segments,
                kind="abc"[k % 3],
            )
        )
    return requests


@pytest.mark.parametrize("rows,chunk,prefix", [(2, 256, 0), (5, 3, 1 << 20), (64, 16, 1 << 12)])
def test_whatever_else_is_decoded_an_answer_is_what_it_is_alone(network, rows, chunk, prefix):
    requests = mixed(network, rows)
    alone = []
    for request in requests:
        engine = Engine(network, EngineConfig(prefix_bytes=0))
        handle = engine.submit(request)
        engine.run([handle])
        alone.append((handle.ids, handle.finish))
    engine = Engine(network, EngineConfig(rows=rows, prefill_tokens=chunk, prefix_bytes=prefix))
    handles = []
    for request in requests:  # they come while others are under way
        handles.append(engine.submit(request))
        engine.step()
    engine.run(handles)
    assert [(t.ids, t.finish) for t in handles] == alone
    assert engine.idle and not engine.rows


def test_what_is_called_off_leaves_the_others_as_they_are(network):
    requests = mixed(network, 9)
    expected = []
    for request in requests:
        engine = Engine(network)
        handle = engine.submit(request)
        engine.run([handle])
        expected.append(handle.ids)
    engine = Engine(network, EngineConfig(rows=12, prefill_tokens=8))
    handles = [engine.submit(request) for request in requests]
    for k, handle in enumerate(handles[1::2]):
        for _ in range(k % 4):
            engine.step()
        handle.cancel()
    engine.run(handles)
    for k, handle in enumerate(handles):
        assert handle.finish == "cancelled" or handle.ids == expected[k]
    assert sum(t.finish == "cancelled" for t in handles) >= 6 and not engine.rows


def test_a_conversation_goes_on_from_what_was_read(network):
    engine, allowed = (
        Engine(network),
        TokenConstraint(vocab_range=(0, 100), end=110, max_tokens=20),
    )
    prompt = [(7 * k) % 100 for k in range(60)]
    handle = engine.submit(
        Request(prompt=prompt, token_constraint=allowed, sampling=SamplingConfig(temperature=0))
    )
    engine.run([handle])
    longer = [*prompt, *handle.ids, 3, 4, 5]
    again = engine.submit(
        Request(prompt=longer, token_constraint=allowed, sampling=SamplingConfig(temperature=0))
    )
    engine.run([again])
    fresh = Engine(network, EngineConfig(prefix_bytes=0))
    expected = fresh.submit(again.request)
    fresh.run([expected])
    assert again.ids == expected.ids
    assert engine.prefixes.reused >= len(prompt) + len(handle.ids) - PAGE


def test_prefixes_hold_what_rows_held_and_forget_the_oldest():
    """Beside a dict of every prefix that was ever page_index: what is reused is right, and as long as
    room allows."""
    rng = np.random.default_rng(0)
    cache = Cache(layers=2, rows=2, heads=2, positions=128, size=4)
    room = 12
    prefixes = PrefixCache(room * 2 * 2 * 2 * PAGE * 4 * 4, cache)
    for step in range(300):
        ids = [
            *([int(rng.integers(3))] * 20),
            *rng.integers(0, 2, int(rng.integers(0, 100))).tolist(),
        ]
        held = [
            torch.from_numpy(np.cumsum(ids)).float() * (layer + 1) for layer in range(2)
        ]  # tells of all ids up to each
        found = prefixes.lookup(ids, cache, 1)
        assert found % PAGE == 0 and found < len(ids)
        for layer, want in zip(cache.layers, held, strict=True):
            assert torch.equal(
                layer[:, 1, :, :found], want[:found].view(1, 1, -1, 1).expand(2, 2, found, 4)
            )
            layer[:, 0, :, : len(ids)] = want.view(1, 1, -1, 1)
        prefixes.insert(ids, cache, 0)
        again = prefixes.lookup([*ids, 1], cache, 1)
        assert again == len(ids) // PAGE * PAGE and len(prefixes.page_index) <= room
        assert sorted([*prefixes.free, *prefixes.page_index.values()]) == list(range(room)), step
    assert len(prefixes.page_index) == room and prefixes.held_bytes == room * prefixes.page_bytes


def test_too_many_and_too_long_are_refused(network):
    engine, allowed = (
        Engine(network, EngineConfig(waiting=2)),
        TokenConstraint(position_ranges=((0, 120),)),
    )
    for _ in range(2):
        engine.submit(Request(prompt=[1], token_constraint=allowed))
    with pytest.raises(BusyError, match="2 requests wait"):
        engine.submit(Request(prompt=[1], token_constraint=allowed))
    with pytest.raises(ConfigError, match="longer than the model"):
        engine.submit(Request(prompt=[1] * 2048, token_constraint=allowed))
