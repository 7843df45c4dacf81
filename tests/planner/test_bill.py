"""Dollars and energy."""

import pytest

from onnuri.planner.bill import bill, price
from onnuri.planner.hardware import gpu
from onnuri.planner.interval import exact


def test_dollars_are_hours_times_list_prices():
    found = bill(gpu("H200"), exact(1000))
    assert (found.usd.low, found.usd.high) == pytest.approx((2500, 10_600))


def test_a_dgx_hour_draws_no_more_than_it_is_rated():
    energy = bill(gpu("H100"), exact(8)).energy_mwh
    assert 0.0056 < energy.mid < 0.0102 < energy.high


def test_what_the_table_lacks_is_none():
    assert price(gpu("B300")) is None and bill(gpu("TPUv5p"), exact(1)).energy_mwh is None
