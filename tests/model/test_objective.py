import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from toy_specs import toy_specs

from onnuri.data.pack import pack
from onnuri.data.segment import Segment, SpokenWords
from onnuri.modality import MEDIA
from onnuri.model.backbone import BackboneConfig
from onnuri.model.loss import soft_targets
from onnuri.model.objective import omni_loss, sequence_ids
from onnuri.model.token_layout import TokenLayout
from onnuri.planner import stock

LAYOUT = TokenLayout.of(toy_specs(300))
SETS = tuple(LAYOUT.candidate_sets())


def segment(modality, rng, weight=1.0):
    spec = LAYOUT.spec(modality)
    codes = (
        [int(rng.integers(lo, hi)) for lo, hi in spec.slots.position_ranges]
        if spec.slots
        else rng.integers(0, spec.num_codes, 12).tolist()
    )
    return Segment(modality, np.array(codes), None if spec.slots else "ko", weight)


def test_ranges_are_apart_and_cover_everything():
    spans = [LAYOUT.span(c) for c in ("text", *LAYOUT.ranges)]
    assert spans[0][0] == 0 and spans[-1][1] == LAYOUT.size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert "<|embed|>" in LAYOUT.specials and LAYOUT.special("<pad>") == 300


@pytest.mark.parametrize("modality", MEDIA)
def test_codes_and_ids_are_one_to_one(modality):
    codes = np.arange(LAYOUT.spec(modality).num_codes)
    ids = LAYOUT.ids(modality, codes)
    assert (LAYOUT.codes(modality, ids) == codes).all()
    lo, hi = LAYOUT.span(LAYOUT.spec(modality).codebook)
    assert ((ids >= lo) & (ids < hi)).all()


def competitors(target):
    """bool [V]: what may stand where `target` stands, by the layout."""
    allowed = torch.zeros(LAYOUT.size, dtype=torch.bool)
    word = LAYOUT.special("<|word|>")
    lo, hi = LAYOUT.span("audio")
    if lo <= target < hi or target == word:
        allowed[lo:hi] = allowed[word] = True
    for modality in MEDIA:
        for lo, hi in LAYOUT.allowed(modality) or [LAYOUT.span("text")] * (modality == "text"):
            if lo <= target < hi and target != word:
                allowed[lo:hi] = True
    return allowed


def by_twos(codes):
    return np.split(codes, range(2, len(codes), 2))


def test_sliced_loss_is_the_full_softmax_with_all_that_cannot_stand_there_masked():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = BackboneConfig(vocabulary=LAYOUT.size, width=32, layers=2, heads=2, hidden=64).build()
    speech = [
        segment("text", rng, 0.2),
        Segment(
            "audio",
            rng.integers(0, 4096, 9),
            "ko",
            1.0,
            SpokenWords(rng.integers(0, 300, 6), np.array([4, 0, 5])),
        ),
    ]

    def draw():
        made = [
            segment(m, rng, w) for m, w in zip(rng.permutation(MEDIA)[:2], (0.2, 1.0), strict=True)
        ]
        return sequence_ids(speech if rng.random() < 0.3 else made, LAYOUT, by_twos)

    row = pack(draw, 600, LAYOUT.special("<pad>"))
    loss = omni_loss(model, SETS, row)
    parts = [x[0].split(row.lengths.tolist()) for x in (row.ids, row.weights)]
    total = weight = 0.0
    model.set_attn_implementation("sdpa")
    for ids, weights in zip(*parts, strict=True):  # one by one, by transformers' own head
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        for place, target in enumerate(ids[1:]):
            logits[place][~competitors(int(target))] = -1e9
        total += float((F.cross_entropy(logits, ids[1:], reduction="none") * weights[1:]).sum())
        weight += float(weights[1:].sum())
    assert float(loss.sum.detach()) == pytest.approx(total, rel=1e-5) and float(
        loss.weight
    ) == pytest.approx(weight)
    shares = torch.zeros(len(MEDIA)).index_add(0, row.modality_ids[0], row.weights[0])
    torch.testing.assert_close(loss.by_modality[:, 1], shares)
    assert float(loss.by_modality[:, 0].sum()) == pytest.approx(total, rel=1e-5) and bool(
        (loss.by_modality[:, 0] > 0).all()
    )


def test_soft_targets_are_distributions_about_the_code_and_leave_absent_alone():
    table = soft_targets(64, 1.5, 65)
    assert (
        torch.allclose(table.sum(1), torch.ones(65)) and (table.argmax(1) == torch.arange(65)).all()
    )
    assert table[64, :64].sum() == 0 and table[:64, 64].sum() == 0
    line = torch.arange(64.0)
    assert float(table[30, :64] @ line) == pytest.approx(30, abs=1e-4)
    assert float(table[30, :64] @ (line - 30) ** 2) == pytest.approx(1.5**2, rel=1e-3)


def test_soft_loss_is_the_divergence_from_them():
    torch.manual_seed(0)
    model = BackboneConfig(vocabulary=LAYOUT.size, width=32, layers=2, heads=2, hidden=64).build()
    model.set_attn_implementation("sdpa")
    rng = np.random.default_rng(3)
    row = pack(
        lambda: sequence_ids([segment("image", rng)], LAYOUT, by_twos), 35, LAYOUT.special("<pad>")
    )
    ids = row.ids[0]
    assert len(row.lengths) == 1
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0, :-1]
    total = weight = 0.0
    for place, target, share in zip(
        logits, ids[1:].tolist(), row.weights[0, 1:].tolist(), strict=True
    ):
        choice = next(c for c in LAYOUT.candidate_sets() if c.lo <= target < c.hi)
        guess = place[choice.lo : choice.hi].log_softmax(0)
        k = target - choice.lo
        if choice.label_smoothing_sigma and k < choice.ordered:
            goal = torch.distributions.Categorical(
                logits=-0.5
                * ((torch.arange(choice.ordered) - k) / choice.label_smoothing_sigma) ** 2
            )
            guess = guess[: choice.ordered]
            total += 2 * share * float((goal.probs * (goal.logits - guess)).sum())
        else:
            total -= (2 if choice.label_smoothing_sigma else 1) * share * float(guess[k])
        weight += share
    loss = omni_loss(model, SETS, row, soft=True, ordinal_weight=2.0)
    assert float(loss.mean.detach()) == pytest.approx(total / weight, rel=1e-4)


def test_the_model_s_own_speech_has_every_word_before_its_sound():
    said = Segment(
        "audio",
        np.arange(10, 19),
        "en",
        0.8,
        SpokenWords(np.array([5, 6, 7, 8, 9, 3]), np.array([4, 0, 5])),
    )
    ids, weights, media = sequence_ids([said], LAYOUT, by_twos)
    word, audio = LAYOUT.special("<|word|>"), LAYOUT.start("audio")
    body = [
        5,
        6,
        *range(audio + 10, audio + 14),
        word,
        7,
        8,
        word,
        9,
        3,
        *range(audio + 14, audio + 19),
        word,
    ]
    assert ids == [
        LAYOUT.special("<bos>"),
        *LAYOUT.opening("audio", "en"),
        *body,
        LAYOUT.special("<|/audio|>"),
        LAYOUT.special("<eos>"),
    ]
    # sounds and ends of words are foretold, words are given
    assert [i for i, w in zip(ids, weights, strict=True) if w == 0.8] == [
        i for i in body if i >= audio or i == word
    ]
    assert set(media[1:]) == {MEDIA.index("audio")}
    ((modality, language, codes),) = LAYOUT.segments(ids)
    assert (modality, language, codes.tolist()) == ("audio", "en", list(range(10, 19)))


def test_config_counts_its_weights_before_it_is_built():
    config = BackboneConfig(vocabulary=1000, width=48, layers=3, heads=3, hidden=96)
    with torch.device("meta"):
        built = config.build()
    counted = stock.from_config(config.to_transformers())
    assert sum(p.numel() for p in built.parameters()) == counted.num_params()
    assert counted.flops_per_token(128) > 6 * counted.num_params() * 0.9


def test_a_grids_fields_weigh_as_the_table_says():
    """A picture's colours weigh 3, its places 0.7, what lies behind 0.2; boundaries 0.05; all times
    the segment's weight."""
    weigh = {"form": 0.7, "color": 3.0, "x": 0.7, "y": 0.7, "width": 1.0, "height": 1.0}
    body = [0.2] * 4 + 3 * [
        w for name, w in weigh.items() for _ in range(4 if name == "form" else 1)
    ]
    ids, weights, _ = sequence_ids(
        [segment("image", np.random.default_rng(0), 0.5)], LAYOUT, by_twos
    )
    assert len(ids) == len(weights) == 1 + 1 + 31 + 1 + 1
    assert weights == pytest.approx([0.0, 0.05, *(0.5 * w for w in body), 0.05, 0.05])
    _, told, _ = sequence_ids([segment("text", np.random.default_rng(0), 0.5)], LAYOUT, by_twos)
    assert told == pytest.approx(
        [0.0, 0.05, 0.5, *[0.5] * 12, 0.5, 0.05]
    )  # the language and the end are told with the item


def test_a_row_without_targets_has_a_loss_of_nothing_that_can_be_gone_back_through():
    """Other ranks wait for its backward pass."""
    torch.manual_seed(0)
    model = BackboneConfig(vocabulary=LAYOUT.size, width=32, layers=1, heads=2, hidden=32).build()
    row = pack(lambda: ([5, 6, 7], [0.0, 0.0, 0.0], [0, 0, 0]), 8, LAYOUT.special("<pad>"))
    loss = omni_loss(model, SETS, row)
    loss.sum.backward()
    assert float(loss.sum.detach()) == float(loss.weight) == 0.0 and not loss.by_modality.any()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_sums_of_sixteen_bits_are_kept_in_thirty_two():
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    model = (
        BackboneConfig(vocabulary=LAYOUT.size, width=32, layers=1, heads=2, hidden=32)
        .build()
        .to(torch.bfloat16)
    )
    row = pack(
        lambda: sequence_ids([segment("text", rng)], LAYOUT, by_twos), 600, LAYOUT.special("<pad>")
    )
    loss = omni_loss(model, SETS, row)
    assert loss.sum.dtype == loss.by_modality.dtype == torch.float32
    torch.testing.assert_close(
        loss.by_modality.sum(0), torch.stack([loss.sum, loss.weight]).detach()
    )
