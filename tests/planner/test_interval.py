"""Ranges: quantiles against each other and against a simulation."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnuri.planner.interval import Z80, Interval, exact, spread

positive = st.floats(0.01, 100)


@given(st.tuples(positive, positive, positive).map(sorted), st.floats(-3, 3))
def test_at_and_below_are_inverse(ends, z):
    low, mid, high = ends
    if mid / low < 1.01 or high / mid < 1.01:
        return
    i = Interval(low=low, mid=mid, high=high)
    assert i.cdf(i.quantile(z)) == pytest.approx((1 + math.erf(z / math.sqrt(2))) / 2, abs=1e-6)


def test_a_tenth_lies_beyond_either_end():
    for i in (Interval(low=1, mid=2, high=9), Interval(low=-1, mid=0, high=3)):
        assert (i.cdf(i.low), i.cdf(i.mid), i.cdf(i.high)) == pytest.approx(
            (0.1, 0.5, 0.9), abs=1e-3
        )
        assert (i.quantile(-Z80), i.quantile(0), i.quantile(Z80)) == pytest.approx(
            (i.low, i.mid, i.high)
        )
    assert exact(3).cdf(2.9) == 0 and exact(3).cdf(3.1) == 1


def test_spread_of_a_product_is_that_of_a_simulation():
    a, b = Interval(low=1, mid=2, high=4), Interval(low=0.5, mid=0.6, high=0.72)
    dice = random.Random(0)
    drawn = sorted(
        a.quantile(dice.gauss(0, 1)) * b.quantile(dice.gauss(0, 1)) for _ in range(20_000)
    )
    found = spread(lambda x, y: x * y, a, b)
    assert (found.low, found.mid, found.high) == pytest.approx(
        (drawn[2_000], drawn[10_000], drawn[18_000]), rel=0.03
    )


def test_spread_knows_that_more_of_one_can_be_less():
    assert spread(lambda x: 1 / x, Interval(low=1, mid=2, high=8)) == Interval(
        low=0.125, mid=0.5, high=1.0
    )


def test_ties():
    assert Interval(low=1, mid=2, high=3).overlaps(Interval(low=2.9, mid=4, high=5))
    assert not Interval(low=1, mid=2, high=3).overlaps(Interval(low=3.1, mid=4, high=5))
