"""The shipped model, decoded by our engine in a mix of all media, against `transformers.generate`
one by one."""

import pytest
import torch

import onnuri
from onnuri.inference.engine import Engine, EngineConfig
from onnuri.inference.request import Request, SamplingConfig, TokenConstraint
from onnuri.modality import MEDIA
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

GREEDY = SamplingConfig(temperature=0)


def requests_of(model, count):
    """`count` prompts for every modality: sentences to all, and pictures to text."""
    v, found = model.layout, []
    for k in range(count):
        said = caption(sample_scene(k, "seen"), "ko" if k % 2 else "en", generator("seen", k))
        for to in MEDIA:
            allowed = model.token_constraint(to)
            if allowed.position_ranges:
                allowed = TokenConstraint(
                    position_ranges=allowed.position_ranges
                )  # what agrees with what is ours, not transformers'
            else:
                allowed = TokenConstraint(
                    vocab_range=allowed.vocab_range, end=allowed.end, max_tokens=60
                )
            words = v.segment("text", model.codecs["text"].encode(said), "ko" if k % 2 else "en")
            prompt = [v.special("<bos>"), *words, *v.opening(to, "en" if k % 2 else "ko")]
            found.append(Request(prompt=prompt, token_constraint=allowed, sampling=GREEDY, kind=to))
    return found


def reference(network, request):
    """What transformers generates when it may take the same ids at the same places."""
    constraint, start = request.token_constraint, len(request.prompt)

    def allowed(_, ids):
        lo, hi, may_end = constraint.at(min(len(ids) - start, request.steps - 1))
        return [*range(lo, hi), *([constraint.end] if may_end else [])]

    ids = torch.tensor([request.prompt])
    made = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=request.steps,
        prefix_allowed_tokens_fn=allowed,
        eos_token_id=constraint.end if constraint.end >= 0 else None,
        pad_token_id=0,
    )
    ids = made[0, start:].tolist()
    return ids[: ids.index(constraint.end)] if constraint.end in ids else ids


def gap(network, request, ids):
    """Between the two likeliest ids that follow, in logits."""
    lo, hi, may_end = request.token_constraint.at(len(ids))
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([request.prompt + ids])).logits[0, -1]
    first, second = (
        torch.cat([logits[lo:hi], logits[request.token_constraint.end :][: int(may_end)]])
        .topk(2)
        .values
    )
    return float(first - second)


@pytest.mark.parametrize(
    "rows,chunk",
    [pytest.param(24, 256, marks=pytest.mark.long), pytest.param(7, 16, marks=pytest.mark.slow)],
)
def test_two_hundred_prompts_give_what_transformers_gives(rows, chunk, capsys):
    model = onnuri.load()
    requests = requests_of(model, 40 if rows == 24 else 8)
    engine = Engine(model.network, EngineConfig(rows=rows, prefill_tokens=chunk))
    handles = []
    for request in requests:  # they come while others are under way
        handles.append(engine.submit(request))
        engine.step()
    engine.run(handles)
    other, close = [], 0
    for request, handle in zip(requests, handles, strict=True):
        expected = reference(model.network, request)
        if handle.ids != expected:
            same = next(
                (k for k, (a, b) in enumerate(zip(handle.ids, expected)) if a != b),
                min(len(expected), len(handle.ids)),
            )
            other.append(gap(model.network, request, expected[:same]))
            close += other[-1] <= 1e-4
    with capsys.disabled():
        print(
            f"\n{len(requests)} prompts over {len(MEDIA)} media: {len(requests) - len(other)} equal, {len(other)} not, "
            f"of these {close} at a gap of 1e-4 at most"
        )
    assert close == len(other) and len(other) <= 0.01 * len(requests)
