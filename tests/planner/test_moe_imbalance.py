"""Imbalance is a part of a mixture's step and of no other's."""

import pytest

from onnuri import recipes
from onnuri.planner import moe_imbalance
from onnuri.planner.hardware import Cluster
from onnuri.planner.stage_layouts import stage_job
from onnuri.planner.step_time import step_time


def job(name):
    recipe = recipes.find(name)
    return stage_job(
        recipe, recipe.stages[0], Cluster(gpu=recipe.gpu, gpus=recipe.gpus), recipe.layout
    )


def test_a_mixture_waits_for_its_fullest_expert():
    balanced, real = step_time(job("axk1")), moe_imbalance.real_step(job("axk1"))
    assert sum(real.parts.values()) == pytest.approx(real.total) and real.parts["imbalance"] > 0
    assert real.tokens_per_s_per_gpu * real.total == pytest.approx(
        balanced.tokens_per_s_per_gpu * balanced.total
    )
    assert real.low < balanced.low < real.high <= balanced.high
    # the published pairs lie in what is allowed for
    assert (
        moe_imbalance.REAL_ROUTING_EFFICIENCY.low
        <= 237 / 295
        <= 357 / 389
        <= moe_imbalance.REAL_ROUTING_EFFICIENCY.high
    )


def test_a_dense_model_has_no_router():
    assert moe_imbalance.real_step(job("hyperclovax_omni")) == step_time(job("hyperclovax_omni"))
