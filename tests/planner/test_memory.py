"""Planned bytes: against published formulas, against measurements, and what must hold for every
layout."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnuri.planner.activations import megatron_layer, torch_compiled_layer, torch_eager_layer
from onnuri.planner.architecture import Architecture, Attention, Block, Experts
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.pipeline_stages import chunks, ends, in_flight, stage_layers
from onnuri.planner.weights import layer_weights

GPT = Architecture(
    name="gpt",
    vocabulary=51_200,
    hidden=6144,
    positions=2048,
    tied=True,
    blocks=(
        Block(
            count=48,
            gated=False,
            mlp=4 * 6144,
            mlp_bias=True,
            attention=Attention(heads=64, kv_heads=64, head_dim=96, bias=True),
        ),
    ),
)
LATENT = Attention(
    heads=32, kv_heads=32, head_dim=128, value_dim=128, query_rank=768, kv_rank=512, rope_dim=64
)
MIXTURE = Architecture(
    name="moe",
    vocabulary=65_536,
    hidden=2048,
    blocks=(
        Block(count=2, attention=LATENT, mlp=8192),
        Block(count=14, attention=LATENT, experts=Experts(routed=64, topk=4, width=1024, shared=1)),
    ),
)


def job(
    a: Architecture,
    layout: ParallelConfig,
    tokens: int = 4096,
    micro_batches: int = 8,
    software_year: float | None = None,
) -> Job:
    return Job(
        architecture=a,
        layout=layout,
        cluster=Cluster(gpu="H100", gpus=layout.gpus),
        tokens=tokens,
        batch_tokens=tokens * layout.dp * layout.micro_batch * micro_batches,
        software_year=software_year,
    )


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_layer_keeps_what_korthikanti_counted(tp: int) -> None:
    """arXiv 2205.05198, table 2: s b h (10 + 24/t + 5 a s / h t) without and s b h 34 / t with
    sequence parallelism and selective recomputation."""
    h, a, s = GPT.hidden, 64, 2048
    plain = megatron_layer(
        GPT.blocks[0],
        GPT,
        ParallelConfig(tp=tp, sequence_parallel=False, recompute="none"),
        s,
        software_year=2022.0,
    )
    assert plain.saved_bytes == pytest.approx(h * (10 + 24 / tp + 5 * a * s / (h * tp)))
    split = megatron_layer(
        GPT.blocks[0], GPT, ParallelConfig(tp=tp, recompute="selective"), s, software_year=2022.0
    )
    assert split.saved_bytes == pytest.approx(34 * h / tp)


def test_the_first_layers_can_be_fullest() -> None:
    """Where gradients grow faster than what is kept shrinks: a dry run of this step had its peak in
    the third layer."""
    a = Architecture(
        name="wide",
        vocabulary=1024,
        hidden=2048,
        blocks=(
            Block(count=20, attention=Attention(heads=16, kv_heads=8, head_dim=128), mlp=6144),
        ),
    )
    shared = memory(job(a, ParallelConfig(dp=2, recompute="full"), micro_batches=1))
    assert shared.gradients > 0.8 * shared.parameters
    one = memory(job(a, ParallelConfig(recompute="full"), micro_batches=1))
    weights_bytes = one.parameters * 4 / 6  # beside them stands a copy in 16 bits
    assert one.gradients > 0.8 * weights_bytes


def test_a_compiled_layer_keeps_less_than_an_eager_one_and_no_less_than_products() -> None:
    for block in (*GPT.blocks, *MIXTURE.blocks):
        loose, fused_ = (
            kind(block, 2048, ParallelConfig())
            for kind in (torch_eager_layer, torch_compiled_layer)
        )
        assert loose.product_bytes - 2 * 2048 <= fused_.saved_bytes <= loose.saved_bytes


LAYOUTS = st.builds(
    lambda dp, tp, cp, pp, ep, v, m, sharding, recompute, precision: ParallelConfig(
        dp=2**dp,
        tp=2**tp,
        cp=2**cp,
        pp=2**pp,
        ep=2 ** min(ep, dp + cp),
        virtual_stages=v,
        micro_batch=m,
        sharding=sharding,
        recompute=recompute,
        precision=precision,
    ),
    st.integers(0, 5),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 5),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from(["ddp", "zero1", "fsdp"]),
    st.sampled_from(["none", "selective", "full"]),
    st.sampled_from(["bf16", "fp8"]),
)


def fits(layout: ParallelConfig) -> None:
    assume(layout.virtual_stages == 1 or layout.pp > 1)


@given(LAYOUTS)
@settings(max_examples=200, deadline=None)
def test_parts_are_the_total_and_all_are_there(layout: ParallelConfig) -> None:
    fits(layout)
    m = memory(job(MIXTURE, layout))
    parts = {
        k: v for k, v in m.to_json().items() if k not in ("stage", "peak_activations", "spread")
    }
    assert sum(parts.values()) == pytest.approx(m.total) and min(parts.values()) >= 0
    assert m.allocated + m.runtime == pytest.approx(m.total) and m.low < m.total < m.high


@given(
    LAYOUTS,
    st.sampled_from(
        ["ddp to zero1", "zero1 over more", "fsdp over more", "more experts", "recompute"]
    ),
)
@settings(max_examples=300, deadline=None)
def test_more_sharding_never_takes_more(layout: ParallelConfig, how: str) -> None:
    """Of more experts' ranks the weights alone: tokens on their way to others take room too."""
    fits(layout)
    split = layout.replace(pp=max(layout.pp, 2))  # one engine runs both
    more = {
        "ddp to zero1": (split.replace(sharding="ddp"), split.replace(sharding="zero1")),
        "zero1 over more": (
            layout.replace(sharding="zero1"),
            layout.replace(sharding="zero1", dp=2 * layout.dp),
        ),
        "fsdp over more": (
            layout.replace(sharding="fsdp"),
            layout.replace(sharding="fsdp", dp=2 * layout.dp),
        ),
        "more experts": (layout.replace(dp=64), layout.replace(dp=64, ep=2 * layout.ep)),
        "recompute": (layout.replace(recompute="none"), layout.replace(recompute="full")),
    }
    before, after = more[how]
    less, more_bytes = memory(job(MIXTURE, after)), memory(job(MIXTURE, before))
    if how == "more experts":
        assert less.parameters + less.optimizer <= (
            more_bytes.parameters + more_bytes.optimizer
        ) * (1 + 1e-9)
    else:
        assert less.total <= more_bytes.total * (1 + 1e-9)


@given(st.integers(0, 4), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
@settings(max_examples=60, deadline=None)
def test_all_ranks_together_hold_the_model(pp: int, virtual: int, ep: int) -> None:
    """Without tensor parallelism nothing is held twice but a tied table, and what multi-token
    prediction adds."""
    layout = ParallelConfig(pp=2**pp, virtual_stages=virtual if pp else 1, dp=ep, ep=ep)
    if layout.pp * layout.virtual_stages > MIXTURE.layers:
        return
    dense = routed = 0.0
    for k, layers in enumerate(stage_layers(MIXTURE, layout)):
        for index, count in layers.items():
            held = layer_weights(MIXTURE.blocks[index], MIXTURE.hidden, layout)
            dense, routed = dense + count * held.dense, routed + count * held.routed * ep
        dense += ends(MIXTURE, layout, k).dense
    assert dense + routed == MIXTURE.num_params()


@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 40))
def test_every_layer_is_on_one_chunk(pp: int, virtual: int, layers: int) -> None:
    a = GPT.replace(blocks=(GPT.blocks[0].replace(count=layers), GPT.blocks[0].replace(count=3)))
    parts = chunks(a, ParallelConfig(pp=pp, virtual_stages=virtual))
    assert sum(n for part in parts for _, n in part) == a.layers
    sizes = [sum(n for _, n in part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("pp", "virtual", "stage", "flying"),
    [(1, 1, 0, 1), (4, 1, 0, 4), (4, 1, 3, 1), (8, 3, 0, 31), (4, 2, 3, 5)],
)
def test_micro_batches_in_flight(pp: int, virtual: int, stage: int, flying: int) -> None:
    """Interleaved, the first rank holds p v + p - 1 chunks: 1 + (p - 1)/(p v) of the model (arXiv
    2205.05198, 4.2.3)."""
    assert in_flight(ParallelConfig(pp=pp, virtual_stages=virtual), stage, 64) == flying


def test_few_micro_batches_are_all_in_flight() -> None:
    layout = ParallelConfig(pp=4, sharding="zero1")
    few, many = (memory(job(MIXTURE, layout, micro_batches=n)).activations for n in (1, 8))
    assert few < many


@pytest.mark.parametrize(
    "layout",
    [
        ParallelConfig(dp=8, ep=8),
        ParallelConfig(dp=8, pp=2, ep=8, sharding="zero1", recompute="none"),
    ],
)
def test_crowded_experts_take_more(layout: ParallelConfig) -> None:
    """By what their tokens keep, twice as much for twice as many: none of it is the router's or
    attention's."""
    even, half, twice = (
        memory(job(MIXTURE, layout).replace(imbalance=x)).activations for x in (1.0, 1.5, 2.0)
    )
    assert even < half and twice - even == pytest.approx(2 * (half - even))


def test_the_fullest_stage_counts() -> None:
    """A table on the first rank alone makes it the fullest; the mean of all would say less."""
    wide = MIXTURE.replace(vocabulary=1_000_000)
    assert memory(job(wide, ParallelConfig(pp=8, sharding="zero1"))).stage in (0, 7)
