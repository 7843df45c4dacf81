"""The moments of a step: which stages and which moments are looked at."""

from onnuri.planner.architecture import Architecture, Attention, Block
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
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


def test_one_gpu_gathers_nothing_and_holds_every_weight_twice() -> None:
    (stage,) = unlike_stages(job(ParallelConfig()))
    found = moments(stage)
    assert all(moment.gathered == 0.0 for moment in found)
    assert memory(stage.job).parameters == (4 + 2) * LLAMA.num_params()
    # with 16 micro-batches all gradients stand in 32 bits while the last one runs
    assert {moment.gradients for moment in found} == {4.0 * LLAMA.num_params()}


def test_gradients_of_one_gpu_grow_as_the_backward_pass_goes_back() -> None:
    """Of one micro-batch: none at the loss, the head's at the last layer, all at the end; where the
    head is the embedding too, its gradient waits in 16 bits for the embedding's."""
    whole = job(ParallelConfig()).replace(batch_tokens=1024)
    head, table = 32_000 * 1024 + 1024, 32_000 * 1024
    for tied in (False, True):
        architecture = LLAMA.replace(tied=tied)
        (stage,) = unlike_stages(whole.replace(architecture=architecture))
        at_head, at_loss, end, *in_layers = moments(stage)
        assert at_loss.gradients == 0.0
        assert at_head.gradients == min(m.gradients for m in in_layers) == 4.0 * head * (not tied)
        assert end.gradients == 4.0 * architecture.num_params()
        assert end.backward_bytes == (4.0 * head if tied else 2.0 * table)
        state, largest = 2.0 * 1024 * 1024, 2.0 * 4096 * 1024
        for over in in_layers[2::3]:  # a layer's end: its last gradient is still in 16 bits
            assert over.backward_bytes == state + largest + 2.0 * head * tied


def test_a_chunk_is_as_long_as_the_trainers() -> None:
    from onnuri.model.cross_entropy import ROWS

    assert CHUNK == ROWS
