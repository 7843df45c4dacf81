"""This module finds media and texts that are nearly the same as earlier ones.

Pictures: a perceptual hash of 64 bits (Zauner 2010), found by bands of 16 bits, so that every pair
that differs in three bits is compared; a thumbnail in colour and one of finer detail decide,
because hashes of brightness take flags and skin tones for each other, and pages of one layout too.
Sounds: landmarks of peaks in the log-mel spectrogram
(Wang 2003), which neither gain nor encoding moves; a coarse spectrogram decides, because two
sentences of one speaker share most landmarks where they share most words. Texts: datatrove's
MinHash.

Equal media are found by their hash, not here. The indices are in memory; they know no table.
"""

from __future__ import annotations

import functools
import hashlib
import struct
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from onnuri.modality import AUDIO_HZ

GRID = 32
"""side of the grey picture whose transform is hashed"""
THUMBNAIL, DETAIL = 16, 64
"""sides of the thumbnails that decide: one in colour, one in grey"""
MOST_BITS = 10
"""bits of 64 in which hashes of near duplicates differ at most"""
MOST_LEVELS, MOST_MEAN_LEVELS = 24, 4
"""levels of 255 in which a cell of two thumbnails, and all cells on average, differ at most"""
FLAT_LEVELS, MOST_OF_DETAIL = 1.5, 0.65
"""largest difference of grey thumbnails as a share of their detail, which has 1.5 levels at least.
Measured: at most 0.5 for copies by JPEG, WebP and half the size, at least 0.96 for two pages of
text in one layout"""
BANDS = 4
_PICTURE = struct.Struct("<QHH")
"""hash, width, height; the thumbnails uint8 [16, 16, 4] and [64, 64] follow"""

WINDOW, HOP = 1024, 256
"""samples at 16 kHz: 64 ms and 16 ms"""
MELS = 48
PEAKS_PER_SECOND = 16
LATEST = 48
"""hops between two peaks of a landmark, at most"""
FAN = 5
"""landmarks that begin at a peak, at most"""
FEWEST_LANDMARKS = 12
"""a sound with fewer is too plain to be told from others"""
MOST_SHIFT = 16
"""hops by which near duplicates are shifted, at most: a quarter of a second"""
COMMON = 0.12
"""share of landmarks that near duplicates have in common, at least"""
MOST_SECONDS_APART = 0.3
COARSE_BANDS, COARSE_HOPS = 24, 2
"""bands and hops of the coarse spectrogram: 32 ms"""
DEPTH_DB, STEP_DB = 45, 0.2
"""range of the coarse spectrogram below its loudest cell, and its resolution"""
RUN = 5
"""frames of the coarse spectrogram over which a difference is averaged: a short syllable"""
MOST_DB = 3.5
"""largest average difference of such a run. Measured: at most 3.3 after gain, MP3, Ogg and a cut of
7 ms, at least 10 where one word differs, 3.9 where one melody's rhythm is played in other notes"""
EDGE = 3
"""frames at both ends that do not count: there the window reaches over a cut"""
_SOUND = struct.Struct("<II")
"""milliseconds, landmarks; the landmarks uint32 [N, 2] and the coarse spectrogram [F, 24] follow"""


def picture_likeness(pixels: np.ndarray) -> bytes:
    """Return by what a picture uint8 [H, W, 3 or 4] is compared: hash, size and thumbnail."""
    from scipy.fft import dctn

    height, width = pixels.shape[:2]
    # colours weighted by alpha: what cannot be seen does not count
    weighted = Image.fromarray(pixels).convert("RGBA").convert("RGBa")
    low = dctn(_grey(weighted, GRID), norm="ortho")[:8, :8].ravel()
    bits = np.where(np.abs(low) < 1e-6, 0.0, low) > np.median(low[1:])
    code = int.from_bytes(np.packbits(bits).tobytes(), "big")
    thumbnail = np.asarray(weighted.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    detail = _grey(weighted, DETAIL).round().clip(0, 255).astype(np.uint8)
    return _PICTURE.pack(code, width, height) + thumbnail.tobytes() + detail.tobytes()


def _grey(weighted: Image.Image, side: int) -> np.ndarray:
    """Return a picture with weighted colours on grey, float64 [side, side], 0 to 255."""
    small = np.asarray(weighted.resize((side, side), Image.Resampling.BOX), dtype=np.float64)
    on_grey = small[..., :3] + (255 - small[..., 3:]) / 2
    return np.asarray(on_grey @ np.array([0.299, 0.587, 0.114]))  # ITU-R BT.601


def sound_likeness(samples: np.ndarray) -> bytes:
    """Return by what a sound float32 [T] at 16 kHz is compared: its duration, its landmarks (each a
    code and its time in hops) and its coarse spectrogram.

    Returns nothing for a sound of too few landmarks.
    """
    spectrogram = _log_mel(samples)
    landmarks = _landmarks(_peaks(spectrogram))
    if len(landmarks) < FEWEST_LANDMARKS:
        return b""
    head = _SOUND.pack(len(samples) * 1000 // AUDIO_HZ, len(landmarks))
    return head + np.array(landmarks, np.uint32).tobytes() + _coarse(spectrogram).tobytes()


def _coarse(spectrogram: np.ndarray) -> np.ndarray:
    """Return a log-mel spectrogram [frames, 48] at a quarter of its resolution, below its loudest
    cell, uint8 [frames / 2, 24]."""
    from scipy.ndimage import uniform_filter1d

    power = (10 ** (spectrogram / 10)).reshape(len(spectrogram), COARSE_BANDS, -1).mean(2)
    power = uniform_filter1d(power, 2 * COARSE_HOPS, axis=0, mode="nearest")[::COARSE_HOPS]
    decibels = 10 * np.log10(power + 1e-12)
    depth = (decibels - decibels.max()).clip(-DEPTH_DB, 0) + DEPTH_DB
    return np.asarray((depth / STEP_DB).round().astype(np.uint8))


@functools.cache
def _mel_filters() -> np.ndarray:
    """Return triangular filters [513, 48] between 150 and 6,500 Hz, even on the mel scale."""
    hz = np.fft.rfftfreq(WINDOW, 1 / AUDIO_HZ)
    low, high = (2595 * np.log10(1 + edge / 700) for edge in (150, 6500))
    corners = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    rise = (hz[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    fall = (corners[2:] - hz[:, None]) / (corners[2:] - corners[1:-1])
    filters = np.minimum(rise, fall).clip(0)
    return np.asarray(filters / filters.sum(0).clip(1e-9))


def _log_mel(samples: np.ndarray) -> np.ndarray:
    """Return a sound's log-mel spectrogram [frames, 48] in dB."""
    padded = np.pad(samples.astype(np.float64), (WINDOW // 2, WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), axis=1)) ** 2
    return np.asarray(10 * np.log10(power @ _mel_filters() + 1e-12))


def _peaks(spectrogram: np.ndarray) -> np.ndarray:
    """Return the strongest peaks of a spectrogram, int [N, 2]: time and band, in order of time."""
    from scipy.ndimage import maximum_filter

    # what encoders drop is far below the loudest
    floor = spectrogram.max() - 50
    is_peak = (spectrogram == maximum_filter(spectrogram, (9, 5))) & (spectrogram > floor)
    places = np.argwhere(is_peak)
    seconds = len(spectrogram) * HOP / AUDIO_HZ
    most = max(16, int(seconds * PEAKS_PER_SECOND))
    strength = spectrogram[tuple(places.T)]
    strongest = np.argsort(-strength, kind="stable")[:most]
    return np.asarray(places[np.sort(strongest)])


def _landmarks(peaks: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of peaks that follow each other as codes of 18 bits (two bands and the hops
    between them), with the time of the first."""
    landmarks = []
    for k, (time, band) in enumerate(peaks):
        later = peaks[k + 1 : k + 1 + 4 * FAN]
        apart = later[:, 0] - time
        near = later[(apart > 1) & (apart <= LATEST)][:FAN]
        for other, other_band in near:
            landmarks.append((int(_code(band, other_band, other - time)), int(time)))
    return landmarks


def _code(band: int, other: int, apart: int) -> int:
    """Return the code of a landmark."""
    return (int(band) * 64 + int(other)) * 64 + int(apart)


class NearPictures:
    """A NearPictures finds the first picture that looks like another."""

    def __init__(self) -> None:
        """Begin without pictures."""
        self._hashes: list[str] = []
        self._likenesses: list[bytes] = []
        self._bands: defaultdict[tuple[int, int], list[int]] = defaultdict(list)

    def find(self, likeness: bytes) -> str | None:
        """Return the hash of the first picture that looks like one, None if there is none."""
        code = _PICTURE.unpack_from(likeness)[0]
        candidates = {number for band in _bands_of(code) for number in self._bands.get(band, ())}
        for number in sorted(candidates):
            if _look_alike(self._likenesses[number], likeness):
                return self._hashes[number]
        return None

    def add(self, name: str, likeness: bytes) -> None:
        """Add a picture by its hash."""
        for band in _bands_of(_PICTURE.unpack_from(likeness)[0]):
            self._bands[band].append(len(self._hashes))
        self._hashes.append(name)
        self._likenesses.append(likeness)


def _bands_of(code: int) -> list[tuple[int, int]]:
    """Return the bands of a hash of 64 bits, each with its number."""
    return [(k, code >> 16 * k & 0xFFFF) for k in range(BANDS)]


def _look_alike(one: bytes, other: bytes) -> bool:
    """Return whether two pictures look alike: hashes, shapes and thumbnails nearly equal."""
    from scipy.ndimage import uniform_filter

    code, width, height = _PICTURE.unpack_from(one)
    other_code, other_width, other_height = _PICTURE.unpack_from(other)
    if (code ^ other_code).bit_count() > MOST_BITS:
        return False
    # rounding to whole pixels changes the shape of a smaller copy
    slack = 0.02 + 1 / min(width, height, other_width, other_height)
    if abs(width * other_height / (height * other_width) - 1) > slack:
        return False
    (cells, detail), (other_cells, other_detail) = _thumbnails(one), _thumbnails(other)
    levels = np.abs(cells - other_cells)
    if levels.max() > MOST_LEVELS or levels.mean() > MOST_MEAN_LEVELS:
        return False
    blurred = uniform_filter(detail, 3)
    allowed = FLAT_LEVELS + float(np.sqrt(((detail - blurred) ** 2).mean()))
    difference = detail - other_detail
    difference -= np.median(difference)  # a little brighter is the same
    return float(np.sqrt((difference**2).mean())) <= MOST_OF_DETAIL * allowed


def _thumbnails(likeness: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture's thumbnails as numbers, [16, 16, 4] and [64, 64]."""
    cells = np.frombuffer(likeness, np.uint8, 4 * THUMBNAIL**2, _PICTURE.size)
    detail = np.frombuffer(likeness, np.uint8, offset=_PICTURE.size + 4 * THUMBNAIL**2)
    return cells.astype(np.int16), detail.reshape(DETAIL, DETAIL).astype(np.float64)


class NearSounds:
    """A NearSounds finds the first sound that sounds like another."""

    def __init__(self) -> None:
        """Begin without sounds."""
        self._hashes: list[str] = []
        self._likenesses: list[bytes] = []
        self._sounds: defaultdict[int, list[int]] = defaultdict(list)

    def find(self, likeness: bytes) -> str | None:
        """Return the hash of the first sound that sounds like one, None if there is none."""
        sound = _read_sound(likeness)
        codes = {code for code, _ in sound.landmarks}
        # a shift of less than a hop moves peaks by one
        near = {code + step for code in codes for step in (-1, 0, 1)}
        votes = Counter(number for code in near for number in self._sounds.get(code, ()))
        for number in sorted(votes):
            if votes[number] < COMMON * len(codes) / 2:
                continue
            if _sound_alike(_read_sound(self._likenesses[number]), sound):
                return self._hashes[number]
        return None

    def add(self, name: str, likeness: bytes) -> None:
        """Add a sound by its hash."""
        for code in {code for code, _ in _read_sound(likeness).landmarks}:
            self._sounds[code].append(len(self._hashes))
        self._hashes.append(name)
        self._likenesses.append(likeness)


class _Sound(NamedTuple):
    """A _Sound is a sound's likeness as arrays."""

    milliseconds: int
    landmarks: list[list[int]]
    coarse: np.ndarray
    """uint8 [F, 24]"""


def _read_sound(likeness: bytes) -> _Sound:
    """Return a sound's likeness as arrays."""
    milliseconds, count = _SOUND.unpack_from(likeness)
    landmarks = np.frombuffer(likeness, np.uint32, 2 * count, _SOUND.size).reshape(-1, 2)
    coarse = np.frombuffer(likeness, np.uint8, offset=_SOUND.size + 8 * count)
    return _Sound(milliseconds, landmarks.tolist(), coarse.reshape(-1, COARSE_BANDS))


def _sound_alike(one: _Sound, other: _Sound) -> bool:
    """Return whether two sounds of nearly equal duration have landmarks in common, all shifted by
    the same time, and nearly equal spectrograms at that shift."""
    if abs(one.milliseconds - other.milliseconds) > MOST_SECONDS_APART * 1000:
        return False
    times = defaultdict(list)
    for code, time in one.landmarks:
        times[code].append(time)
    shifts: Counter[int] = Counter()
    for code, time in other.landmarks:
        shifts.update({time - t for step in (-1, 0, 1) for t in times.get(code + step, ())})
    common, shift = max(
        (shifts[s - 1] + shifts[s] + shifts[s + 1], s) for s in range(-MOST_SHIFT, MOST_SHIFT + 1)
    )
    if common < COMMON * max(len(one.landmarks), len(other.landmarks)):
        return False
    frames = round(shift / COARSE_HOPS)
    near = (_difference_db(one.coarse, other.coarse, frames + step) for step in (-1, 0, 1))
    return min(near) <= MOST_DB


def _difference_db(one: np.ndarray, other: np.ndarray, shift: int) -> float:
    """Return the largest difference in dB of a run of frames of two coarse spectrograms, of which
    the second is `shift` frames late; without what differs by gain."""
    from scipy.ndimage import uniform_filter1d

    first, second = one[max(-shift, 0) :], other[max(shift, 0) :]
    length = min(len(first), len(second))
    if length < 2 * EDGE + RUN:
        return float("inf")
    levels = (first[:length].astype(np.int16) - second[:length])[EDGE:-EDGE] * STEP_DB
    levels = np.abs(levels - np.median(levels)).mean(1)
    return float(uniform_filter1d(levels, RUN, mode="nearest").max())


class NearTexts:
    """A NearTexts finds the first document that reads like another."""

    def __init__(self) -> None:
        """Begin without documents."""
        self._keys: dict[int, str] = {}

    def find(self, bands: tuple[int, ...]) -> str | None:
        """Return the key of a document that shares a band, None if there is none."""
        return next((self._keys[band] for band in bands if band in self._keys), None)

    def add(self, key: str, bands: tuple[int, ...]) -> None:
        """Add a document by its key."""
        for band in bands:
            self._keys.setdefault(band, key)


@functools.cache
def _minhash() -> Any:
    """Return datatrove's first step of MinHash deduplication, whose functions work on one text as
    well: 14 bands of 8 hashes over runs of 5 words, its defaults. Documents of which 72 % of the
    runs are the same are found as often as not."""
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.text import TextNormConfig
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Words(WordTokenizer):
        """Words between white space: Korean and English alike, without a language's package."""

        def word_tokenize(self, text: str) -> list[str]:
            """Return a text's words."""
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            """Return a text's lines."""
            return text.splitlines()

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            """Return the place of the whole text."""
            return [(0, len(text))]

    config = MinhashConfig(
        hash_config=HashConfig(hash_fc="sha1"),
        # texts that differ in their figures are different texts
        norm_config=TextNormConfig(norm_numbers=False),
    )
    return MinhashDedupSignature("/nonexistent", config=config, language=Words())


def text_bands(text: str) -> tuple[int, ...]:
    """Return the MinHash bands of a text, 14 numbers of 63 bits; none for fewer than five words,
    for which only equal texts are duplicates."""
    signature = _minhash()
    shingles = signature.get_shingles(text)
    if not len(shingles):
        return ()
    bands = enumerate(signature.get_signature(shingles))
    digests = (hashlib.blake2b(repr(band).encode(), digest_size=8).digest() for band in bands)
    return tuple(int.from_bytes(digest, "big") >> 1 for digest in digests)
