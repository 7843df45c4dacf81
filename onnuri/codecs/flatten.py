"""This module flattens codes of frames and of grids into the sequence that a language model reads
and writes, and back.

Any sequence gives codes that a codec can decode, since a language model may stop anywhere:
incomplete frames are dropped and missing cells are filled with code 0. T frames, Q codebooks, H × W
cells.
"""

from __future__ import annotations

import itertools

import numpy as np

from onnuri.codecs.spec import CodecSpec, Grid


def frames_to_sequence(spec: CodecSpec, frames: np.ndarray) -> np.ndarray:
    """Return codes [T, Q] as a sequence int64 [T · Q], each codebook in its own range.

    `serial` goes frame by frame. In `delay`, step s holds the code of frame s − q of every codebook
    q for which there is such a frame.
    """
    steps, books = frames.shape
    shifted = np.asarray(frames, np.int64) + _starts(spec)
    if spec.flatten == "serial":
        return shifted.reshape(-1)
    sequence = []
    for step in range(steps + books - 1):
        for q in range(books):
            if 0 <= step - q < steps:
                sequence.append(shifted[step - q, q])
    return np.array(sequence, np.int64)


def sequence_to_frames(spec: CodecSpec, sequence: np.ndarray) -> np.ndarray:
    """Return the complete frames int64 [T, Q] of a sequence: a codebook's k-th code belongs to
    frame k."""
    sequence = np.asarray(sequence, np.int64)
    by_codebook = [
        sequence[(sequence >= lo) & (sequence < lo + size)] - lo
        for lo, size in zip(_starts(spec), spec.codebooks, strict=True)
    ]
    # a language model may stop within a frame: then some codebooks have one code more
    frames = min(len(codes) for codes in by_codebook)
    return np.stack([codes[:frames] for codes in by_codebook], 1)


def grid_to_sequence(spec: CodecSpec, cells: np.ndarray) -> np.ndarray:
    """Return codes [H, W] as a sequence int64 [2 + H · W] that starts with height and width."""
    shape, (codebook,) = _grid(spec), spec.codebooks
    height, width = cells.shape
    assert 1 <= height <= shape.max_height and 1 <= width <= shape.max_width, cells.shape
    sizes = [codebook + height - 1, codebook + shape.max_height + width - 1]
    return np.concatenate([np.array(sizes, np.int64), np.asarray(cells, np.int64).reshape(-1)])


def sequence_to_grid(spec: CodecSpec, sequence: np.ndarray) -> np.ndarray:
    """Return the codes int64 [H, W] of a sequence, in the first height and the first width that it
    contains (1 if it contains none)."""
    shape, (codebook,) = _grid(spec), spec.codebooks
    sequence = np.asarray(sequence, np.int64)
    first_width = codebook + shape.max_height
    heights = sequence[(sequence >= codebook) & (sequence < first_width)] - codebook + 1
    widths = sequence[sequence >= first_width] - first_width + 1
    height, width = (int(sizes[0]) if len(sizes) else 1 for sizes in (heights, widths))
    cells = sequence[sequence < codebook][: height * width]
    return np.pad(cells, (0, height * width - len(cells))).reshape(height, width)


def _starts(spec: CodecSpec) -> np.ndarray:
    """Return the first code of each codebook's range, int64 [Q]."""
    return np.array([0, *itertools.accumulate(spec.codebooks[:-1])], np.int64)


def _grid(spec: CodecSpec) -> Grid:
    """Return the shape of a spec whose items are grids."""
    assert isinstance(spec.shape, Grid)
    return spec.shape
