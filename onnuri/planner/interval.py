"""Hold a figure with its 80 % range, which is what every estimate of the planner is. Knows nothing
of what it measures."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnuri.config import Config

Z80 = 1.2816
"""standard deviations of a normal distribution beyond which a tenth lies"""


class Interval(Config):
    """A middle and an 80 % range: `low` and `high` leave a tenth on either side. Each half is
    log-normal, or normal where `low` is not positive."""

    low: float
    mid: float
    high: float

    def quantile(self, z: float) -> float:
        """Return the value `z` standard deviations of a normal distribution from the middle."""
        end, share = (self.high, z / Z80) if z > 0 else (self.low, -z / Z80)
        if self.low > 0:
            return self.mid * (end / self.mid) ** share
        return self.mid + (end - self.mid) * share

    def cdf(self, value: float) -> float:
        """Return the probability that the truth is at most `value`."""
        end = self.high if value > self.mid else self.low
        if end == self.mid:
            return float(value >= self.mid)
        if self.low > 0:
            z = math.log(max(value, 1e-300) / self.mid) / abs(math.log(end / self.mid)) * Z80
        else:
            z = (value - self.mid) / abs(end - self.mid) * Z80
        return (1 + math.erf(z / math.sqrt(2))) / 2

    def overlaps(self, other: Interval) -> bool:
        """Return whether the two ranges overlap, so that neither is better."""
        return self.low <= other.high and other.low <= self.high

    def __mul__(self, factor: float) -> Interval:
        """Return the interval with all three numbers scaled by a factor."""
        return Interval(low=self.low * factor, mid=self.mid * factor, high=self.high * factor)

    def __format__(self, spec: str) -> str:
        """Return the interval as `mid (low – high)`, each in the format `spec`."""
        return f"{self.mid:{spec}} ({self.low:{spec}} – {self.high:{spec}})"


def exact(value: float) -> Interval:
    """Return a value that is known, as an interval without width."""
    return Interval(low=value, mid=value, high=value)


def spread(f: Callable[..., float], *inputs: Interval) -> Interval:
    """Return the range of `f` over uncertain inputs: each input is moved to its ends alone, and the
    changes add in quadrature on a log scale, because they are taken as independent."""
    mids = [i.mid for i in inputs]
    mid = f(*mids)
    up = down = 0.0
    for n, each in enumerate(inputs):
        ends = [math.log(f(*mids[:n], end, *mids[n + 1 :]) / mid) for end in (each.low, each.high)]
        up += max(0.0, *ends) ** 2
        down += min(0.0, *ends) ** 2
    return Interval(
        low=mid * math.exp(-math.sqrt(down)), mid=mid, high=mid * math.exp(math.sqrt(up))
    )
