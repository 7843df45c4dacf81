"""This module decodes sounds to float32 [T] at 16 kHz, one channel, and encodes them.

libsndfile decodes what it knows, PyAV the rest. The module knows no codec and no model.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np

from onnuri.errors import MediaError
from onnuri.media.formats import Format, damaged
from onnuri.media.kept import Kept
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


DEEP = ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")
"""libsndfile's codings of more than 16 bits, which are kept as 24"""
FLAC_HZ = 655_350
"""highest rate that FLAC states (RFC 9639, 9.1.2)"""


def read(data: bytes, form: Format, name: str, limits: Limits) -> np.ndarray:
    """Return a sound float32 [T] at 16 kHz, one channel, read by libsndfile, or by PyAV if
    libsndfile does not know its coding."""
    samples, rate, _ = _decode(data, form, name, limits)
    return _to_mono_16k(samples, rate, name)


def read_track(data: bytes, form: Format, demuxer: str, name: str, limits: Limits) -> np.ndarray:
    """Return the sound of any file that PyAV reads, float32 [T] at 16 kHz, one channel."""
    return _to_mono_16k(*_decode_track(data, form, demuxer, name, limits), name)


def keep(data: bytes, form: Format, name: str, limits: Limits) -> Kept:
    """Return what is kept of a sound: its samples at their own rate as FLAC, without tags.

    Raises MediaError for a sound that is damaged, too long or silent.
    """
    samples, rate, bits = _decode(data, form, name, limits)
    return _kept(samples, rate, bits, form, name)


def keep_track(data: bytes, form: Format, demuxer: str, name: str, limits: Limits) -> Kept:
    """Return what is kept of the sound of a file that PyAV reads, which is FLAC of 16 bits."""
    samples, rate = _decode_track(data, form, demuxer, name, limits)
    return _kept(samples, rate, 16, form, name)


def _kept(samples: np.ndarray, rate: int, bits: int, form: Format, name: str) -> Kept:
    """Return samples [T, C] as FLAC of 16 or 24 bits; more than two channels become one."""
    import soundfile

    heard = _to_mono_16k(samples, rate, name)
    if rate > FLAC_HZ:
        raise MediaError(
            name,
            f"has {rate} samples a second, at most {FLAC_HZ} are kept",
            "resample it",
            code="odd_sound",
        )
    if samples.shape[1] > 2:
        samples = samples.mean(1, keepdims=True)
    if (peak := float(np.abs(samples).max())) > 1:  # floating point may go beyond [-1, 1]
        samples = samples / peak
    # not by libsndfile, which scales by 32,767 and so changes what it has read itself
    top = 2 ** (bits - 1)
    levels = (samples.astype(np.float64) * top).round().clip(-top, top - 1)
    whole = levels.astype(np.int16) if bits == 16 else levels.astype(np.int32) << 8
    out = io.BytesIO()
    soundfile.write(out, whole, rate, format="FLAC", subtype=f"PCM_{bits}")
    return Kept(
        modality="audio",
        data=out.getvalue(),
        media_type="audio/flac",
        format=form.name,
        facts={"seconds": len(whole) / rate, "hz": rate, "channels": whole.shape[1]},
        array=heard,
    )


def _decode(data: bytes, form: Format, name: str, limits: Limits) -> tuple[np.ndarray, int, int]:
    """Return a sound's samples float32 [T, C], its rate in Hz, and the bits that they need, 16 or
    24."""
    import soundfile

    try:
        info = soundfile.info(io.BytesIO(data))
        seconds = info.frames / max(info.samplerate, 1)
        _check_sound(seconds, info.samplerate, info.channels, name, limits)
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError, MemoryError):
        return *_decode_track(data, form, form.demuxer, name, limits), 16
    return samples, rate, 24 if info.subtype in DEEP else 16


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


def _decode_track(
    data: bytes, form: Format, demuxer: str, name: str, limits: Limits
) -> tuple[np.ndarray, int]:
    """Return the sound of any file that PyAV reads, float32 [T, C], and its rate in Hz."""
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
    return np.concatenate(parts), rate


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
