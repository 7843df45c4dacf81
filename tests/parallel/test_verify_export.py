"""What `onnuri verify` says of an export: equal logits pass, another weight does not."""

import torch

from onnuri.model.backbone import BackboneConfig
from onnuri.training.export import export
from onnuri.training.verify import RandomRows
from onnuri.training.verify_export import logits_of_folder, logits_of_training


def test_an_exported_folder_gives_trainings_logits_and_a_changed_weight_others(tmp_path):
    torch.manual_seed(0)
    network = BackboneConfig(vocabulary=64, width=32, layers=2, heads=4, hidden=48).build().double()
    row = RandomRows(64, 48).row(0)
    export(network, tmp_path / "model", dtype=torch.float64)
    found = logits_of_folder(tmp_path / "model", row)
    assert found.dtype is torch.float64 and found.shape == (48, 64)
    scale = found.abs().max()
    # norms cast to 32 bits in both; `verify` leaves these casts out
    assert (found - logits_of_training(network, row)).abs().max() < 1e-6 * scale
    with torch.no_grad():
        network.model.layers[1].mlp.down_proj.weight[3] *= 1.01
    assert (found - logits_of_training(network, row)).abs().max() > 1e-5 * scale
