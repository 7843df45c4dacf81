"""Codes of frames and of grids as one sequence, and back: the order in which a language model reads
and writes them.

Any sequence comes back as codes that a codec can decode: what is missing is left out (frames) or
filled with code 0 (cells), for a language model may stop anywhere. T frames, Q codebooks, K codes
of a sequence.
"""

from __future__ import annotations

import itertools

import numpy as np

from onnuri.codecs.spec import CodecSpec, Grid


def frames_to_sequence(spec: CodecSpec, frames: np.ndarray) -> np.ndarray:
    """Return codes [T, Q] as a sequence int64 [T · Q], every codebook in its own range.

    `serial`: frame by frame. `delay`: step s holds the code of frame s − q of every codebook q that
    has one.
    """
    steps, books = frames.shape
    shifted = np.asarray(frames, np.int64) + _starts(spec)
    if spec.flatten == "serial":
        return shifted.reshape(-1)
    order = [
        (s - q, q) for s in range(steps + books - 1) for q in range(books) if 0 <= s - q < steps
    ]
    return np.array([shifted[t, q] for t, q in order], np.int64).reshape(-1)


def sequence_to_frames(spec: CodecSpec, sequence: np.ndarray) -> np.ndarray:
    """Return the whole frames int64 [T, Q] of a sequence: the k-th code of a codebook is frame
    k's."""
    starts = _starts(spec)
    sequence = np.asarray(sequence, np.int64)
    each = [
        sequence[(sequence >= lo) & (sequence < lo + size)] - lo
        for lo, size in zip(starts, spec.codebooks, strict=True)
    ]
    whole = min(len(codes) for codes in each)
    return np.stack([codes[:whole] for codes in each], 1)


def grid_to_sequence(spec: CodecSpec, cells: np.ndarray) -> np.ndarray:
    """Return codes [H, W] as a sequence int64 [2 + H · W] that says its height and width first."""
    shape, (codebook,) = _grid(spec), spec.codebooks
    height, width = cells.shape
    assert 1 <= height <= shape.max_height and 1 <= width <= shape.max_width, cells.shape
    sizes = [codebook + height - 1, codebook + shape.max_height + width - 1]
    return np.concatenate([np.array(sizes, np.int64), np.asarray(cells, np.int64).reshape(-1)])


def sequence_to_grid(spec: CodecSpec, sequence: np.ndarray) -> np.ndarray:
    """Return the codes int64 [H, W] of a sequence: of the first height and width that it says, 1
    where it says none."""
    shape, (codebook,) = _grid(spec), spec.codebooks
    sequence = np.asarray(sequence, np.int64)
    heights = (
        sequence[(sequence >= codebook) & (sequence < codebook + shape.max_height)] - codebook + 1
    )
    widths = sequence[sequence >= codebook + shape.max_height] - codebook - shape.max_height + 1
    height, width = (int(sizes[0]) if len(sizes) else 1 for sizes in (heights, widths))
    cells = sequence[sequence < codebook][: height * width]
    return np.pad(cells, (0, height * width - len(cells))).reshape(height, width)


def _starts(spec: CodecSpec) -> np.ndarray:
    """Return the first code of every codebook's range, int64 [Q]."""
    return np.array([0, *itertools.accumulate(spec.codebooks[:-1])], np.int64)


def _grid(spec: CodecSpec) -> Grid:
    assert isinstance(spec.shape, Grid)
    return spec.shape
