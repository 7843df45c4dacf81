"""This module provides speech for training the audio codec: a pool of utterances of training
scenes, and batches of crops.

It knows the world and the codec, not the language model. A pool is `samples` int16 [N, 65536]
(utterances end to end).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from onnuri.codecs.audio import AudioCodec
from onnuri.data.pool import build
from onnuri.modality import LANGUAGES
from onnuri.toyworld.audio import sample_voice, speak
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption

ROW = 65_536
"""samples per row"""


def make_pool(folder: Path, rows: int, workers: int = 2) -> None:
    """Build a pool of `rows` rows: captions of training scenes spoken in both languages and all
    voices."""
    build(folder, rows, render_row, workers, "speech")


def render_row(seed: int) -> dict[str, np.ndarray]:
    """Return one row of the pool, `samples` int16 [65536]: about four seconds of utterances end to
    end."""
    rng, samples = generator("train", seed), np.zeros(0, np.float32)
    language = LANGUAGES[seed % 2]
    while len(samples) < ROW:
        scene = sample_scene(int(rng.integers(2**40)))
        samples = np.concatenate(
            [samples, speak(caption(scene, language, rng), language, sample_voice(rng))]
        )
    return {"samples": (samples[:ROW] * 32767).astype(np.int16)}


class AudioObjective:
    """An AudioObjective trains an AudioCodec on random crops of `length` samples from a pool."""

    def __init__(
        self, module: AudioCodec, folder: Path, size: int = 16, length: int = 20_480, seed: int = 0
    ) -> None:
        self.module, self.size, self.length, self.seed = module, size, length, seed
        self.samples = np.load(folder / "samples.npy", mmap_mode="r")

    def batch(self, step: int) -> dict[str, Tensor]:
        """Return the batch {"audio": float32 [size, length]} of a step."""
        rng = np.random.default_rng([self.seed, step])
        rows = rng.integers(len(self.samples), size=self.size)
        starts = rng.integers(ROW - self.length, size=self.size)
        crops = np.stack(
            [self.samples[r, s : s + self.length] for r, s in zip(rows, starts, strict=True)]
        )
        return {"audio": torch.from_numpy(crops.astype(np.float32) / 32767)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Return the codec's training loss [] and its metrics."""
        return self.module.training_loss(batch)
