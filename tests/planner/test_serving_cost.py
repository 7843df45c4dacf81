"""Serving, against DeepSeek's published service and against counting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnuri.errors import ConfigError
from onnuri.planner import serving_cost
from onnuri.planner.architecture import Architecture, Attention, Block, Experts
from onnuri.planner.hardware import Cluster, gpu

MLA = Attention(
    heads=128, kv_heads=128, head_dim=128, value_dim=128, query_rank=1536, kv_rank=512, rope_dim=64
)
DEEPSEEK = Architecture(
    name="DeepSeek-V3",
    vocabulary=129_280,
    hidden=7168,
    blocks=(
        Block(count=3, attention=MLA, mlp=18_432),
        Block(count=58, attention=MLA, experts=Experts(routed=256, topk=8, width=2048, shared=1)),
    ),
)
GROUPED = Attention(heads=32, kv_heads=8, head_dim=128)
LLAMA = Architecture(
    name="Llama 3.1 8B",
    vocabulary=128_256,
    hidden=4096,
    blocks=(Block(count=32, attention=GROUPED, mlp=14_336),),
)


def test_deepseeks_own_service_lies_in_the_range():
    """14.8k generated tokens/s a node of 8 H800 that decode; with the nodes that read prompts, 168B
    tokens in a day of 226.75 nodes: 1,072 a GPU (its inference system overview, 2025-03)."""
    found = serving_cost.serving(DEEPSEEK, Cluster(gpu="H800", gpus=64), context=4989)
    assert (
        found.tokens_per_s_per_gpu.low
        <= 168e9 / 86_400 / 226.75 / 8
        <= found.tokens_per_s_per_gpu.high
    )
    assert (
        found.fewest_gpus == 16 and found.kv_bytes_per_token == 61 * 576
    )  # 70 KB a token in 16 bits


def test_a_window_bounds_the_cache():
    window = LLAMA.replace(
        blocks=(
            Block(count=24, attention=GROUPED.replace(window=128), mlp=14_336),
            Block(count=8, attention=GROUPED, mlp=14_336),
        )
    )
    assert serving_cost.kv_bytes(LLAMA, 1000) == 32 * 2048 * 1000
    assert serving_cost.kv_bytes(window, 1000) == 2048 * (24 * 128 + 8 * 1000)
    assert serving_cost.kv_bytes(window, 100) == serving_cost.kv_bytes(LLAMA, 100)


def test_one_token_touches_the_active_weights_and_many_all():
    on = serving_cost.Decoder(DEEPSEEK, gpu("H800"), 4096, 1.0)
    assert on.touched(1) == pytest.approx(
        DEEPSEEK.num_active_params() - DEEPSEEK.embedding(), rel=1e-6
    )
    assert on.touched(10_000) == pytest.approx(
        DEEPSEEK.num_params() - DEEPSEEK.embedding(), rel=1e-6
    )


@given(
    st.integers(10, 100_000),
    st.sampled_from(["A100-80", "H100", "B200", "MI300X"]),
    st.sampled_from([1, 2, 8]),
)
def test_longer_conversations_leave_room_for_fewer_and_all_get_their_tokens(context, kind, gpus):
    shares = (serving_cost.BANDWIDTH.mid, serving_cost.PRODUCTS.mid, serving_cost.LAYER_SECONDS.mid)
    short, long = (serving_cost.Decoder(LLAMA, gpu(kind), c, 2.0) for c in (context, 2 * context))
    users = short.users(gpus, *shares)
    assert long.users(gpus, *shares) <= users and long.tokens_per_s(
        gpus, *shares
    ) <= short.tokens_per_s(gpus, *shares)
    assert (
        users * short.kv <= short.room(gpus)
        and short.step_seconds(gpus, users, *shares) <= 1 / serving_cost.TOKENS_PER_S
    )


def test_an_instance_is_as_large_as_it_must_be_or_as_fast_links_allow():
    small, large = (serving_cost.serving(a, Cluster(gpu="H200", gpus=8)) for a in (LLAMA, DEEPSEEK))
    assert (small.fewest_gpus, large.fewest_gpus) == (1, 8) and small.gpus <= 8 and large.gpus == 8
    assert large.users.low <= large.users.mid <= large.users.high


def test_no_context_is_a_mistake():
    with pytest.raises(ConfigError, match="context 0"):
        serving_cost.serving(LLAMA, Cluster(gpu="H100", gpus=8), context=0)
