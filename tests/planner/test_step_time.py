"""The step's time: parts sum, directions that physics gives, counts against independent
formulas."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri.planner import constants, shapes
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.parallel import MEGATRON, ParallelConfig
from onnuri.planner.step_time import larger, step_time
from onnuri.planner.step_work import work


def job(
    model: str = "Llama3-8B",
    gpu: str = "H100",
    tokens: int = 4096,
    sequences: int = 4,
    **layout: object,
) -> Job:
    laid = ParallelConfig(**{"dp": 8, **layout})  # type: ignore[arg-type]
    return Job(
        architecture=shapes.shape(model),
        layout=laid,
        cluster=Cluster(gpu=gpu, gpus=laid.gpus),
        tokens=tokens,
        batch_tokens=tokens * laid.dp * laid.micro_batch * sequences,
        software_year=2025.5,
    )


@settings(max_examples=40, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 8]),
    pp=st.sampled_from([1, 2, 8]),
    dp=st.sampled_from([1, 8, 64]),
    precision=st.sampled_from(["bf16", "fp8", "mxfp8", "nvfp4"]),
    sharding=st.sampled_from(["ddp", "zero1", "fsdp"]),
    recompute=st.sampled_from(["none", "full"]),
    model=st.sampled_from(["Llama3-70B", "DeepSeek-V3", "Nemotron-3-Nano-30B-A3B"]),
)
def test_parts_are_positive_and_sum_to_the_total(
    tp: int, pp: int, dp: int, precision: str, sharding: str, recompute: str, model: str
) -> None:
    found = step_time(
        job(
            model,
            "GB200",
            tp=tp,
            pp=pp,
            dp=dp,
            precision=precision,
            sharding=sharding,
            recompute=recompute,
        )
    )
    assert all(t >= 0 for t in (*found.parts.values(), *found.overlapped.values()))
    assert sum(found.parts.values()) == pytest.approx(found.total)
    assert found.low < found.tokens_per_s_per_gpu < found.high
    assert 0 < found.mfu < 2.2  # of the bf16 peak; narrow formats go beyond 1


def test_work_counts_six_flops_a_weight_and_token() -> None:
    """Against Kaplan's rule: products of all weights but the embedding, thrice a forward pass of
    two."""
    one, a = job(), shapes.shape("Llama3-8B")
    w = work(one)
    weights = a.num_params() - a.embedding() - a.hidden * (1 + 2 * a.layers)
    assert w.proj_flops + w.mlp_flops + w.head_flops == pytest.approx(
        6 * weights * one.tokens, rel=0.01
    )
    assert w.attention_flops == pytest.approx(
        3.5 * 2 * one.tokens * (one.tokens + 1) * a.hidden * a.layers, rel=1e-6
    )


def test_experts_work_is_what_active_weights_need() -> None:
    one, a = job("Qwen3-30B-A3B", ep=8), shapes.shape("Qwen3-30B-A3B")
    active = a.layers * 8 * 3 * 2048 * 768
    rows = (
        one.tokens * 8 / (128 / 8)
    )  # of each of a rank's 16 experts; half a tile more is computed for nothing
    assert work(one).expert_flops == pytest.approx(
        6 * active * one.tokens * (1 + 128 / rows), rel=1e-6
    )


def test_layouts_share_the_same_products() -> None:
    one = work(job("Llama3-70B", tp=1, dp=8, sharding="zero1"))
    split = work(job("Llama3-70B", tp=8, dp=1, sharding="zero1"))
    assert 8 * split.mlp_flops == pytest.approx(one.mlp_flops, rel=0.01)


def speed(**changes: object) -> float:
    return step_time(job(**changes)).tokens_per_s_per_gpu  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slower", "faster"),
    [
        ({"gpu": "A100-80"}, {"gpu": "H100"}),
        ({"gpu": "H100"}, {"gpu": "B200"}),
        ({"recompute": "full"}, {"recompute": "none"}),
        ({"tokens": 32768}, {"tokens": 4096}),
        ({"precision": "bf16"}, {"precision": "fp8"}),
        ({"pp": 8}, {"pp": 8, "virtual_stages": 4}),
        ({"pp": 8, "sequences": 8}, {"pp": 8, "sequences": 64}),
        (
            {"model": "Qwen3-30B-A3B", "ep": 8, "micro_batch": 1},
            {"model": "Qwen3-30B-A3B", "ep": 8, "micro_batch": 4},
        ),
        (
            {"model": "DeepSeek-V3", "dp": 64, "ep": 64},
            {"model": "DeepSeek-V3", "dp": 64, "ep": 64, "gpu": "GB200"},
        ),
    ],
)
def test_directions(slower: dict[str, object], faster: dict[str, object]) -> None:
    assert speed(**slower) < speed(**faster)


def test_slower_wires_and_products_are_slower() -> None:
    base = job("Llama3-70B", dp=64)
    for change in (
        {"nic_gb_per_s": 3.0},
        {"gemm_share": 0.4},
        {"memory_tb_per_s": 1.0},
        {"power_w": 400.0},
    ):
        assert (
            step_time(base.replace(cluster=base.cluster.replace(**change))).total
            > step_time(base).total
        )


def test_interval_widens_for_what_is_unknown() -> None:
    known = job().replace(engine=MEGATRON)
    others = [
        job(gpu="GH200"),
        job(gpu="MI325X"),
        job("Llama3.2-1B"),
        job().replace(software_year=2022.5),
        job(precision="fp8").replace(engine=MEGATRON.replace(kernels="compiled")),
        job(gpu="B200").replace(software_year=2025.1),
    ]
    told = [
        f.high / f.low
        for f in map(step_time, [known, *(o.replace(engine=o.engine or MEGATRON) for o in others)])
    ]
    assert all(told[0] < wider for wider in told[1:])
    ours, unmeasured = (
        step_time(job()),
        step_time(job(gpu="B200")),
    )  # our own step was measured on an H200
    assert (
        ours.high / ours.low == pytest.approx(told[0])
        and unmeasured.high / unmeasured.low > told[0]
    )
    many = step_time(job(dp=64))  # nor has it ever been timed over a network
    assert many.high / many.low > told[0]
    old, new = (
        step_time(job("Mixtral-8x7B").replace(engine=MEGATRON, software_year=year))
        for year in (2024.5, 2026.0)
    )
    assert old.high / old.low > new.high / new.low


@given(st.floats(0, 1e3), st.floats(1e-6, 1e3), st.floats(1, 8))
def test_a_corner_lies_between_the_larger_and_the_sum(a: float, b: float, sharp: float) -> None:
    assert max(a, b) * (1 - 1e-9) <= larger(a, b, sharp) <= (a + b) * (1 + 1e-9)


def test_pytorchs_own_kernels_are_slower_where_the_gpu_is_newer_than_they_are() -> None:
    def parts(kernels: str, gpu: str, **layout: object) -> dict[str, float]:
        one = job("Llama3-8B", gpu, 16384, recompute="none", **layout)
        return step_time(one.replace(engine=MEGATRON.replace(kernels=kernels))).parts

    assert parts("vendor", "H100")["attention"] < parts("compiled", "H100")["attention"]
    assert parts("vendor", "A100-80")["attention"] == parts("compiled", "A100-80")["attention"]
    between = [parts(kernels, "H100")["elementwise"] for kernels in ("compiled", "torch", "eager")]
    assert between == sorted(between) and between[0] < between[1] < between[2]
    assert (
        parts("vendor", "H100", tp=2)["tp"] < parts("torch", "H100", tp=2)["tp"]
    )  # which waits for its collectives
    ours = job(tokens=16384, recompute="none")
    assert (
        step_time(ours).parts["attention"]
        == step_time(ours.replace(engine=MEGATRON.replace(kernels="eager"))).parts["attention"]
    )


@pytest.mark.parametrize("gpus, doublings", [(8, 0.0), (64, 3.0), (1024, 7.0)])
def test_a_large_cluster_loses_a_share_of_the_step_per_doubling(
    gpus: int, doublings: float
) -> None:
    """H100s have eight to a node; what jitter costs grows with the logarithm of the nodes."""
    found = step_time(job(dp=gpus))
    share = constants.values()["crowd"]
    rest = sum(
        time
        for name, time in found.parts.items()
        if name not in ("crowd", "optimizer", "imbalance")
    )
    rest += found.parts["optimizer"]
    assert share > 0 and found.parts["crowd"] == pytest.approx(share * doublings * rest)
