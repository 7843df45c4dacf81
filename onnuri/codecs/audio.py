"""The audio codec: 16 kHz speech to 25 codes a second and back, without iteration, streaming with 80 ms look-ahead.

Knows nothing of words. Encoder: log-mel through ConvNeXt blocks to one vector every 640 samples, FSQ with 8 × 8 × 8 × 8
codes. Decoder: causal ConvNeXt blocks, then magnitude and phase of a short-time Fourier transform and its inverse
(Vocos, Siuzdak 2023, arXiv 2306.00814).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri import config
from onnuri.codecs.base import Codec
from onnuri.codecs.fsq import FSQ
from onnuri.modality import AUDIO_HZ, Medium

FRAME = 640
"""samples a code"""
HOP, WINDOW = 160, 640
"""samples; of the spectra that are read and written"""
MELS = 80
LEVEL = 0.08
"""root mean square to which every sound is set before it is coded"""
AHEAD = 2
"""codes that must have arrived beyond the one that is played: 80 ms"""


@functools.cache
def mel_filters(bins: int = MELS, window: int = WINDOW) -> Tensor:
    """Triangles [bins, window / 2 + 1], evenly spaced on the HTK mel scale, 0 to 8 kHz (Young et al., The HTK Book)."""
    top = 2595 * math.log10(1 + AUDIO_HZ / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, bins + 2) / 2595) - 1)
    hz = torch.linspace(0, AUDIO_HZ / 2, window // 2 + 1)
    rising = (hz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hz) / (corners[2:] - corners[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0)


def spectrum(samples: Tensor, window: int = WINDOW, hop: int = HOP) -> Tensor:
    """Magnitudes [B, window / 2 + 1, T / hop] of samples [B, T]; frame k is centred in its hop."""
    pad = (window - hop) // 2
    padded = F.pad(samples, (pad, pad))
    made = torch.stft(padded, window, hop, window=torch.hann_window(window), center=False, return_complex=True)
    return torch.sqrt(made.real**2 + made.imag**2 + 1e-9)


def mels(samples: Tensor) -> Tensor:
    """Natural-log mel magnitudes [B, 80, T / 160] of samples [B, T]."""
    return torch.log(mel_filters() @ spectrum(samples) + 1e-2)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """`mels` of one sound float32 [T], as [80, T / 160]."""
    return mels(torch.from_numpy(samples)[None])[0].numpy()


class Block(nn.Module):
    """ConvNeXt block in one dimension (Liu et al. 2022) on [B, C, T]; `ahead` of its kernel's taps look forward."""

    def __init__(self, width: int, kernel: int, ahead: int) -> None:
        super().__init__()
        self.pad = (kernel - 1 - ahead, ahead)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(F.pad(x, self.pad)).transpose(1, 2))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).transpose(1, 2)


class AudioCodec(Codec):
    """float32 [T] at 16 kHz ↔ one code every 640 samples."""

    medium: ClassVar[Medium] = "audio"

    class Config(config.Config):
        fine: int = 160
        """width at 100 frames a second"""
        coarse: int = 256
        """width at 25 frames a second"""
        fine_blocks: int = 4
        coarse_blocks: int = 3
        kernel: int = 7

    def __init__(self, settings: Any = None) -> None:
        super().__init__(settings or self.Config())
        c = self.config
        middle = c.kernel // 2
        self.enter = nn.Conv1d(MELS, c.fine, 3, padding=1)
        self.fine_encoder = nn.Sequential(*(Block(c.fine, c.kernel, middle) for _ in range(c.fine_blocks // 2)))
        self.shrink = nn.Conv1d(c.fine, c.coarse, 4, 4)
        self.coarse_encoder = nn.Sequential(*(Block(c.coarse, c.kernel, middle) for _ in range(c.coarse_blocks)))
        self.to_codes, self.fsq = nn.Linear(c.coarse, 4), FSQ((8, 8, 8, 8))
        self.from_codes = nn.Conv1d(4, c.coarse, 3)
        self.coarse_decoder = nn.Sequential(*(Block(c.coarse, c.kernel, 0) for _ in range(c.coarse_blocks)))
        self.grow = nn.Linear(c.coarse, 4 * c.fine)
        self.fine_decoder = nn.Sequential(*(Block(c.fine, c.kernel, 0) for _ in range(c.fine_blocks)))
        self.norm = nn.LayerNorm(c.fine)
        self.head = nn.Linear(c.fine, 2 * (WINDOW // 2 + 1))
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    @property
    def context(self) -> int:
        """Codes before a code that its sound can depend on."""
        c = self.config
        return 2 + (c.kernel - 1) * c.coarse_blocks + math.ceil((c.kernel - 1) * c.fine_blocks / 4) + 2

    def latent(self, samples: Tensor) -> Tensor:
        """Unquantized [B, T / 640, 4] of samples [B, T]."""
        x = self.fine_encoder(self.enter(mels(samples) * 0.5 + 1))
        return self.to_codes(self.coarse_encoder(self.shrink(x)).transpose(1, 2))

    def render(self, values: Tensor) -> Tensor:
        """Samples [B, 640 K] of quantized values [B, K, 4]."""
        x = self.from_codes(F.pad(values.transpose(1, 2), (1, 1)))  # one code before, one ahead
        x = self.grow(self.coarse_decoder(x).transpose(1, 2))
        x = self.fine_decoder(x.reshape(len(x), -1, self.config.fine).transpose(1, 2))
        size, phase = self.head(self.norm(x.transpose(1, 2))).transpose(1, 2).chunk(2, 1)
        return self.inverse(torch.polar(torch.exp(size.clamp(max=6)), phase))

    def inverse(self, made: Tensor) -> Tensor:
        """Overlap-add of spectra [B, 321, T] into samples [B, 160 T]; every frame is centred in its hop."""
        frames = torch.fft.irfft(made.transpose(1, 2), n=WINDOW) * self.window
        length = made.shape[-1] * HOP
        pad = (WINDOW - HOP) // 2
        shape = dict(output_size=(1, length + 2 * pad), kernel_size=(1, WINDOW), stride=(1, HOP))
        added = F.fold(frames.transpose(1, 2), **shape)[:, 0, 0, pad : pad + length]
        weight = (self.window**2).expand(1, made.shape[-1], WINDOW).transpose(1, 2)
        return added / F.fold(weight, **shape)[:, 0, 0, pad : pad + length].clamp_min(0.5)

    @torch.inference_mode()
    def encode_batch(self, items: list[np.ndarray]) -> list[np.ndarray]:
        # one by one: padding to a common length would change the codes near the shorter ones' ends
        return [self.fsq.encode(self.latent(torch.from_numpy(prepare(item))[None]))[0].numpy() for item in items]

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        return [self._decode(c) if len(c) else np.zeros(0, np.float32) for c in codes]

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return self.render(self.fsq.decode(torch.from_numpy(np.asarray(codes)).long()[None]))[0].clamp(-1, 1).numpy()

    @torch.inference_mode()
    def decode_stream(self, codes: Iterable[int]) -> Iterator[np.ndarray]:
        """Samples as codes arrive, 640 at a time, equal to the whole; each waits for `AHEAD` codes after its own."""
        arrived: list[int] = []
        played = 0
        for code in codes:
            arrived.append(int(code))
            if len(arrived) - AHEAD > played:
                yield self._window(arrived, played, len(arrived) - AHEAD)
                played = len(arrived) - AHEAD
        if played < len(arrived):
            yield self._window(arrived, played, len(arrived))

    def _window(self, arrived: list[int], start: int, stop: int) -> np.ndarray:
        first = max(0, start - self.context)
        made = self._decode(np.array(arrived[first:]))
        return made[(start - first) * FRAME : (stop - first) * FRAME]

    def training_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Spectra at three resolutions, linear and logarithmic, and log-mel; {"audio": [B, T]}."""
        truth = batch["audio"]
        made = self.render(self.fsq(self.latent(truth)))
        mel = (mels(made) - mels(truth)).abs().mean()
        loss = mel
        for window in (256, 512, 1024):
            a, b = spectrum(truth, window, window // 4), spectrum(made, window, window // 4)
            loss = loss + 0.3 * (torch.log(a + 1e-2) - torch.log(b + 1e-2)).abs().mean()
            loss = loss + 0.3 * (a - b).norm() / a.norm().clamp_min(1e-3)
        return loss, {"log_mel_error": float(mel.detach())}

    def code_features(self) -> Tensor:
        """float32 [4096, 4]: the quantized values."""
        return self.fsq.decode(torch.arange(self.num_codes))


def prepare(samples: np.ndarray) -> np.ndarray:
    """Level set and padded to whole codes."""
    samples = np.asarray(samples, dtype=np.float32)
    level = float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0
    padded = np.pad(samples, (0, -len(samples) % FRAME if len(samples) else FRAME))
    return np.clip(padded * (LEVEL / max(level, 1e-5)), -1, 1).astype(np.float32)
