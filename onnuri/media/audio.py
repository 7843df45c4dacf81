"""This module decodes sounds to float32 [T] at 16 kHz, one channel, and encodes them.

libsndfile decodes what it knows, PyAV the rest. The module knows no codec and no model.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np

from onnuri.errors import MediaError
from onnuri.media.formats import Format, damaged
from onnuri.media.limits import Limits, check_seconds
from onnuri.modality import AUDIO_HZ, HEARD_SECONDS

CODINGS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
}
"""libsndfile's container and coding, by the ending of a file to be written"""


def read(data: bytes, form: Format, name: str, limits: Limits) -> np.ndarray:
    """Return a sound float32 [T] at 16 kHz, one channel, read by libsndfile, or by PyAV if
    libsndfile does not know its coding."""
    import soundfile

    try:
        info = soundfile.info(io.BytesIO(data))
        seconds = info.frames / max(info.samplerate, 1)
        _check_sound(seconds, info.samplerate, info.channels, name, limits)
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError):
        return read_track(data, form, form.demuxer, name, limits)
    return _to_mono_16k(samples, rate, name)


def _check_sound(seconds: float, rate: int, channels: int, name: str, limits: Limits) -> None:
    """Raise MediaError for a sound that is too long or whose header has impossible values."""
    if not 1_000 <= rate <= 1_000_000 or not 1 <= channels <= 64:
        raise MediaError(
            name,
            f"says that it has {channels} channels at {rate} Hz",
            "give a sound of 1 to 64 channels and 1 to 1,000 kHz",
            code="odd_sound",
        )
    longest = min(limits.seconds, HEARD_SECONDS)
    check_seconds(name, seconds, dataclasses.replace(limits, seconds=longest))


def _to_mono_16k(samples: np.ndarray, rate: int, name: str) -> np.ndarray:
    """Return samples [T, C] of any rate as float32 [T] at 16 kHz.

    Raises MediaError for a sound that is silent, too short or not finite.
    """
    import soxr

    if not np.isfinite(samples).all():
        raise MediaError(
            name, "has samples that are not numbers", "give a sound without NaN", code="not_numbers"
        )
    if len(samples) < rate / 20:
        raise MediaError(
            name,
            f"lasts {len(samples) / rate:.3f} s, at least 0.05 s is read",
            "give a longer sound",
            code="too_short",
        )
    mono = samples.mean(1)
    loudest = samples[:, np.argmax(np.ptp(samples, axis=0))]
    if np.ptp(mono) < 0.05 * np.ptp(loudest):  # the channels cancel each other
        mono = loudest
    if (peak := float(np.abs(mono).max())) > 1:  # floating point may go beyond [-1, 1]
        mono = mono / peak
    resampled: np.ndarray = soxr.resample(mono, rate, AUDIO_HZ).astype(np.float32)
    if is_silent(resampled):
        raise MediaError(name, "is silent", "give a sound that can be heard", code="silent")
    return resampled


def is_silent(samples: np.ndarray) -> bool:
    """Return whether samples [T] are silent: a constant is as silent as zero."""
    return not len(samples) or float(np.ptp(samples)) < 2e-4


def read_track(data: bytes, form: Format, demuxer: str, name: str, limits: Limits) -> np.ndarray:
    """Return the sound of any file that PyAV reads, float32 [T] at 16 kHz, one channel."""
    import av

    parts: list[np.ndarray] = []
    count, rate = 0, AUDIO_HZ
    try:
        with av.open(io.BytesIO(data), "r", format=demuxer) as container:
            stream = container.streams.audio[0]
            rate = stream.rate
            _check_sound((container.duration or 0) / 1e6, rate, stream.channels, name, limits)
            to_float = av.AudioResampler(format="fltp")
            for frame in container.decode(stream):
                for part in to_float.resample(frame):
                    parts.append(part.to_ndarray().T)
                    count += len(parts[-1])
                # checked again while decoding: files of browsers' recorders state no duration
                _check_sound(count / rate, rate, stream.channels, name, limits)
    except (av.FFmpegError, OSError, ValueError, IndexError, AttributeError):
        raise damaged(form, name) from None
    if not parts:
        raise MediaError(
            name, "has no sound in it", "give the whole file", code="damaged_file", format=form.name
        )
    return _to_mono_16k(np.concatenate(parts), rate, name)


def sound_bytes(samples: np.ndarray, suffix: str) -> bytes:
    """Return samples [T] at 16 kHz as a file's bytes in the format of an ending."""
    import soundfile

    if suffix == ".aac":
        return _aac_bytes(samples)
    out = io.BytesIO()
    kind, coding = CODINGS[suffix]
    soundfile.write(out, samples, AUDIO_HZ, format=kind, subtype=coding)
    return out.getvalue()


def _aac_bytes(samples: np.ndarray) -> bytes:
    """Return samples [T] at 16 kHz as AAC in ADTS, which libsndfile does not write."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="adts") as container:
        stream = container.add_stream("aac", rate=AUDIO_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.clip(samples, -1, 1)[None].astype(np.float32), format="fltp", layout="mono"
        )
        frame.rate = AUDIO_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()
