import numpy as np
import pytest
import torch

from onnuri.data.pack import pack
from onnuri.model.backbone import BackboneConfig, hidden_states


def sequences(seed: int):
    rng = np.random.default_rng(seed)

    def draw():
        n = int(rng.integers(3, 40))
        return rng.integers(1, 50, n).tolist(), [1.0] * n, [n] * n

    return draw


@pytest.mark.parametrize("tokens", [512, 513, 530, 547])
def test_every_row_is_as_long_and_sequences_are_whole(tokens):
    row, again = pack(sequences(0), tokens, 63), sequences(0)
    assert all(
        x.shape == (1, tokens) for x in (row.ids, row.positions, row.weights, row.modality_ids)
    )
    assert row.lengths.sum() == tokens
    parts = list(
        zip(
            *(x[0].split(row.lengths.tolist()) for x in (row.ids, row.positions, row.weights)),
            strict=True,
        )
    )
    filled = parts if 63 not in parts[-1][0] else parts[:-1]
    for ids, positions, weights in filled:
        assert ids.tolist() == again()[0] and positions.tolist() == list(range(len(ids)))
        assert weights.tolist() == [0.0] + [1.0] * (len(ids) - 1)
    for ids, _, weights in parts[len(filled) :]:  # what no sequence fills
        assert len(ids) < 40 and (ids == 63).all() and not weights.any()


def test_nothing_foretells_the_first_id_of_a_sequence():
    row = pack(sequences(2), 200, 63)
    real = row.ids != 63
    assert (row.weights[real] == (row.positions[real] > 0)).all() and not row.weights[~real].any()
    assert (
        row.modality_ids[real] == torch.repeat_interleave(row.lengths, row.lengths)[None][real]
    ).all()


def test_a_first_sequence_that_is_too_long_is_cut():
    row = pack(lambda: (list(range(90)), [1.0] * 90, [0] * 90), 64, 0)
    assert row.ids.tolist() == [list(range(64))] and row.lengths.tolist() == [64]


def test_packed_equals_alone():
    torch.manual_seed(0)
    model = BackboneConfig(vocabulary=50, width=32, layers=2, heads=2, hidden=64).build().eval()
    stock = BackboneConfig(vocabulary=50, width=32, layers=2, heads=2, hidden=64).build().eval()
    stock.load_state_dict(model.state_dict())
    row = pack(sequences(1), 300, 0)
    lengths = row.lengths.tolist()
    with torch.no_grad():
        packed = hidden_states(model, row.ids, row.positions, row.lengths)
        for ids, states in zip(row.ids[0].split(lengths), packed[0].split(lengths), strict=True):
            alone = stock.model(input_ids=ids[None]).last_hidden_state[0]
            assert torch.allclose(states, alone, atol=1e-5)
        # a model that was trained packed still reads one sequence a row
        assert torch.allclose(
            model(input_ids=row.ids[:, : lengths[0]]).logits,
            stock(input_ids=row.ids[:, : lengths[0]]).logits,
            atol=1e-5,
        )
