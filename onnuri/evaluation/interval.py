"""This module computes confidence intervals of measured shares."""

from __future__ import annotations

import math


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float]:
    """Return the bounds of the confidence interval of a share, `right` of `asked` trials, at `z`
    standard deviations (95 % by default); Wilson 1927."""
    if asked == 0:
        return 0.0, 1.0
    p = right / asked
    middle, spread = (
        p + z * z / (2 * asked),
        z * math.sqrt(p * (1 - p) / asked + z * z / (4 * asked * asked)),
    )
    return (middle - spread) / (1 + z * z / asked), (middle + spread) / (1 + z * z / asked)
