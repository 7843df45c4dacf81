"""The moments of a step: which stages and which moments are looked at."""

from onnuri.planner.architecture import Architecture, Attention, Block
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.moments import CHUNK, moments, unlike_stages
from onnuri.planner.parallel import ParallelConfig

LLAMA = Architecture(
    name="llama",
    vocabulary=32_000,
    hidden=1024,
    blocks=(Block(count=16, attention=Attention(heads=16, kv_heads=4, head_dim=64), mlp=4096),),
)


def job(layout: ParallelConfig) -> Job:
    return Job(
        architecture=LLAMA,
        layout=layout,
        cluster=Cluster(gpu="H100", gpus=layout.gpus),
        tokens=1024,
        batch_tokens=1024 * layout.dp * 16,
    )


def test_inner_stages_that_hold_the_same_are_looked_at_once() -> None:
    stages = unlike_stages(job(ParallelConfig(pp=8, sharding="zero1")))
    assert [stage.rank for stage in stages] == [0, 1, 7]


def test_stages_hold_the_model() -> None:
    (one,) = unlike_stages(job(ParallelConfig(dp=4, sharding="zero1")))
    assert one.total.whole == LLAMA.num_params() == 4 * one.total.shard
    (sharded,) = unlike_stages(job(ParallelConfig(dp=4)))
    assert sharded.total.whole == LLAMA.num_params()


def test_fully_sharded_backward_passes_are_walked_layer_by_layer() -> None:
    """Loss and end, and three moments in each of the last two layers, which are of one kind."""
    (stage,) = unlike_stages(job(ParallelConfig(dp=4)))
    assert len(moments(stage)) == 2 + 3 * 2
    (whole,) = unlike_stages(job(ParallelConfig(dp=4, sharding="zero1")))
    assert len(moments(whole)) == 1


def test_a_chunk_is_as_long_as_the_trainers() -> None:
    from onnuri.model.cross_entropy import ROWS

    assert CHUNK == ROWS
