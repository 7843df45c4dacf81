import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onnuri.data.mix import Segment
from onnuri.data.pack import attention_mask, pack
from onnuri.modality import MEDIA, TABLE
from onnuri.model.backbone import BackboneConfig
from onnuri.model.objective import omni_loss, sequence_ids
from onnuri.model.vocabulary import CODEBOOKS, SPECIALS, Vocabulary, codebook_of

VOCABULARY = Vocabulary(300)


def segment(medium, rng, weight=1.0):
    grid = TABLE[medium].grid
    codes = [int(rng.integers(lo, hi)) for lo, hi in grid.ranges] if grid else \
        rng.integers(0, TABLE[medium].codes or 300, 12).tolist()
    return Segment(medium, np.array(codes), None if grid else "ko", weight)


def test_ranges_are_apart_and_cover_everything():
    spans = [VOCABULARY.span(c) for c in CODEBOOKS]
    assert spans[0][0] == 0 and spans[-1][1] == VOCABULARY.size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    assert "<|embed|>" in SPECIALS and VOCABULARY.special("<pad>") == 300


@pytest.mark.parametrize("medium", MEDIA)
def test_codes_and_ids_are_one_to_one(medium):
    codes = np.arange(TABLE[medium].codes or 300)
    ids = VOCABULARY.ids(medium, codes)
    assert (VOCABULARY.codes(medium, ids) == codes).all()
    assert (codebook_of(ids, VOCABULARY) == CODEBOOKS.index(TABLE[medium].codebook)).all()


def competitors(target):
    """bool [V]: what may stand where `target` stands, from the modality table."""
    allowed = torch.zeros(VOCABULARY.size, dtype=torch.bool)
    close = VOCABULARY.special(TABLE["audio"].close)
    lo, hi = VOCABULARY.span("audio")
    if lo <= target < hi or target == close:
        allowed[lo:hi] = allowed[close] = True
    for medium in MEDIA:
        for lo, hi in VOCABULARY.allowed(medium) or [VOCABULARY.span("text")] * (medium == "text"):
            if lo <= target < hi and target != close:
                allowed[lo:hi] = True
    return allowed


def test_sliced_loss_is_the_full_softmax_with_all_that_cannot_stand_there_masked():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = BackboneConfig(vocabulary=VOCABULARY.size, width=32, layers=2, heads=2, hidden=64).build()
    batch = pack(lambda: sequence_ids([segment(m, rng, w) for m, w in zip(rng.permutation(MEDIA)[:2], (0.2, 1.0), strict=True)],
                                      VOCABULARY), 3, 256, VOCABULARY.special("<pad>"))
    loss, figures = omni_loss(model, VOCABULARY, batch)
    logits = model(input_ids=batch["ids"], position_ids=batch["positions"],
                   attention_mask=attention_mask(batch["segments"])).logits[:, :-1]
    targets = batch["ids"][:, 1:]
    for place, target in np.ndenumerate(targets.numpy()):
        logits[place][~competitors(int(target))] = -1e9
    weights = batch["weights"][:, 1:] * (batch["segments"][:, 1:] == batch["segments"][:, :-1]) * (batch["segments"][:, 1:] >= 0)
    reference = (F.cross_entropy(logits.transpose(1, 2), targets, reduction="none") * weights).sum() / weights.sum()
    assert float(loss) == pytest.approx(float(reference), rel=1e-5)
    assert set(figures) <= {f"loss_{c}" for c in CODEBOOKS}


def test_config_counts_its_weights_before_it_is_built():
    config = BackboneConfig(vocabulary=1000, width=48, layers=3, heads=3, hidden=96)
    with torch.device("meta"):
        built = config.build()
    assert sum(p.numel() for p in built.parameters()) == config.num_params()
    assert config.flops_per_token(128) > 6 * config.num_params() * 0.9
