"""Layouts on two real processes against one process, and their shards against what every rank
should hold."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import ForkedProcess

from onnuri.errors import ConfigError
from onnuri.parallel.apply import check_divides, shard_dim
from onnuri.parallel.mesh import build_meshes
from onnuri.planner.parallel import ParallelConfig
from onnuri.profile.dryrun import prepare_for_trace, trace
from onnuri.profile.fake_ops import BALANCED
from onnuri.recipes import NAMES, find
from onnuri.recipes.nano import nano

sys.path.insert(0, str(Path(__file__).parent))
import two_ranks

SMALL = {"vocab_size": 64, "hidden_size": 48}
LAYOUTS = {
    "fsdp": ParallelConfig(dp=2, recompute="none"),
    "copies": ParallelConfig(dp=2, sharding="hsdp", shard=1, recompute="full"),
    "experts": ParallelConfig(dp=2, ep=2, recompute="selective"),
    "tensors": ParallelConfig(tp=2, sequence_parallel=False, recompute="none"),
    "sequences": ParallelConfig(tp=2, recompute="none"),
}


def cases(recipe, small):
    """All that two processes do with a nano twin: learn in every layout, and be counted."""
    values = {**nano(recipe).values, **(SMALL if small else {"vocab_size": 4096})}
    alike = {"family": find(recipe).family, "values": values}
    found = {}
    for name, layout in LAYOUTS.items():
        if name != "experts" or "num_experts_per_tok" in values:
            found[f"{name}, learned"] = {
                **alike,
                "layout": layout.to_json(),
                "dispatch": "auto",
                "learn": True,
            }
            found[f"{name}, counted"] = {
                **alike,
                "layout": layout.to_json(),
                "dispatch": BALANCED,
                "learn": False,
            }
    return found


def run(folder, cases):
    """What both processes measured."""
    (folder / "cases.json").write_text(json.dumps(cases))
    logs = [folder / f"{rank}.log" for rank in range(2)]
    started = [
        ForkedProcess(two_ranks.__file__, rank, folder, log=log) for rank, log in enumerate(logs)
    ]
    for process, log in zip(started, logs, strict=True):
        assert process.wait() == 0, log.read_text()[-3000:]
    return [json.loads((folder / f"{r}.json").read_text()) for r in range(2)]


TWIN = cases("axk1", True)
TWIN |= {
    f"{name}, weighed": {**TWIN["fsdp, learned"], "layout": LAYOUTS[name].to_json(), "packed": True}
    for name in ("fsdp", "copies")
}
STREAMS = {
    f"{recipe} {name}, streams": {
        "family": find(recipe).family,
        "values": {**nano(recipe).values, **SMALL},
        "layout": LAYOUTS[name].to_json(),
        "streams": True,
    }
    for recipe in ("axk1", "hyperclovax_omni")
    for name in ("tensors", "sequences")
}


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory):
    """Of the cases that a test of this run asks for."""
    asked = {
        item.callspec.params.get("name")
        for item in request.session.items
        if hasattr(item, "callspec")
    }
    return run(
        tmp_path_factory.mktemp("ranks"),
        {name: case for name, case in (TWIN | STREAMS).items() if name in asked},
    )


@pytest.mark.parametrize(
    "name",
    [
        # a dense model's shows what a mixture's does, in a third of the time
        pytest.param(n, marks=[pytest.mark.slow] * n.startswith("axk1"))
        for n in STREAMS
    ],
)
def test_between_blocks_a_rank_has_its_tokens_and_computes_what_one_does(measured, name):
    """Of 23 tokens the first of two ranks has twelve: in every layer's output and every norm but
    those within a block."""
    alone = two_ranks.between_blocks(STREAMS[name])
    shared = "sequences" in name
    for found, own in zip(measured, (12, 11), strict=True):
        for key in ("trained", "read"):
            difference = torch.tensor(found[name][key]) - torch.tensor(alone[key])
            assert difference.abs().max() < 1e-6  # norms are computed in 32 bits
        for module, tokens in found[name]["tokens"].items():
            part = own if shared and "mlp" not in module and "self_attn" not in module else 23
            assert tokens == [part, part]


def check_learned(case, found, close=1e-6):
    """Two ranks learn what one does."""
    trainee = prepare_for_trace(two_ranks.built(case), fused=False)
    (loss, norm), (later, last) = two_ranks.steps(trainee, slice(0, 2), 1)
    assert found["losses"][0] == pytest.approx(loss, rel=1e-6)
    assert found["norms"][0] == pytest.approx(norm, rel=close)
    # AdamW's first update is the gradient's sign, whose rounding shows where a gradient is nearly
    # zero
    assert found["losses"][1] == pytest.approx(later, rel=1e-5)
    assert found["norms"][1] == pytest.approx(last, rel=1e-4)
    assert found["weights"] == pytest.approx(two_ranks.weights(trainee), rel=1e-4)


def check_counted(case, found, rank):
    """A trace counts the collectives of real processes, byte for byte, and their FLOPs; at the peak
    at most what gloo copies of a reduce-scatter's input is missing."""
    traced = trace(
        lambda: two_ranks.built(case),
        "",
        ParallelConfig.from_json(case["layout"]),
        rank,
        two_ranks.TOKENS,
        fused=False,
    )
    assert [c.to_json() for c in traced.collectives] == found["collectives"]
    assert traced.flops == found["flops"]
    copied = max((c.bytes for c in traced.collectives if c.name == "reduce_scatter"), default=0)
    assert (
        traced.peak_bytes * 0.999
        < sum(found["at_peak"].values())
        < traced.peak_bytes * 1.001 + copied
    )
    assert traced.local_params == found["held"] and traced.parameter_bytes == 4 * found["held"]


@pytest.mark.parametrize("name", [n for n in TWIN if "learned" in n])
def test_two_ranks_learn_what_one_does(measured, name):
    for found in measured:
        check_learned(TWIN[name], found[name])


@pytest.mark.parametrize("name", [n for n in TWIN if "weighed" in n])
def test_two_ranks_with_a_row_each_are_one_with_two_micro_batches(measured, name):
    """Rows that weigh differently: sums and weights are reduced apart, so how rows are dealt out
    changes nothing."""
    alone = two_ranks.weighed_steps(TWIN[name], lambda step: [2 * step, 2 * step + 1])
    for found in measured:
        assert found[name]["norms"] == pytest.approx(alone["norms"], rel=1e-12)
        assert found[name]["weights"] == pytest.approx(alone["weights"], rel=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n.split(",")[0] not in ("fsdp", "hsdp")))
        for n in TWIN
        if "counted" in n
    ],
)
def test_a_trace_counts_the_collectives_of_real_processes_byte_for_byte(measured, name):
    for rank, found in enumerate(measured):
        check_counted(TWIN[name], found[name], rank)


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(n, marks=pytest.mark.slow if n == "vaetki" else pytest.mark.long) for n in NAMES],
)
def test_every_recipes_nano_twin_learns_and_is_counted(tmp_path, recipe):
    twin = cases(recipe, False)
    for rank, found in enumerate(run(tmp_path, twin)):
        for name, case in twin.items():
            if case[
                "learn"
            ]:  # PyTorch's norm of 786,432 numbers on a CPU is off by 3e-4, of its halves by less
                check_learned(case, found[name], 1e-4)
            else:
                check_counted(case, found[name], rank)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=3), st.integers(1, 64))
def test_a_dimension_is_one_that_ranks_divide_if_there_is_one(shape, ranks):
    dim = shard_dim(shape, ranks)
    if len(shape) < 3:
        assert dim == 0
    elif any(size % ranks == 0 for size in shape):
        assert shape[dim] % ranks == 0 and all(size % ranks for size in shape[:dim])


@pytest.mark.parametrize(
    "layout",
    [
        ParallelConfig(dp=2, pp=2),
        ParallelConfig(cp=2),
        ParallelConfig(dp=2, precision="fp8"),
        ParallelConfig(dp=2, sharding="zero1"),
    ],
)
def test_what_needs_another_engine_says_so(layout):
    with pytest.raises(ConfigError, match="needs"):
        trace(lambda: two_ranks.built(TWIN["fsdp, learned"]), "", layout)


def test_experts_cannot_leave_the_ranks_of_a_copy():
    with pytest.raises(ConfigError, match="share one copy"):
        build_meshes(ParallelConfig(dp=8, ep=8, sharding="hsdp", shard=4), "cpu")


@pytest.mark.parametrize(
    "values, layout, words",
    [
        ({"num_attention_heads": 6}, {"tp": 4}, "tp 4: does not divide 6 heads"),
        (
            {"num_attention_heads": 8, "num_key_value_heads": 2},
            {"tp": 4},
            "tp 4: does not divide 2 key/value heads",
        ),
        (
            {"num_attention_heads": 8, "num_experts": 6},
            {"ep": 4},
            "ep 4: does not divide 6 experts",
        ),
        ({"num_attention_heads": 8}, {"ep": 2}, "ep 2: needs experts"),
    ],
)
def test_a_layout_that_cuts_a_head_or_an_expert_is_one_line(values, layout, words):
    config = SimpleNamespace(**values)
    with pytest.raises(ConfigError, match=words):
        check_divides(config, ParallelConfig(dp=4, **layout))
    check_divides(config, ParallelConfig(dp=4))


def test_latent_attention_is_not_cut():
    config = SimpleNamespace(num_attention_heads=3, kv_lora_rank=8, n_routed_experts=8)
    check_divides(config, ParallelConfig(tp=2, ep=4))
