"""A request's own constraint and its scores, against transformers' logits and log_softmax."""

import pytest
import torch

from onnuri.inference import sampler
from onnuri.inference.engine import Engine
from onnuri.inference.request import Request, SamplingConfig, TokenConstraint

PLAN = TokenConstraint(vocab_range=(10, 60), end=90, max_tokens=12)
END = 50
"""the end, counted as a constraint does"""


class Every:
    """Multiples of `of` only; the end after `least` of them. `instead` is put in the place of what
    is drawn third."""

    def __init__(self, of=1, least=0, instead=None, closing=None):
        self.of, self.least, self.instead, self.close, self.count = of, least, instead, closing, 0

    def allowed(self):
        return bytes([*(k % self.of == 0 for k in range(END)), self.count >= self.least])

    def closing(self):
        return self.close

    def take(self, drawn):
        self.count += 1
        return self.instead if self.instead is not None and self.count == 3 else drawn


def run(engine, *requests):
    handles = [engine.submit(request) for request in requests]
    engine.run(handles)
    return [handle.ids for handle in handles]


def request(k=0, **more):
    return Request(
        prompt=[k + 1, 2, 3],
        token_constraint=PLAN,
        sampling=SamplingConfig(temperature=20.0, top_p=1.0),
        seed=k,
        **more,
    )


def test_only_what_is_allowed_is_drawn(network):
    [ids] = run(Engine(network), request(constraint=Every(of=7, least=12)))
    assert len(ids) == 12 and all((i - 10) % 7 == 0 for i in ids) and len(set(ids)) > 1


def test_others_are_as_they_are_alone(network):
    alone = [run(Engine(network), request(k))[0] for k in range(4)]
    bound = [run(Engine(network), request(k, constraint=Every(of=3, least=5)))[0] for k in range(4)]
    everyone = [
        r for k in range(4) for r in (request(k), request(k, constraint=Every(of=3, least=5)))
    ]
    together = run(Engine(network), *everyone)
    assert together[::2] == alone and together[1::2] == bound and bound != alone


def test_a_constraint_may_put_another_id_in_the_place_of_what_was_drawn(network):
    told = []
    [ids] = run(
        Engine(network), request(constraint=Every(of=2, least=12, instead=33), on_token=told.append)
    )
    assert ids[2] == 43 and told == ids
    [ids] = run(Engine(network), request(constraint=Every(of=2, least=12, instead=END)))
    assert len(ids) == 2


def test_where_the_answer_may_not_end_the_ends_score_goes_to_what_closes(network):
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([[1, 2, 3]])).logits[0, -1]
    scores = [*logits[10:60].tolist()]
    scores[4] = float(logits[90])
    engine = Engine(network)
    made = engine.submit(
        Request(
            prompt=[1, 2, 3],
            token_constraint=PLAN,
            sampling=SamplingConfig(temperature=0),
            constraint=Every(least=12, closing=4),
        )
    )
    engine.step()
    assert made.ids == [10 + max(range(END), key=scores.__getitem__)]


@pytest.mark.parametrize("of", [None, 5])
def test_scores_are_log_softmax_over_what_is_allowed(network, of):
    scores, told = [], []
    [ids] = run(
        Engine(network),
        request(
            on_score=scores.append,
            likeliest=4,
            on_token=told.append,
            constraint=Every(of) if of else None,
        ),
    )
    assert len(scores) == len(told) >= len(ids) > 0
    for k, (token, score) in enumerate(zip(told, scores, strict=True)):
        with torch.no_grad():
            logits = network(input_ids=torch.tensor([[1, 2, 3, *told[:k]]])).logits[0, -1]
        allowed = [i for i in [*range(10, 60), 90] if of is None or i == 90 or (i - 10) % of == 0]
        logprobs = dict(zip(allowed, logits[allowed].log_softmax(-1).tolist(), strict=True))
        assert score.logprob == pytest.approx(logprobs[token], abs=1e-3)
        assert [i for i, _ in score.likeliest] == sorted(logprobs, key=logprobs.get, reverse=True)[
            :4
        ]
        assert [p for _, p in score.likeliest] == pytest.approx(
            sorted(logprobs.values(), reverse=True)[:4], abs=1e-3
        )


def test_no_more_are_named_than_are_allowed(network):
    scores = []
    run(Engine(network), request(on_score=scores.append, likeliest=20, constraint=Every(of=25)))
    assert {len(s.likeliest) for s in scores} == {3}


def test_nothing_is_computed_for_those_who_do_not_ask(network, monkeypatch):
    def never(*_):
        raise AssertionError("a score that nobody asked for")

    expected, scores = run(Engine(network), request(1))[0], []
    assert (
        run(Engine(network), request(1, on_score=scores.append, likeliest=3))[0] == expected
        and scores
    )
    monkeypatch.setattr(sampler, "likelihood", never)
    monkeypatch.setattr(sampler, "masked", never)
    assert run(Engine(network), request(1)) == [expected]
