"""The search against asking every layout one by one."""

import itertools
import re
import time

import pytest

from onnuri import recipes
from onnuri.errors import ConfigError
from onnuri.planner import search, words
from onnuri.planner.architecture import Architecture, Attention, Block, Experts
from onnuri.planner.goodput import DAY, goodput
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
from onnuri.planner.routing import real_step

GROUPED = Attention(heads=32, kv_heads=8, head_dim=128)
DENSE = Architecture(name="dense", vocabulary=128_256, hidden=4096, blocks=(Block(count=32, attention=GROUPED, mlp=14_336),))
SPARSE = Architecture(name="sparse", vocabulary=128_256, hidden=4096, blocks=(
    Block(count=24, attention=GROUPED, experts=Experts(routed=64, topk=8, width=1408, shared=1)),))
CASES = [(DENSE, Cluster(gpu="H100", gpus=16), 2**19), (SPARSE, Cluster(gpu="A100-80", gpus=32), 2**20)]


def every(a, cluster, batch, here=False):
    for g in search.grid(a, cluster, 4096, batch, here=here):
        for (sharding, shard), v, m, r in itertools.product(g.shardings, g.virtual_stages, g.micro_batches, search.RECOMPUTE):
            layout = g.base.replace(sharding=sharding, shard=shard, virtual_stages=v, micro_batch=m, recompute=r)
            yield Job(architecture=a, layout=layout, cluster=cluster, tokens=4096, batch_tokens=batch)


@pytest.mark.parametrize("a, cluster, batch", CASES, ids=["dense", "sparse"])
def test_the_best_of_all_is_found_and_none_is_forgotten(a, cluster, batch):
    jobs = list(every(a, cluster, batch))
    held = [j for j in jobs if memory(j).high <= cluster.kind.memory_gb * 1e9]
    times = sorted(((real_step(j).total, j.layout) for j in held), key=lambda t: t[0])
    found = search.search(a, cluster, 4096, batch)
    assert found.layouts == len(jobs) == sum(found.lost.values()) + len(found.best)
    assert found.lost["too much memory"] == len(jobs) - len(held)
    assert found.best[0].layout == times[0][1]
    assert found.here.layout == next(layout for _, layout in times if layout.engine is None)
    assert [c.slower for c in found.best] == sorted(c.slower for c in found.best) and found.best[0].slower == 1
    assert len({search.kind(c.layout) for c in found.best}) == len(found.best)


@pytest.mark.parametrize("a, cluster, batch", CASES, ids=["dense", "sparse"])
def test_every_layout_of_the_grid_divides_and_is_there_once(a, cluster, batch):
    jobs = list(every(a, cluster, batch))
    for job in jobs:
        job.check()
    assert len({j.layout for j in jobs}) == len(jobs)
    assert {j.layout.tp for j in jobs} >= {1, 2, 4, 8} and {j.layout.pp for j in jobs} >= {1, 2, 4, 8}


def test_what_runs_here_is_a_part_of_the_grid():
    all_, here = (list(every(SPARSE, CASES[1][1], 2**20, here)) for here in (False, True))
    assert {j.layout for j in here} == {j.layout for j in all_ if j.layout.engine is None} and here


@pytest.mark.parametrize("a, cluster, batch", CASES, ids=["dense", "sparse"])
def test_the_least_of_all_is_what_no_layout_is_below(a, cluster, batch):
    assert search.least_bytes(a, cluster, 4096, batch) == min(memory(j).high for j in every(a, cluster, batch))


def test_no_step_is_faster_than_its_floor():
    for job in list(every(SPARSE, CASES[1][1], 2**20))[::17]:
        assert search.floor_seconds(job) < real_step(job).total


def test_one_line_where_nothing_fits_or_divides():
    with pytest.raises(ConfigError, match=r"none of \d+ layouts fits, the smallest takes 1,\d+ GiB of 39") as short:
        search.search(DENSE.replace(hidden=32_768), Cluster(gpu="A100-40", gpus=1), 4096, 4096)
    with pytest.raises(ConfigError, match="no layout divides") as odd:
        search.search(DENSE, Cluster(gpu="H100", gpus=37), 4096, 4096)
    for raised in (short, odd):  # a budget shows them in the reader's language
        assert set(re.findall("[A-Za-z]+", words.ours(raised.value.rule, "ko"))) <= {"GiB"}


@pytest.fixture(scope="module")
def axk1():
    began = time.process_time()  # the machine may be busy with other tests
    text = recipes.find("axk1").stages[0]
    found = search.search(recipes.find("axk1").architecture, Cluster(gpu="H200", gpus=1024), text.tokens_per_sequence,
                          text.batch_tokens)
    return found, time.process_time() - began


def test_all_layouts_of_519b_on_1024_gpus_in_ten_seconds(axk1):
    found, seconds = axk1
    assert seconds < 10 and found.layouts > 50_000 and found.here


def test_the_published_run_lies_in_the_range_of_the_best_layout(axk1):
    """1,024 H200 and 75 days for about 10T tokens, says one summary of A.X K1's report."""
    kept, speed = goodput(Cluster(gpu="H200", gpus=1024), 519e9 * 12).share, axk1[0].best[0].tokens_per_s_per_gpu
    needed = 10e12 / (1024 * 75 * DAY)
    assert speed.low * kept.low < needed < speed.high * kept.high
