"""This module speaks sentences by espeak-ng in several voices, through the process of `espeak.py`.

It knows nothing of scenes. espeak-ng (GPL) is the build-time extra `world`; nothing that ships
imports it. A sound is a deterministic function of sentence, language and voice, at 16 kHz, a whole
number of 40 ms frames long, with 40 ms of silence around.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys

import numpy as np
import soxr

from onnuri.errors import DependencyError
from onnuri.modality import AUDIO_HZ, Language

VARIANTS = ("", "m3", "f2", "f4")
"""espeak's voice variants: its default man, a deeper one, two women"""
FRAME = 640
"""samples per code"""
LEVEL = 0.08
"""root mean square of every utterance"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Voice:
    """A Voice holds the settings of espeak-ng for one utterance."""

    variant: str = ""
    """one of VARIANTS"""
    rate_wpm: int = 250
    """words per minute"""
    pitch: int = 50
    """pitch from 0 to 100, as espeak-ng counts"""


OWN = Voice(variant="f4", rate_wpm=265, pitch=50)
"""the voice in which the model learns to speak; it learns to recognise all voices"""


def sample_voice(rng: np.random.Generator) -> Voice:
    """Return a random voice of any variant, with a fast rate and a slightly varied pitch."""
    return Voice(
        variant=str(rng.choice(VARIANTS)),
        rate_wpm=int(rng.integers(220, 281)),
        pitch=int(rng.integers(35, 66)),
    )


def speak(text: str, language: Language, voice: Voice) -> np.ndarray:
    """Return a sentence as sound float32 [T] at 16 kHz. Raises DependencyError without the extra
    `world`."""
    samples, rate, _ = _synthesise(text, language, voice)
    return _trim_and_level(soxr.resample(samples, rate, AUDIO_HZ))


def speak_aligned(text: str, language: Language, voice: Voice) -> tuple[np.ndarray, list[int]]:
    """Return a sentence as sound float32 [T] at 16 kHz in which every word takes a whole number of
    frames, and that number for every word.

    Words are what white space parts. What is not of a whole frame is squeezed or stretched, by half
    a frame at most, so that a word sounds alike wherever it stands: a codec then gives it much the
    same codes. The first word has the silence before it, the last that behind it; of words that are
    run together, the last has the sound.
    """
    samples, rate, marks = _synthesise(text, language, voice)
    audible = np.flatnonzero(np.abs(samples) > 0.01 * max(float(np.abs(samples).max()), 1e-6))
    first, last = (int(audible[0]), int(audible[-1]) + 1) if len(audible) else (0, len(samples))
    starts = [
        k for k, c in enumerate(text) if not c.isspace() and (k == 0 or text[k - 1].isspace())
    ]
    edges, frames, frames_per_word, word_start = [float(first)], [0], [], 0
    for k in range(len(starts)):
        following = starts[k + 1] if k + 1 < len(starts) else len(text)
        word_ends = [
            sample
            for place, sample in marks
            if starts[k] < place <= following and first < sample < last
        ]
        end = last if k + 1 == len(starts) else word_ends[-1] if word_ends else None
        if end is None or end <= edges[-1]:
            frames_per_word.append(0)
            continue
        frames.append(frames[-1] + max(round((end - edges[-1]) / rate * AUDIO_HZ / FRAME), 1))
        edges.append(float(end))
        frames_per_word.append(frames[-1] - word_start)
        word_start = frames[-1]
    frames_per_word[0] += 1
    frames_per_word[-1] += 1
    source_samples = np.interp(np.arange(frames[-1] * FRAME), np.array(frames) * FRAME, edges)
    warped = np.interp(source_samples, np.arange(len(samples)), samples).astype(np.float32)
    level = float(np.sqrt(np.mean(warped**2))) if len(warped) else 1.0
    return np.clip(np.pad(warped * (LEVEL / max(level, 1e-6)), FRAME), -1, 1).astype(
        np.float32
    ), frames_per_word


def _synthesise(
    text: str, language: Language, voice: Voice
) -> tuple[np.ndarray, int, list[tuple[int, int]]]:
    """Return espeak-ng's samples float32 [T], their sampling rate, and for every word its character
    position in the text and its first sample."""
    process, rate = _speaking_process()
    name = f"{language}+{voice.variant}" if voice.variant else language
    request = {"text": text, "voice": name, "rate": voice.rate_wpm, "pitch": voice.pitch}
    requests, answers = process.stdin, process.stdout
    assert requests and answers
    requests.write(json.dumps(request).encode() + b"\n")
    requests.flush()
    count, words = np.frombuffer(answers.read(8), np.int32)
    marks = np.frombuffer(answers.read(8 * int(words)), np.int32).reshape(-1, 2)
    samples = np.frombuffer(answers.read(2 * int(count)), np.int16).astype(np.float32) / 32768
    return samples, rate, [(int(place), int(sample)) for place, sample in marks]


def _trim_and_level(samples: np.ndarray) -> np.ndarray:
    """Return samples with the silence at both ends cut to one frame, the level set and the length
    padded to whole frames."""
    audible = np.flatnonzero(np.abs(samples) > 0.01 * max(float(np.abs(samples).max()), 1e-6))
    samples = samples[audible[0] : audible[-1] + 1] if len(audible) else samples[:0]
    level = float(np.sqrt(np.mean(samples**2))) if len(samples) else 1.0
    samples = np.pad(samples * (LEVEL / max(level, 1e-6)), (FRAME, FRAME + -len(samples) % FRAME))
    return np.clip(samples, -1, 1).astype(np.float32)


@functools.cache
def _speaking_process() -> tuple[subprocess.Popen[bytes], int]:
    """Return this process's speaking subprocess, started once, and its sampling rate in Hz. Raises
    DependencyError without the extra `world`."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise DependencyError(
            "espeakng-loader", "speaks the laptop's world", "pip install 'onnuri[world]'"
        )
    process = subprocess.Popen(
        [sys.executable, "-m", "onnuri.toyworld.espeak"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(process.kill)
    return process, int(process.stdout.readline())  # type: ignore[union-attr]
