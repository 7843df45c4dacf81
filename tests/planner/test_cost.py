"""Dollars and energy."""

import pytest

from onnuri.planner.cost import bill, price
from onnuri.planner.hardware import gpu
from onnuri.planner.interval import exact


def test_dollars_are_hours_times_list_prices():
    found = bill(gpu("H200"), exact(1000))
    assert (found.usd.low, found.usd.high) == pytest.approx((2500, 10_600))


def test_the_middle_is_the_median_of_sellers_where_one_is_published():
    """Of the H100, 2.95 over 37 sellers: one hyperscaler's list price must not pull it up."""
    asked = price(gpu("H100"))
    assert (asked.low, asked.mid, asked.high) == (1.99, 2.95, 12.29)
    own = price(
        gpu("H100").replace(usd_low=4.0, usd_high=4.0)
    )  # a price of one's own stands against the table's median
    assert own.low == own.mid == own.high == 4.0


def test_a_dgx_hour_draws_no_more_than_it_is_rated():
    energy = bill(gpu("H100"), exact(8)).energy_mwh
    assert 0.0056 < energy.mid < 0.0102 < energy.high


def test_what_the_table_lacks_is_none():
    assert price(gpu("B300")) is None and bill(gpu("TPUv5p"), exact(1)).energy_mwh is None
