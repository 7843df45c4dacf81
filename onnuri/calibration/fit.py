"""Fit the step time's constants to published runs: robust least squares on log error, with priors.
Needs scipy.

Knows nothing of how runs are split for validation: `benchmarks/planner_cv.py` does, and writes
`data/constants.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from onnuri.calibration import runs
from onnuri.calibration.validate import CHOICE
from onnuri.planner import constants
from onnuri.planner.step_time import Rates, rates, seconds
from onnuri.planner.step_work import Work, work

SIGMA = 0.08
"""standard deviation of the log error that is expected of one configuration: noise between releases
and sources"""
INTERVAL = ("dense_below", "dense_above", "moe_below", "moe_above", "open")
"""constants of the interval, which come from errors on rows that were held out"""
WIDER = [k / 20 for k in range(1, 40)]
"""shares of its width that a doubt may add to an interval, to be tried"""
PUBLISHED, FURTHER = runs.PUBLISHED, runs.FURTHER


class Evidence(NamedTuple):
    """Rows, and their candidate jobs stacked to arrays."""

    rows: list[runs.Row]
    work: Work
    """per candidate job"""
    rates: Rates
    """per candidate job"""
    per_gpu: np.ndarray
    """tokens per step and GPU, per candidate job"""
    weight: np.ndarray
    """share of a candidate job in its row"""
    row: np.ndarray
    """index of a candidate job's row"""
    factor: np.ndarray
    """per row: its metric for one token per second and GPU"""


def usable(rows: Sequence[runs.Row]) -> list[runs.Row]:
    """Return the rows of steady speed that are on a published page and have a prediction."""
    return [r for r in rows if runs.steady(r) and runs.why_null(r) is None]


def stack(rows: Sequence[runs.Row]) -> Evidence:
    """Return rows with the work and rates of all their candidate jobs stacked to arrays."""
    pairs = [(i, m) for i, row in enumerate(rows) for m in runs.candidate_jobs(row)]
    jobs = [m.job for _, m in pairs]
    firsts = [next(m.job for j, m in pairs if j == i) for i in range(len(rows))]
    return Evidence(
        rows=list(rows),
        work=Work(*_columns(map(work, jobs))),
        rates=Rates(*_columns(map(rates, jobs))),
        per_gpu=np.array([j.batch_tokens / j.cluster.gpus for j in jobs]),
        weight=np.array([m.weight for _, m in pairs]),
        row=np.array([i for i, _ in pairs]),
        factor=np.array([runs.in_metric(r, j, 1.0) for r, j in zip(rows, firsts, strict=True)]),
    )


def _columns(rows: Iterable[tuple[float, ...]]) -> list[Any]:
    """Return one array per field of equal tuples, such as `Work`, in their order."""
    return [np.array(x, float) for x in zip(*rows, strict=True)]


def log_speed(e: Evidence, fitted: dict[str, float]) -> np.ndarray:
    """Return the logarithm of each row's predicted tokens per second and GPU: the mean over its
    candidate jobs, weighted by their speed, because the faster is the likelier."""
    parts, _ = seconds(e.work, e.rates, fitted)
    logs = np.log(e.per_gpu / sum(parts.values()))
    best = np.full(len(e.rows), -np.inf)
    np.maximum.at(best, e.row, logs)
    weight = np.exp(CHOICE * (logs - best[e.row]))
    return np.bincount(e.row, weight * logs, len(e.rows)) / np.bincount(e.row, weight, len(e.rows))


def published(e: Evidence) -> np.ndarray:
    """Return the logarithm of each row's published value, in tokens per second and GPU."""
    return np.log(np.array([float(r["value"]) for r in e.rows]) / e.factor)


def repeats(rows: Sequence[runs.Row]) -> np.ndarray:
    """Return for each row how many rows have the same model, machine, precision and sequence
    length, because releases repeat them."""
    keys = [(r["model"], r["gpu"], r["precision"], r["seq_len"]) for r in rows]
    count = Counter(keys)
    return np.array([count[k] for k in keys], float)


def fit(e: Evidence, held: Any = None, start: dict[str, float] | None = None) -> dict[str, float]:
    """Return the constants fitted to all rows but those of the mask `held`; `start` only saves
    time."""
    known = [c for c in constants.fitted() if c.name not in INTERVAL]
    prior, spread = np.log([c.prior for c in known]), np.array([c.spread for c in known])
    use = np.ones(len(e.rows), bool) if held is None else ~held
    target = published(e)
    weight = np.where(use, repeats(e.rows) ** -0.25, 0.0)

    def named(x: np.ndarray) -> dict[str, float]:
        """Return the constants by name for parameters `x`, in standard deviations of their priors'
        logarithms."""
        return dict(zip((c.name for c in known), np.exp(prior + spread * x), strict=True))

    def residuals(x: np.ndarray) -> np.ndarray:
        """Return the robust errors of all rows and the distances from the priors, to be squared and
        summed."""
        z = (log_speed(e, named(x)) - target) / SIGMA * weight
        robust = np.sign(z) * np.sqrt(2 * (np.sqrt(1 + z**2) - 1))  # soft l1 on rows, not on priors
        return np.concatenate([robust, x])

    first = (
        np.zeros(len(known))
        if start is None
        else (np.log([start[c.name] for c in known]) - prior) / spread
    )
    return named(least_squares(residuals, first, method="trf", ftol=1e-5, xtol=1e-4, max_nfev=60).x)


def interval(
    errors: np.ndarray, moe: np.ndarray, doubts: np.ndarray, machines: Sequence[str]
) -> dict[str, float]:
    """Return the interval's constants from the errors of rows that were held out.

    `errors` are logarithms of published over predicted speed. A tenth lies beyond either end, and
    what a doubt adds has the least quantile loss (Gneiting and Raftery 2007, section 6.2). Rows of
    one machine err together, so it counts for less than their number. What fewer than ten rows tell
    stays at its prior.
    """
    count = Counter(machines)
    weight = np.array([count[m] ** -0.25 for m in machines])
    prior = {c.name: c.prior for c in constants.fitted() if c.name in INTERVAL}
    few = min((doubts > 0).sum(), (doubts == 0).sum()) < 10
    candidates = [
        _ends(errors, moe, doubts, weight, prior | {"open": x})
        for x in ([prior["open"]] if few else WIDER)
    ]
    return min(candidates, key=lambda result: result[0])[1]


def _ends(
    errors: np.ndarray,
    moe: np.ndarray,
    doubts: np.ndarray,
    weight: np.ndarray,
    fitted: dict[str, float],
) -> tuple[float, dict[str, float]]:
    """Return the quantile loss and the constants of an interval that a doubt widens by
    `fitted["open"]`; its ends are the weighted 10 % and 90 % quantiles of the scaled errors."""
    quantile_loss, wider = 0.0, 1 + fitted["open"] * doubts
    for kind, mask in (("dense", ~moe), ("moe", moe)):
        if mask.sum() >= 10:
            scaled = errors[mask] / wider[mask]
            fitted |= {
                f"{kind}_below": max(0.02, -quantile(scaled, weight[mask], 0.1)),
                f"{kind}_above": max(0.02, quantile(scaled, weight[mask], 0.9)),
            }
        for end, share in ((-fitted[f"{kind}_below"], 0.1), (fitted[f"{kind}_above"], 0.9)):
            beyond = errors[mask] - end * wider[mask]
            quantile_loss += float(
                (weight[mask] * np.maximum(share * beyond, (share - 1) * beyond)).sum()
            )
    return quantile_loss, fitted


def quantile(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """Return the weighted quantile of values: the value below which a `share` of the weight
    lies."""
    order = np.argsort(values)
    total = np.cumsum(weight[order]) - weight[order] / 2
    return float(np.interp(share * weight.sum(), total, values[order]))
