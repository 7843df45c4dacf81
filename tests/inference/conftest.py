"""A small model for the tests of this folder."""

import pytest
import torch

from onnuri.model.backbone import BackboneConfig


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    model = BackboneConfig(vocabulary=120, width=48, layers=3, heads=3, hidden=96).build().eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(
            20
        )  # far from uniform, so that the likeliest id is clear
    return model
