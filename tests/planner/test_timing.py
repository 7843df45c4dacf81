"""Many layouts timed with what they share counted once, against one prediction each."""

import itertools

import pytest

from onnuri import recipes
from onnuri.planner.hardware import Cluster
from onnuri.planner.memory import memory
from onnuri.planner.moe_imbalance import real_step
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.timing import Timer

SHARDINGS = [("ddp", None), ("zero1", None), ("fsdp", None), ("hsdp", 8), ("hsdp", 12)]


@pytest.fixture(scope="module", params=["axk1", "vaetki", "hyperclovax_omni"])
def timed(request):
    """Layouts in one timer, so that what one of them left is used for the next; every seventh of
    them."""
    timer = Timer(
        recipes.find(request.param).architecture, Cluster(gpu="H100", gpus=1), 4096, 2026.0
    )
    degrees = itertools.product(
        (24, 48),
        (1, 2),
        (1, 2),
        (1, 4),
        (1, 8),
        SHARDINGS,
        (1, 2),
        ("none", "full"),
        ("bf16", "fp8"),
    )
    mixture = timer.a.mixture
    layouts = [
        ParallelConfig(
            dp=dp,
            tp=tp,
            cp=cp,
            pp=pp,
            ep=ep if mixture else 1,
            sharding=sharding,
            shard=shard,
            micro_batch=micro,
            virtual_stages=2 if pp > 1 else 1,
            recompute=recompute,
            precision=precision,
        )
        for dp, tp, cp, pp, ep, (sharding, shard), micro, recompute, precision in degrees
    ]
    return timer, [
        (layout, 4096 * layout.dp * layout.micro_batch * passes)
        for layout, passes in zip(layouts[::7], itertools.cycle((1, 3, 16)))
    ]


def test_a_step_is_what_one_prediction_says(timed):
    timer, layouts = timed
    for layout, batch in layouts:
        assert timer.seconds(layout, batch) == pytest.approx(
            real_step(timer.job(layout, batch)).total, rel=1e-12
        ), layout


def test_room_is_what_memory_says(timed):
    timer, layouts = timed
    for layout, batch in layouts[::3]:
        assert timer.room(layout, batch) == memory(timer.job(layout, batch)).high, layout


def test_no_step_is_faster_than_its_copys_pace(timed):
    timer, layouts = timed
    for layout, batch in layouts:
        pace, passes = timer.pace(layout), timer.job(layout, batch).micro_batches
        least = pace.seconds * (passes + pace.bubble) * timer.crowd(layout.gpus)
        assert least <= timer.seconds(layout, batch) * (1 + 1e-12), layout
