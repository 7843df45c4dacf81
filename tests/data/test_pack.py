import numpy as np
import torch

from onnuri.data.pack import pack
from onnuri.model.backbone import BackboneConfig, hidden_states


def sequences(seed: int):
    rng = np.random.default_rng(seed)

    def draw():
        n = int(rng.integers(3, 40))
        return rng.integers(1, 50, n).tolist(), [1.0] * n, [n] * n

    return draw


def test_a_row_is_well_filled_without_padding_and_sequences_are_whole():
    batch, again = pack(sequences(0), 512), sequences(0)
    assert 512 - 40 < batch["ids"].shape[1] == batch["lengths"].sum() <= 512
    for ids, positions in zip(batch["ids"][0].split(batch["lengths"].tolist()),
                              batch["positions"][0].split(batch["lengths"].tolist()), strict=True):
        assert ids.tolist() == again()[0]
        assert positions.tolist() == list(range(len(ids)))


def test_nothing_foretells_the_first_id_of_a_sequence():
    batch = pack(sequences(2), 200)
    assert (batch["weights"] == (batch["positions"] > 0)).all()
    assert (batch["kinds"][0] == torch.repeat_interleave(batch["lengths"], batch["lengths"])).all()


def test_a_first_sequence_that_is_too_long_is_cut():
    batch = pack(lambda: (list(range(90)), [1.0] * 90, [0] * 90), 64)
    assert batch["ids"].tolist() == [list(range(64))] and batch["lengths"].tolist() == [64]


def test_packed_equals_alone():
    torch.manual_seed(0)
    model = BackboneConfig(vocabulary=50, width=32, layers=2, heads=2, hidden=64).build().eval()
    stock = BackboneConfig(vocabulary=50, width=32, layers=2, heads=2, hidden=64).build().eval()
    stock.load_state_dict(model.state_dict())
    batch = pack(sequences(1), 300)
    lengths = batch["lengths"].tolist()
    with torch.no_grad():
        packed = hidden_states(model, batch["ids"], batch["positions"], batch["lengths"])
        for ids, states in zip(batch["ids"][0].split(lengths), packed[0].split(lengths), strict=True):
            alone = stock.model(input_ids=ids[None]).last_hidden_state[0]
            assert torch.allclose(states, alone, atol=1e-5)
        # a model that was trained packed still reads one sequence a row
        assert torch.allclose(model(input_ids=batch["ids"][:, : lengths[0]]).logits,
                              stock(input_ids=batch["ids"][:, : lengths[0]]).logits, atol=1e-5)
