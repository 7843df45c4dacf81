"""This module wraps the audio codec Mimi (Défossez et al. 2024, arXiv 2410.00037), as implemented
in transformers: several codes per frame, 12.5 frames per second.

It knows nothing of words. Codebooks are arranged in a delay pattern, so that a language model
writes a frame's coarse code before its fine ones.
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
from onnuri.modality import AUDIO_HZ, HEARD_SECONDS, Modality


class MimiCodec(ForeignCodec):
    """A MimiCodec encodes sound float32 [T] at 16 kHz as 12.5 · Q codes per second (with the
    published weights)."""

    modality: ClassVar[Modality] = "audio"
    network_class: ClassVar[str] = "MimiModel"
    registered: ClassVar[str] = "mimi"

    class Config(config.Config):
        """A Config holds the network's configuration, the number of codebooks and the longest
        sound."""

        values: dict[str, Any] = dataclasses.field(default_factory=dict)
        """fields of transformers' MimiConfig; defaults are the published model's"""
        codebooks: int = 8
        """number of codebooks used, the network's first"""
        seconds: float = HEARD_SECONDS
        """duration of the longest sound"""

    @staticmethod
    def new_spec(settings: Any, network_config: Any, name: str) -> CodecSpec:
        """Return the spec of a new codec of some settings. Raises ConfigError for more codebooks
        than the network has."""
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
        """Return the codes int64 [T · Q] of every sound, encoded one by one since lengths
        differ."""
        return [frames_to_sequence(self.spec, self._frames(item)) for item in items]

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return the sound float32 [T] in [-1, 1] at 16 kHz of every sequence of codes."""
        return [self._sound(sequence_to_frames(self.spec, sequence)) for sequence in codes]

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        """Return the codes int64 [T, Q] of a sound at 16 kHz."""
        books = len(self.spec.codebooks)
        if not len(samples):
            return np.zeros((0, books), np.int64)
        rate = self.network.config.sampling_rate
        resampled = torch.from_numpy(soxr.resample(np.asarray(samples, np.float32), AUDIO_HZ, rate))
        codes: Tensor = self.network.encode(
            resampled[None, None].to(self.device), num_quantizers=books
        ).audio_codes
        return codes[0].T.cpu().numpy().astype(np.int64)

    def _sound(self, frames: np.ndarray) -> np.ndarray:
        """Return the sound float32 [T] at 16 kHz of codes [T, Q]."""
        if not len(frames):
            return np.zeros(0, np.float32)
        codes = torch.from_numpy(frames.T.copy())[None].to(self.device)
        waveform = self.network.decode(codes).audio_values[0, 0].float().cpu().numpy()
        samples: np.ndarray = soxr.resample(waveform, self.network.config.sampling_rate, AUDIO_HZ)
        return np.clip(samples, -1, 1).astype(np.float32)
