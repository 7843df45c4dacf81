"""This module judges pictures by which real pictures they are nearest to.

It knows vectors and labels, no network. A query is right at k if one of the k nearest vectors of
the gallery has its label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnuri.config import Config
from onnuri.evaluation.interval import wilson

LEAST = 30
"""items from which on a share is told; of fewer only their number is"""


class Share(Config):
    """A Share holds how many of some items are right."""

    n: int
    right: int

    @property
    def value(self) -> float | None:
        """Return the share, None if there are too few items to tell one."""
        return self.right / self.n if self.n >= LEAST else None

    @property
    def interval(self) -> tuple[float, float]:
        """Return the bounds of the share's 95 % interval."""
        return wilson(self.right, self.n)

    def told(self) -> str:
        """Return the share in per cent with its interval and number; the number alone of few."""
        if self.value is None:
            return f"n = {self.n}"
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * abs(low):.0f}–{100 * high:.0f}, n = {self.n})"


def share(right: Sequence[bool] | np.ndarray) -> Share:
    """Return the share of what is right."""
    return Share(n=len(right), right=int(np.sum(right)))


def nearest(queries: np.ndarray, gallery: np.ndarray, k: int) -> np.ndarray:
    """Return the numbers int64 [n, k] of the vectors of a gallery [m, F] that are nearest to each
    query [n, F] by cosine, the nearest first; both are of length 1."""
    similarity = queries @ gallery.T
    k = min(k, similarity.shape[1])
    return np.asarray(np.argsort(-similarity, axis=1, kind="stable")[:, :k])


def right_at(
    queries: np.ndarray,
    labels: Sequence[str],
    gallery: np.ndarray,
    gallery_labels: Sequence[str],
    k: int,
) -> np.ndarray:
    """Return bool [n]: whether one of the k nearest vectors of a gallery has a query's label."""
    found = np.array(gallery_labels)[nearest(queries, gallery, k)]
    return np.asarray((found == np.array(labels)[:, None]).any(1))


def chance_at(labels: Sequence[str], gallery_labels: Sequence[str], k: int) -> float:
    """Return the share of queries that k vectors drawn from the gallery without looking would make
    right."""
    own = np.array([list(gallery_labels).count(label) for label in labels])
    size, misses = len(gallery_labels), np.ones(len(own))
    for drawn in range(min(k, size)):
        misses *= np.clip(size - own - drawn, 0, None) / (size - drawn)
    return float((1 - misses).mean()) if len(own) else 0.0
