"""One thread a test process (two run side by side), and the shipped codecs and model, loaded once."""

from __future__ import annotations

import pytest
import torch

import onnuri
from onnuri.model.omni import OmniModel, load_codecs

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def codecs() -> dict:
    return load_codecs(onnuri.WEIGHTS / "laptop" / "codecs")


@pytest.fixture(scope="session")
def model() -> OmniModel:
    return onnuri.load()
