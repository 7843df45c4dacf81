"""What a training sequence is made of: segments of one item each, with a weight in the loss. Knows
no ids, no network and no world.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from onnuri.modality import Language, Task


@dataclasses.dataclass(frozen=True)
class SpokenWords:
    """The sentence that a sound speaks, and how many of the sound's codes each of its words has."""

    codes: np.ndarray
    frames_per_word: np.ndarray


@dataclasses.dataclass(frozen=True)
class Segment:
    """One item in a sequence."""

    codec: str
    """the name in the token layout of the codec whose codes these are"""
    codes: np.ndarray
    language: Language | None
    weight: float
    """in the loss, of its codes and its closing token"""
    words: SpokenWords | None = None
    """of the model's own speech"""
    task: Task | None = None
    """what is asked, said before the segment"""


class SequenceSource(Protocol):
    """Draws the sequences that a model is trained on."""

    def sample(self, rng: np.random.Generator) -> list[Segment]:
        """Return the segments of one sequence: a function of the random numbers alone."""
        ...
