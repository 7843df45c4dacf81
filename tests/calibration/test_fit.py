"""The fit against constants that made the rows themselves, and intervals against errors of a known
spread."""

from __future__ import annotations

import numpy as np
import pytest

from onnuri.calibration import fit, runs
from onnuri.planner import constants

ROWS = fit.usable(runs.read(fit.PUBLISHED))[::7]


@pytest.fixture(scope="module")
def evidence() -> fit.Evidence:
    return fit.stack(ROWS)


@pytest.fixture(scope="module")
def made(evidence: fit.Evidence) -> tuple[dict[str, float], fit.Evidence]:
    """Constants away from their priors, and rows that run at exactly the speed that they give."""
    draw = np.random.default_rng(0)
    truth = {
        c.name: c.prior * float(np.exp(c.spread * draw.uniform(-1.5, 1.5)))
        for c in constants.fitted()
    }
    values = np.exp(fit.log_speed(evidence, truth)) * evidence.factor
    return truth, evidence._replace(
        rows=[{**r, "value": repr(float(v))} for r, v in zip(ROWS, values, strict=True)]
    )


def test_a_fit_finds_the_constants_that_made_its_rows(
    made: tuple[dict[str, float], fit.Evidence],
) -> None:
    """Those that the rows speak of; the rest stay near their priors, and all rows are predicted."""
    truth, rows = made
    found, target = fit.fit(rows), fit.published(rows)
    prior = {c.name: c.prior for c in constants.fitted()}
    off = {
        name: np.abs(fit.log_speed(rows, c) - target)
        for name, c in (("found", found), ("prior", prior))
    }
    assert np.median(off["found"]) < 0.02 < 0.5 * np.median(off["prior"])
    assert found["projection"] == pytest.approx(truth["projection"], rel=0.1)


def test_a_row_that_is_held_out_has_no_say(made: tuple[dict[str, float], fit.Evidence]) -> None:
    _, rows = made
    held = np.arange(len(ROWS)) % 4 == 0
    changed = rows._replace(
        rows=[{**r, "value": "1"} if out else r for r, out in zip(rows.rows, held, strict=True)]
    )
    assert fit.fit(rows, held) == fit.fit(changed, held)


def test_one_absurd_row_does_not_carry_the_fit(made: tuple[dict[str, float], fit.Evidence]) -> None:
    _, rows = made
    absurd = rows._replace(
        rows=[
            {**r, "value": repr(100 * float(r["value"]))} if k == 3 else r
            for k, r in enumerate(rows.rows)
        ]
    )
    found, target = fit.log_speed(rows, fit.fit(absurd)), fit.published(rows)
    assert np.median(np.abs(found - target)) < 0.05


def test_intervals_leave_a_tenth_on_either_side() -> None:
    draw = np.random.default_rng(1)
    moe, doubts = draw.random(4000) < 0.5, draw.integers(0, 3, 4000)
    errors = draw.normal(0.0, 0.1, 4000) * (1 + 0.4 * doubts)
    found = fit.interval(errors, moe, doubts, [str(k) for k in range(4000)])
    assert found["open"] == pytest.approx(0.4, abs=0.1)
    for kind, mask in (("dense", ~moe), ("moe", moe)):
        wide = 1 + found["open"] * doubts[mask]
        below, above = (
            errors[mask] < -found[f"{kind}_below"] * wide,
            errors[mask] > found[f"{kind}_above"] * wide,
        )
        assert below.mean() == pytest.approx(0.1, abs=0.01) and above.mean() == pytest.approx(
            0.1, abs=0.01
        )


def test_a_machine_with_many_rows_is_not_many_machines() -> None:
    """Nine of ten machines are 30 % slower than foretold; that they have few rows makes nobody
    surer."""
    machines = [f"big {k % 20}" for k in range(2000)] + [f"small {k}" for k in range(180)]
    errors = np.array([0.01] * 2000 + [-0.36] * 180)
    rows, alike = len(errors), [f"{k}" for k in range(len(errors))]
    told = [
        fit.interval(errors, np.zeros(rows, bool), np.zeros(rows, int), names)["dense_below"]
        for names in (machines, alike)
    ]
    assert told[0] > 0.1 > told[1]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_weights_are_repeated_rows(share: float) -> None:
    values, weight = (
        np.random.default_rng(2).normal(size=400),
        np.random.default_rng(3).integers(1, 6, 400),
    )
    repeated = np.quantile(np.repeat(values, weight), share)
    assert fit.quantile(values, weight.astype(float), share) == pytest.approx(repeated, abs=0.02)


def test_repeats_count_what_releases_repeat() -> None:
    rows = [{"model": m, "gpu": "H100", "precision": "bf16", "seq_len": "4096"} for m in "aab"]
    assert list(fit.repeats(rows)) == [2, 2, 1]
