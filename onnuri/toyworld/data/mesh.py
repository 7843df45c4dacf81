"""This module provides components of voxels for training the shape codec.

It knows the world and the codec, not the language model. A pool is `crops` uint8 [N, 24, 24, 24]:
occupancy × 255.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onnuri.data.pool import build
from onnuri.toyworld.codecs.mesh import ShapeCodec, components
from onnuri.toyworld.mesh import voxels
from onnuri.toyworld.scene import sample_scene


def make_pool(folder: Path, rows: int, workers: int = 2) -> None:
    """Build a pool with one component of each of `rows` training scenes."""
    build(folder, rows, render_row, workers, "shapes")


def render_row(seed: int) -> dict[str, np.ndarray]:
    """Return one row of the pool: the crop uint8 [24, 24, 24] of one component of a scene."""
    parts = components(voxels(sample_scene(seed)))
    return {"crops": (parts[seed % len(parts)][0] * 255).round().clip(0, 255).astype(np.uint8)}


class ShapeObjective:
    """A ShapeObjective trains a ShapeCodec on random crops from a pool."""

    def __init__(self, module: ShapeCodec, folder: Path, size: int = 32, seed: int = 0) -> None:
        self.module, self.size, self.seed = module, size, seed
        self.crops = np.load(folder / "crops.npy", mmap_mode="r")

    def batch(self, step: int) -> dict[str, Tensor]:
        """Return the batch {"crops": float32 [size, 24, 24, 24] in [0, 1]} of a step."""
        rows = np.sort(
            np.random.default_rng([self.seed, step]).integers(len(self.crops), size=self.size)
        )
        return {"crops": torch.from_numpy(self.crops[rows]).float() / 255}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Return the codec's training loss [] and its metrics."""
        return self.module.training_loss(batch)
