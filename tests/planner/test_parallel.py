"""Layouts as they are typed, and what does not divide."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnuri.errors import ConfigError
from onnuri.planner.architecture import Architecture, Attention, Block
from onnuri.planner.parallel import ParallelConfig, parse, to_string

SMALL = Architecture(
    name="small",
    vocabulary=1000,
    hidden=512,
    blocks=(Block(count=4, attention=Attention(heads=8, kv_heads=8, head_dim=64), mlp=2048),),
)
degree = st.integers(1, 64)


@given(
    st.builds(
        ParallelConfig,
        dp=degree,
        tp=degree,
        sequence_parallel=st.booleans(),
        cp=degree,
        pp=degree,
        ep=degree,
        virtual_stages=degree,
        micro_batch=degree,
        sharding=st.sampled_from(["ddp", "zero1", "fsdp"]),
        recompute=st.sampled_from(["none", "selective", "full"]),
        precision=st.sampled_from(["bf16", "fp8", "mxfp8", "nvfp4"]),
        offload=st.booleans(),
    )
)
def test_what_is_spelled_is_parsed(layout):
    if layout.tp == 1:  # one rank shares no sequence
        layout = layout.replace(sequence_parallel=True)
    assert parse(to_string(layout) + ("" if layout.dp > 1 else ",dp=1"), 4096) == layout


def test_shards_and_missing_degrees():
    assert parse("hsdp:64,tp=2", 1024) == ParallelConfig(dp=512, tp=2, sharding="hsdp", shard=64)


def test_tensor_ranks_share_the_tokens_unless_that_is_off():
    assert parse("tp=2", 4).sequence_parallel and parse("tp=2,sp=on", 4) == parse("tp=2", 4)
    assert not parse("tp=2,sp=off", 4).sequence_parallel
    with pytest.raises(ConfigError, match="gives sp again"):
        parse("tp=2,sp=off,sp=on", 4)


@pytest.mark.parametrize(
    "text",
    [
        "dp",
        "dp=x",
        "dp=-1",
        "zero9",
        "recompute=some",
        "hsdp:x",
        "fp7",
        "dq=4",
        "hsdp:0",
        "ddp:8",
        "hsdp:",
        "sp",
        "sp=2",
        "offload=on",
    ],
)
def test_what_is_no_layout(text):
    with pytest.raises(ConfigError, match="is not part of a layout"):
        parse(text, 8)


@pytest.mark.parametrize(
    "text, why",
    [
        ("dp=4,tp=3", "heads 8: is not a multiple of 3"),
        ("dp=4", "is not 8 GPUs"),
        ("pp=8", "8 stages: are more than 4 layers"),
        ("dp=8,micro_batch=3", "batch tokens"),
        ("dp=8,ep=3", "dp x cp 8: is not a multiple of 3"),
        ("dp=0", "dp 0: is less than 1"),
        ("dp=8,offload", "offload: is trained and not planned yet"),
    ],
)
def test_what_does_not_divide(text, why):
    with pytest.raises(ConfigError, match=why):
        parse(text, 8).check(SMALL, 12 if "tp=3" in text else 8, 1024, 8 * 1024)
