"""Sound in the formats that clients ask for: files, and raw samples at the rate that OpenAI's
clients play."""

from __future__ import annotations

import numpy as np
import soxr

from onnuri.media import writing
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
    """A stream of raw samples at 24 kHz. Every part but the last is a multiple of three bytes, so
    that its parts in base64 can be joined, as OpenAI's client does."""

    def __init__(self) -> None:
        self.resample, self.rest = soxr.ResampleStream(AUDIO_HZ, PCM_HZ, 1, dtype="float32"), b""

    def send(self, samples: np.ndarray) -> bytes:
        """Return the bytes that samples float32 [T] at 16 kHz complete."""
        return self._bytes(samples, last=False)

    def end(self) -> bytes:
        """Return the samples that the resampler still holds back at the end of the sound, as
        bytes."""
        return self._bytes(np.zeros(0, np.float32), last=True)

    def _bytes(self, samples: np.ndarray, last: bool) -> bytes:
        """Return resampled bytes in whole multiples of six, the rest being kept for the next call;
        all of them at the `last`."""
        resampled = self.resample.resample_chunk(samples.astype(np.float32), last=last)
        data = self.rest + (np.clip(resampled, -1, 1) * 32767).astype("<i2").tobytes()
        whole = len(data) if last else len(data) - len(data) % 6
        self.rest = data[whole:]
        return data[:whole]


def encode_sound(samples: np.ndarray, form: str) -> bytes:
    """Return a whole sound, float32 [T] at 16 kHz, as a file of a format, or as raw samples for
    `pcm` and `pcm16`."""
    if form in ("pcm", "pcm16"):
        pcm = Pcm()
        return pcm.send(samples) + pcm.end()
    return writing.to_bytes(samples, f".{form}")
