"""Format a report's figures: three significant digits, ranges in brackets. Knows no report."""

from __future__ import annotations

from onnuri.planner.interval import Interval
from onnuri.planner.words import Catalogue


def number(x: float) -> str:
    """Return a number with three significant digits, with letters for millions and more."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(x) >= size * 0.9995:
            return f"{x / size:.3g}{letter}" if x < 999.5 * size else f"{x / size:,.0f}{letter}"
    return f"{x:,.0f}" if abs(x) >= 99.95 else f"{x:.3g}"


def between(i: Interval, unit: str = "", scale: float = 1.0, before: str = "") -> str:
    """Return an interval such as `12 (10 – 15) GiB`; one without width is one number."""
    low, mid, high = (number(x * scale) for x in (i.low, i.mid, i.high))
    ends = "" if low == high else f" ({low} – {high})"
    return f"{before}{mid}{ends} {unit}".rstrip()


def dollars(i: Interval | None, say: Catalogue) -> str:
    """Return an amount of dollars with its range as text, or the word for unknown."""
    return between(i, before="$") if i else say("none")


def milliseconds(i: Interval) -> str:
    """Return a time in seconds as text in milliseconds, with its range."""
    return between(i, "ms", scale=1e3)


def share(i: Interval) -> str:
    """Return a share between 0 and 1 as text in percent, with its range."""
    return f"{i.mid:.0%} ({i.low * 100:.0f} – {i.high * 100:.0f})"


def percent(odds: float) -> str:
    """Return a probability as a percent; what is not certain is never written as 0 or 100 %."""
    return "> 99 %" if odds > 0.995 else "< 1 %" if odds < 0.005 else f"{odds * 100:.0f} %"


def parameters(total: float, active: float) -> str:
    """Return the parameters of a model, and the active ones where they are fewer."""
    return f"{number(total)} / {number(active)}" if active < total else number(total)


def duration(seconds: float, say: Catalogue) -> str:
    """Return a length of time in the largest unit of which it has at least two."""
    for size, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return say(unit, count=f"{seconds / size:.0f}")
    return say("second", count=f"{seconds:.0f}")
