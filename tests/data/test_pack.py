import numpy as np
import torch

from onnuri.data.pack import attention_mask, pack
from onnuri.model.backbone import BackboneConfig, hidden_states


def sequences(seed: int):
    rng = np.random.default_rng(seed)

    def draw():
        n = int(rng.integers(3, 40))
        return rng.integers(1, 50, n).tolist(), [1.0] * n

    return draw


def test_rows_are_well_filled_and_sequences_whole():
    batch = pack(sequences(0), 8, 128, 0)
    assert (batch["segments"] >= 0).float().mean() > 0.85
    for segment in batch["segments"].unique():
        if segment >= 0:
            places = (batch["segments"] == segment).nonzero()
            assert len(places[:, 0].unique()) == 1
            assert (batch["positions"][batch["segments"] == segment] == torch.arange(len(places))).all()


def test_packed_equals_alone():
    torch.manual_seed(0)
    model = BackboneConfig(vocabulary=50, width=32, layers=2, heads=2, hidden=64).build().eval()
    batch = pack(sequences(1), 2, 96, 0)
    with torch.no_grad():
        packed = hidden_states(model, batch["ids"], batch["positions"], attention_mask(batch["segments"]))
        for segment in batch["segments"].unique():
            chosen = batch["segments"] == segment
            if segment >= 0:
                ids = batch["ids"][chosen][None]
                alone = model.model(input_ids=ids).last_hidden_state[0]
                assert torch.allclose(packed[chosen], alone, atol=1e-5)
