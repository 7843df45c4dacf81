"""This module implements the audio codec, which turns 16 kHz speech into 25 codes per second and
back, without iteration; it streams with 80 ms of look-ahead.

It knows nothing of words. The encoder takes a log-mel spectrum through ConvNeXt blocks to one
vector per 640 samples, which FSQ quantizes to 8 × 8 × 8 × 8 codes. The decoder predicts, with
causal ConvNeXt blocks, magnitude and phase of a short-time Fourier transform, and inverts it
(Vocos, Siuzdak 2023, arXiv 2306.00814).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onnuri import config
from onnuri.codecs.base import Codec
from onnuri.codecs.fsq import FSQ
from onnuri.codecs.spec import CodecSpec, Stream
from onnuri.modality import AUDIO_HZ, HEARD_SECONDS, Modality

FRAME = 640
"""samples per code"""
HOP, WINDOW = 160, 640
"""samples between two spectra, and samples that each covers"""
EDGE = (WINDOW - HOP) // 2
"""samples by which a spectrum's window reaches beyond its hop, on either side"""
LEVELS = (8, 8, 8, 8)
"""quantization levels of the four channels"""
MELS = 80
LEVEL = 0.08
"""root mean square to which every sound is set before it is coded"""
AHEAD = 2
"""number of codes that must follow the one that is played: 80 ms"""


@functools.cache
def mel_filters(bins: int = MELS, window: int = WINDOW) -> Tensor:
    """Return triangular mel filters float32 [bins, window / 2 + 1], evenly spaced on the HTK mel
    scale from 0 to 8 kHz (Young et al., The HTK Book)."""
    top = 2595 * math.log10(1 + AUDIO_HZ / 2 / 700)
    with torch.inference_mode(False):  # what encoding caches must serve training too
        corners = 700 * (10 ** (torch.linspace(0, top, bins + 2) / 2595) - 1)
        hz = torch.linspace(0, AUDIO_HZ / 2, window // 2 + 1)
        rising = (hz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
        falling = (corners[2:, None] - hz) / (corners[2:] - corners[1:-1])[:, None]
        return torch.minimum(rising, falling).clamp_min(0)


def spectrum(samples: Tensor, window: int = WINDOW, hop: int = HOP) -> Tensor:
    """Return the magnitudes [B, window / 2 + 1, T / hop] of the short-time Fourier transform of
    samples [B, T]; frame k is centred in its hop."""
    pad = (window - hop) // 2
    padded = F.pad(samples, (pad, pad))
    transform = torch.stft(
        padded, window, hop, window=torch.hann_window(window), center=False, return_complex=True
    )
    return torch.sqrt(transform.real**2 + transform.imag**2 + 1e-9)


def mels(samples: Tensor) -> Tensor:
    """Return the natural-log mel magnitudes [B, 80, T / 160] of samples [B, T]."""
    return torch.log(mel_filters() @ spectrum(samples) + 1e-2)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return the natural-log mel magnitudes [80, T / 160] of one sound float32 [T]."""
    return mels(torch.from_numpy(samples)[None])[0].numpy()


Memory = dict[nn.Module, Tensor]
"""each causal block's last inputs [B, C, kernel - 1], kept between two chunks of a stream"""


class ConvBlock(nn.Module):
    """A ConvBlock is a one-dimensional ConvNeXt block (Liu et al. 2022) on [B, C, T]; `ahead` of
    its kernel's taps look at later frames."""

    def __init__(self, width: int, kernel: int, ahead: int) -> None:
        super().__init__()
        self.pad = (kernel - 1 - ahead, ahead)
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the block's output [B, C, T] for an input of that shape.

        With a `memory` (causal blocks only) the input continues where the last call with that
        memory ended; without, silence surrounds it.
        """
        padded = F.pad(x, self.pad)
        if memory is not None:
            past = self.pad[0]
            padded[..., :past] = memory.get(self, padded[..., :past])
            memory[self] = padded[..., padded.shape[-1] - past :].clone()
        y = self.norm(self.depthwise(padded).transpose(1, 2))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).transpose(1, 2)


def audio_spec() -> CodecSpec:
    """Return the spec of a new audio codec."""
    return CodecSpec(
        name="audio",
        codec="mel",
        modality="audio",
        codebook="audio",
        codebooks=(math.prod(LEVELS),),
        shape=Stream(hz=AUDIO_HZ / FRAME),
        max_codes=int(HEARD_SECONDS * AUDIO_HZ / FRAME),
    )


class AudioCodec(Codec):
    """An AudioCodec encodes sound float32 [T] at 16 kHz as one code per 640 samples."""

    modality: ClassVar[Modality] = "audio"

    class Config(config.Config):
        """A Config holds the widths and depths of the codec's networks."""

        fine: int = 160
        """width at 100 frames a second"""
        coarse: int = 256
        """width at 25 frames a second"""
        fine_blocks: int = 4
        coarse_blocks: int = 3
        kernel: int = 7

    def __init__(self, settings: Any = None, spec: CodecSpec | None = None) -> None:
        super().__init__(settings or self.Config(), spec or audio_spec())
        c = self.config
        middle = c.kernel // 2
        self.enter = nn.Conv1d(MELS, c.fine, 3, padding=1)
        self.fine_encoder = nn.Sequential(
            *(ConvBlock(c.fine, c.kernel, middle) for _ in range(c.fine_blocks // 2))
        )
        self.shrink = nn.Conv1d(c.fine, c.coarse, 4, 4)
        self.coarse_encoder = nn.Sequential(
            *(ConvBlock(c.coarse, c.kernel, middle) for _ in range(c.coarse_blocks))
        )
        self.to_codes, self.fsq = nn.Linear(c.coarse, 4), FSQ(LEVELS)
        self.from_codes = nn.Conv1d(4, c.coarse, 3)
        self.coarse_decoder = nn.Sequential(
            *(ConvBlock(c.coarse, c.kernel, 0) for _ in range(c.coarse_blocks))
        )
        self.grow = nn.Linear(c.coarse, 4 * c.fine)
        self.fine_decoder = nn.Sequential(
            *(ConvBlock(c.fine, c.kernel, 0) for _ in range(c.fine_blocks))
        )
        self.norm = nn.LayerNorm(c.fine)
        self.head = nn.Linear(c.fine, 2 * (WINDOW // 2 + 1))
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def latent(self, samples: Tensor) -> Tensor:
        """Return the unquantized vectors [B, T / 640, 4] of samples [B, T]."""
        x = self.fine_encoder(self.enter(mels(samples) * 0.5 + 1))
        return self.to_codes(self.coarse_encoder(self.shrink(x)).transpose(1, 2))

    def render(self, values: Tensor) -> Tensor:
        """Return the samples [B, 640 K] that quantized vectors [B, K, 4] decode to."""
        total = self.overlap(self.spectra(F.pad(values, (0, 0, 1, 1))))[..., EDGE:-EDGE]
        return total[0] / total[1].clamp_min(0.5)

    def spectra(self, values: Tensor, memory: Memory | None = None) -> Tensor:
        """Return complex spectra [B, 321, 4 K] of quantized vectors [B, K + 2, 4], of which the
        first and the last serve only as neighbours of the convolution."""
        x = self.from_codes(values.transpose(1, 2))
        for block in self.coarse_decoder:
            x = block(x, memory)
        x = self.grow(x.transpose(1, 2)).reshape(len(x), -1, self.config.fine).transpose(1, 2)
        for block in self.fine_decoder:
            x = block(x, memory)
        size, phase = self.head(self.norm(x.transpose(1, 2))).transpose(1, 2).chunk(2, 1)
        return torch.polar(torch.exp(size.clamp(max=6)), phase)

    def overlap(self, spectra: Tensor) -> Tensor:
        """Return [2, B, 160 T + 480] for spectra [B, 321, T]: the overlap-add of their inverse
        transforms, and the window's weight by which it must be divided."""
        frames = torch.fft.irfft(spectra.transpose(1, 2), n=WINDOW) * self.window
        both = (
            torch.stack([frames, (self.window**2).expand_as(frames)]).flatten(0, 1).transpose(1, 2)
        )
        length = (spectra.shape[-1] - 1) * HOP + WINDOW
        return F.fold(both, (1, length), (1, WINDOW), stride=(1, HOP)).view(2, len(spectra), length)

    @torch.inference_mode()
    def encode_batch(self, items: list[np.ndarray]) -> list[np.ndarray]:
        """Return the codes int64 [T / 640] of every sound float32 [T]."""
        # one by one: padding to a common length would change the codes near the shorter ones' ends
        return [
            self.fsq.encode(self.latent(torch.from_numpy(prepare(item))[None]))[0].numpy()
            for item in items
        ]

    @torch.inference_mode()
    def decode_batch(self, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Return the sound float32 [640 K] in [-1, 1] of every sequence of codes [K]."""
        return [self._decode(c) if len(c) else np.zeros(0, np.float32) for c in codes]

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        """Return the sound float32 [640 K] in [-1, 1] of one sequence of codes [K]."""
        return (
            self.render(self.fsq.decode(torch.from_numpy(np.asarray(codes)).long()[None]))[0]
            .clamp(-1, 1)
            .numpy()
        )

    def decode_stream(self, codes: Iterable[int], chunk: int = 1) -> Iterator[np.ndarray]:
        """Yield the samples of a sound as its codes arrive; joined, they equal the whole sound.

        After every `chunk` codes it yields the samples that no later code can change.
        """
        stream, remaining = self.stream(), iter(codes)
        while codes_now := list(itertools.islice(remaining, chunk)):
            yield from (samples for samples in [stream.send(codes_now)] if len(samples))
        yield from (samples for samples in [stream.end()] if len(samples))

    def stream(self) -> SoundStream:
        """Return a decoder for one sound whose codes arrive bit by bit."""
        return SoundStream(self)

    def training_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Return the reconstruction loss [] of a batch {"audio": [B, T]} and its log-mel error.

        The loss compares log-mel spectra, and spectra at three resolutions, linear and logarithmic.
        """
        truth = batch["audio"]
        decoded = self.render(self.fsq(self.latent(truth)))
        mel = (mels(decoded) - mels(truth)).abs().mean()
        loss = mel
        for window in (256, 512, 1024):
            a, b = spectrum(truth, window, window // 4), spectrum(decoded, window, window // 4)
            loss = loss + 0.3 * (torch.log(a + 1e-2) - torch.log(b + 1e-2)).abs().mean()
            loss = loss + 0.3 * (a - b).norm() / a.norm().clamp_min(1e-3)
        return loss, {"log_mel_error": float(mel.detach())}

    def code_features(self) -> Tensor:
        """Return the quantized vector of every code, float32 [4096, 4]."""
        return self.fsq.decode(torch.arange(self.num_codes))


class SoundStream:
    """A SoundStream decodes one sound bit by bit: it takes codes and returns the samples that no
    later code can change."""

    def __init__(self, codec: AudioCodec) -> None:
        self.codec, self.memory = codec, cast(Memory, {})
        self.silence = torch.zeros(1, 1, 4)
        self.pending, self.tail = self.silence, torch.zeros(2, 1, 0)
        self.cut = EDGE
        """number of samples to drop from the next output, since they precede the sound"""

    @torch.inference_mode()
    def send(self, codes: list[int]) -> np.ndarray:
        """Return the samples float32 [T] at 16 kHz that these further codes make certain, which end
        80 ms before the last code."""
        self.pending = torch.cat(
            [self.pending, self.codec.fsq.decode(torch.tensor(codes))[None]], 1
        )
        if self.pending.shape[1] <= 2:
            return np.zeros(0, np.float32)
        ready, self.tail = self._overlap_add(self.codec.spectra(self.pending, self.memory))
        self.pending, cut, self.cut = self.pending[:, -2:], self.cut, 0
        return _normalized(ready[..., cut:])

    @torch.inference_mode()
    def end(self) -> np.ndarray:
        """Return the remaining samples float32 [T] of the sound."""
        if self.pending.shape[1] < 2:
            return np.zeros(0, np.float32)
        ready, tail = self._overlap_add(
            self.codec.spectra(torch.cat([self.pending, self.silence], 1), self.memory)
        )
        return _normalized(torch.cat([ready, tail], -1)[..., self.cut : -EDGE])

    def _overlap_add(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Return the overlap-add [2, 1, T] of new frames with the tail [2, 1, 480] of those before,
        up to where no later frame reaches, and the new tail."""
        total = self.codec.overlap(spectra)
        total[..., : self.tail.shape[-1]] += self.tail
        return total[..., : -2 * EDGE], total[..., -2 * EDGE :]


def _normalized(total: Tensor) -> np.ndarray:
    """Return samples float32 [T] in [-1, 1] from an overlap-add and its weight [2, 1, T]."""
    return (total[0, 0] / total[1, 0].clamp_min(0.5)).clamp(-1, 1).numpy()


def prepare(samples: np.ndarray) -> np.ndarray:
    """Return a sound float32 [T] scaled to the codec's level and padded with silence to whole
    codes."""
    samples = np.asarray(samples, dtype=np.float32)
    level = float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0
    padded = np.pad(samples, (0, -len(samples) % FRAME if len(samples) else FRAME))
    return np.clip(padded * (LEVEL / max(level, 1e-5)), -1, 1).astype(np.float32)
