"""This module defines the parts of a training sequence: segments of one item each, with a weight in
the loss.

It knows no ids, no network and no world.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from onnuri.modality import Language, Task


@dataclasses.dataclass(frozen=True)
class SpokenWords:
    """A SpokenWords holds the text codes of a spoken sentence, int64 [K], and how many of the
    sound's codes each of its words has, int64 [words]."""

    codes: np.ndarray
    frames_per_word: np.ndarray


@dataclasses.dataclass(frozen=True)
class Segment:
    """A Segment holds one item in a training sequence: its codes int64 [K] and what the loss and
    the prompt need to know of it."""

    codec: str
    """the name in the token layout of the codec whose codes these are"""
    codes: np.ndarray
    """int64 [K]"""
    language: Language | None
    """language of text or speech, if it is stated before the segment"""
    weight: float
    """weight in the loss of its codes and of its closing token"""
    words: SpokenWords | None = None
    """the words of a sound that the model itself speaks"""
    task: Task | None = None
    """the task that is stated before the segment"""


class SequenceSource(Protocol):
    """A SequenceSource draws the sequences that a model is trained on."""

    def sample(self, rng: np.random.Generator) -> list[Segment]:
        """Return the segments of one sequence, which depend on the random numbers of `rng`
        alone."""
        ...


class MixedSource:
    """A MixedSource draws each sequence from one of several sources, by their weights."""

    def __init__(self, sources: Sequence[SequenceSource], weights: Sequence[float]) -> None:
        self.sources = sources
        self.shares = np.array(weights) / sum(weights)

    def sample(self, rng: np.random.Generator) -> list[Segment]:
        """Return the segments of one sequence of a source."""
        source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
        return source.sample(rng)
