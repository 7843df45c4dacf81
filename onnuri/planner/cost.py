"""Estimate what GPU hours cost: dollars by list prices, energy by rated power. Knows no model."""

from __future__ import annotations

import math

from onnuri.config import Config
from onnuri.planner.hardware import Gpu
from onnuri.planner.interval import Interval, spread

DRAW = Interval(low=0.65, mid=0.8, high=0.95)
"""share of the rated power that training draws: assumed"""
HOST = Interval(low=1.3, mid=1.5, high=1.8)
"""a server's power over its GPUs': a DGX H100 is rated 10.2 kW for 8 x 700 W, 1.8 (its data sheet,
recalled); less in use"""
COOLING = Interval(low=1.1, mid=1.25, high=1.5)
"""power usage effectiveness: assumed, from large clouds' 1.1 to a server room's 1.5"""


class Bill(Config):
    """Dollars and MWh of a number of GPU hours; None where the hardware table has neither price nor
    power."""

    usd: Interval | None
    energy_mwh: Interval | None


def price(gpu: Gpu) -> Interval | None:
    """Return dollars per GPU hour: the table's lowest and highest list price, and between them the
    median of sellers where one was published, else their geometric mean. None without a price."""
    known = [p for p in (gpu.usd_low, gpu.usd_high) if p]
    if not known:
        return None
    low, high, median = min(known), max(known), gpu.usd_median
    mid = median if median and low <= median <= high else math.sqrt(low * high)
    return Interval(low=low, mid=mid, high=high)


def bill(gpu: Gpu, hours: Interval, power_w: float | None = None) -> Bill:
    """Return the dollars and the energy of these GPU hours; `power_w` is a GPU's, where it is not
    the table's."""
    usd, watts = price(gpu), power_w or gpu.power_w
    return Bill(
        usd=spread(lambda h, p: h * p, hours, usd) if usd else None,
        energy_mwh=spread(
            lambda h, *shares: h * watts / 1e6 * math.prod(shares), hours, DRAW, HOST, COOLING
        )
        if watts
        else None,
    )
