"""Mimi (Défossez et al. 2024, arXiv 2410.00037), as transformers has it: any sound to several codes
a frame, 12.5 frames a second.

Knows nothing of words. Codebooks stand in a delay pattern, so that a language model writes a
frame's coarse code before its fine ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import soxr
import torch
from torch import Tensor

from onnuri import config
from onnuri.codecs.flatten import frames_to_sequence, sequence_to_frames
from onnuri.codecs.foreign import ForeignCodec
from onnuri.codecs.spec import CodecSpec, Stream
from onnuri.errors import ConfigError
from onnuri.modality import AUDIO_HZ, HEARD_SECONDS, Medium


class MimiCodec(ForeignCodec):
    """float32 [T] at 16 kHz ↔ 12.5 · Q codes a second (of the published weights)."""

    medium: ClassVar[Medium] = "audio"
    network_class: ClassVar[str] = "MimiModel"
    registered: ClassVar[str] = "mimi"

    class Config(config.Config):
        values: dict[str, Any] = dataclasses.field(default_factory=dict)
        """of transformers' MimiConfig; what is left out is as published"""
        codebooks: int = 8
        """of those that the weights have, the first so many"""
        seconds: float = HEARD_SECONDS
        """of the longest sound"""

    @staticmethod
    def new_spec(settings: Any, network_config: Any, name: str) -> CodecSpec:
        """Return the spec of a codec that is not loaded. Raises ConfigError for more codebooks than
        the network has."""
        hz, books = network_config.frame_rate, settings.codebooks
        if not 1 <= books <= network_config.num_quantizers:
            raise ConfigError(
                f"codebooks {books}",
                f"is not 1 to {network_config.num_quantizers}, which the weights have",
                "give a number within",
            )
        return CodecSpec(
            name=name,
            codec="mimi",
            modality="audio",
            codebook=name,
            codebooks=(network_config.codebook_size,) * books,
            shape=Stream(hz=hz * books),
            flatten="delay",
            max_codes=int(settings.seconds * hz) * books,
        )

    @torch.inference_mode()
    def encode_batch(self, items: list[np.ndarray]) -> list[np.ndarray]:
        """Return codes int64 [T · Q] of every sound, one at a time: they differ in length."""
        return [frames_to_sequence(self.spec, self._frames(item)) for item in items]

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return sounds float32 [T] at 16 kHz in [-1, 1]."""
        return [self._sound(sequence_to_frames(self.spec, sequence)) for sequence in codes]

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        """Return the codes int64 [T, Q] of a sound at 16 kHz."""
        books = len(self.spec.codebooks)
        if not len(samples):
            return np.zeros((0, books), np.int64)
        rate = self.network.config.sampling_rate
        resampled = torch.from_numpy(soxr.resample(np.asarray(samples, np.float32), AUDIO_HZ, rate))
        found: Tensor = self.network.encode(
            resampled[None, None].to(self.device), num_quantizers=books
        ).audio_codes
        return found[0].T.cpu().numpy().astype(np.int64)

    def _sound(self, frames: np.ndarray) -> np.ndarray:
        """Return the sound float32 [T] at 16 kHz of codes [T, Q]."""
        if not len(frames):
            return np.zeros(0, np.float32)
        made = self.network.decode(
            torch.from_numpy(frames.T.copy())[None].to(self.device)
        ).audio_values[0, 0]
        samples: np.ndarray = soxr.resample(
            made.float().cpu().numpy(), self.network.config.sampling_rate, AUDIO_HZ
        )
        return np.clip(samples, -1, 1).astype(np.float32)
