"""Sound as clients want it: files, and raw samples at the rate that OpenAI's clients play."""

from __future__ import annotations

import numpy as np
import soxr

from onnuri import media
from onnuri.modality import AUDIO_HZ

PCM_HZ = 24_000
"""of raw samples, 16 bit, little-endian, one channel"""
TYPES = {
    "wav": "audio/wav",
    "mp3": "audio/mpeg",
    "flac": "audio/flac",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
    "pcm16": "audio/pcm",
}


class Pcm:
    """Samples at 24 kHz as they come. Every part but the last is a multiple of three bytes, so that
    parts in base64 can be joined as they are: OpenAI's client does so."""

    def __init__(self) -> None:
        self.resample, self.rest = soxr.ResampleStream(AUDIO_HZ, PCM_HZ, 1, dtype="float32"), b""

    def send(self, samples: np.ndarray) -> bytes:
        """Return what more samples float32 [T] at 16 kHz make."""
        return self._bytes(samples, last=False)

    def end(self) -> bytes:
        """Return the rest."""
        return self._bytes(np.zeros(0, np.float32), last=True)

    def _bytes(self, samples: np.ndarray, last: bool) -> bytes:
        made = self.resample.resample_chunk(samples.astype(np.float32), last=last)
        data = self.rest + (np.clip(made, -1, 1) * 32767).astype("<i2").tobytes()
        keep = 0 if last else len(data) % 6
        self.rest = data[len(data) - keep :]
        return data[: len(data) - keep]


def encoded(samples: np.ndarray, form: str) -> bytes:
    """Return a whole sound as a file or as raw samples."""
    if form in ("pcm", "pcm16"):
        pcm = Pcm()
        return pcm.send(samples) + pcm.end()
    return media.to_bytes(samples, f".{form}")
