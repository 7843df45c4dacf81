"""Lines of a training run's log, its sitting and its forecast, with known waits."""

from onnuri.planner.interval import Interval, exact
from onnuri.profile.run_forecast import Forecast
from onnuri.training.run_meter import Sitting

FORECAST = Forecast(
    params=10,
    weight_bytes=40,
    gradient_bytes=40,
    optimizer_bytes=80,
    peak_bytes=Interval(low=80e6, mid=100e6, high=120e6),
    flops_per_token=60.0,
    tokens_per_second=Interval(low=900.0, mid=1000.0, high=1100.0),
    minutes=Interval(low=9.0, mid=10.0, high=11.0),
    loss=exact(2.0),
    step_seconds={"products": 0.8, "batch": 0.2},
    loss_from=("other",),
)


def sitting(**changes):
    values = {
        "time": 0.0,
        "step": 0,
        "steps": 100,
        "minutes": None,
        "log_every": 10,
        "device": "cpu",
        "ranks": 1,
        "flops_per_token": 60.0,
        "product_flops_per_second": 1e9,
        "first_step_seconds": 1.0,
    }
    return Sitting(**{**values, **changes})


def log(count=3, step_seconds=1.0, tokens=1000.0, **figures):
    """Lines of ten steps each."""
    line = {"steps_per_second": 1 / step_seconds, "tokens_per_second": tokens / step_seconds}
    return [{"step": 10 * (k + 1), **line, **figures} for k in range(count)]
