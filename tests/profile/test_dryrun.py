"""The dry run against PyTorch's own memory tracker, the planner's formulas, and what every rank
holds."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.tensor import DTensor

from onnuri.errors import ConfigError
from onnuri.model.backbone import build_hf_model
from onnuri.parallel.apply import parallelize
from onnuri.parallel.mesh import local_sizes
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
from onnuri.planner.parallel import ParallelConfig, parse
from onnuri.planner.stock import architecture
from onnuri.planner.traffic import collectives
from onnuri.profile import dryrun
from onnuri.profile.plan_vs_trace import pairs
from onnuri.profile.trace import Trace
from onnuri.recipes import NAMES, find
from onnuri.recipes.nano import nano
from onnuri.training.step import update_weights

TOKENS = 64
NAMED = [
    n if n in ("vaetki", "hyperclovax_omni") else pytest.param(n, marks=pytest.mark.slow)
    for n in NAMES
]
"""two in `make test`, a mixture with sliding windows and a dense one; the others are slow"""


def twin(recipe, **changes):
    """(family, values) of a small network with all of a recipe's features."""
    return find(recipe).family, {
        **nano(recipe).values,
        "vocab_size": 512,
        "hidden_size": 48,
        **changes,
    }


@pytest.fixture
def sixteen_bits():
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "recipe",
    ["hyperclovax_omni", *(pytest.param(n, marks=pytest.mark.slow) for n in ("axk1", "k_exaone"))],
)
def test_bytes_are_those_of_pytorchs_memory_tracker(recipe, sixteen_bits):
    def step(trainee, counted):
        optimizer = dryrun.adamw_with_state(trainee)
        if isinstance(counted, MemTracker):
            counted.track_external(trainee, *optimizer.each)
        else:
            counted.hold(trainee.parameters(), "parameters")
            counted.hold(trainee.buffers(), "parameters")
            counted.hold(
                (t for o in optimizer.each for s in o.state.values() for t in s.values()),
                "optimizer",
            )
        with counted:
            loss = trainee(torch.zeros(1, TOKENS, dtype=torch.long))
            (loss.sum / loss.weight).backward()
            update_weights(trainee, optimizer, 1e-3, 1.0)

    with FakeTensorMode():
        ours, theirs = Trace(), MemTracker()
        for counted in (ours, theirs):
            step(dryrun.prepare_for_trace(build_hf_model(*twin(recipe)), True), counted)
    assert ours.peak == theirs.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.mark.parametrize("recipe", NAMED)
def test_flops_are_those_of_the_architecture(recipe):
    """Attention's backward pass is 5 products to the forward's 2; the formula's convention is 4."""
    family, values = twin(recipe)
    found = dryrun.trace(
        lambda: build_hf_model(family, values),
        recipe,
        ParallelConfig(recompute="none"),
        tokens=TOKENS,
    )
    shape = architecture(recipe, family, values)
    vectors = sum(
        b.count * (b.attention.num_params(shape.hidden) - b.attention.projections(shape.hidden))
        for b in shape.blocks
    )
    again = sum(
        b.count
        * 2
        * b.attention.heads
        * (b.attention.head_dim + b.attention.rope_dim)
        * b.attention.seen(TOKENS)
        for b in shape.blocks
    )
    assert found.flops == pytest.approx(
        TOKENS * (shape.flops_per_token(TOKENS) - 6 * vectors + again), rel=1e-9
    )


def placed(recipe, layout, rank=0, placement="even", **changes):
    """Sizes that every rank holds, and what this one does."""
    with dryrun.fake_process_group(rank, layout.gpus):
        with torch.device("meta"):
            network = build_hf_model(
                *(
                    twin(recipe, **changes)
                    if changes
                    else (find(recipe).family, find(recipe).values)
                )
            )
        total = sum(p.numel() for p in network.parameters())
        views = parallelize(network, layout, placement=placement)
        held = sum(
            (p.to_local() if isinstance(p, DTensor) else p).numel() for p in network.parameters()
        )
        return sum(local_sizes(p, views) for p in network.parameters()), held, total


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(
        [
            ParallelConfig(dp=8),
            ParallelConfig(dp=8, ep=2),
            ParallelConfig(dp=8, ep=4, sharding="hsdp", shard=4),
            ParallelConfig(dp=4, tp=2, ep=4, sequence_parallel=False),
            ParallelConfig(dp=4, tp=2, sequence_parallel=False, sharding="hsdp", shard=2),
        ]
    ),
    st.integers(0, 7),
    st.sampled_from(["even", "first"]),
)
def test_sizes_of_all_ranks_follow_from_placements(layout, rank, placement):
    sizes, held, total = placed("axk1", layout, rank, placement, hidden_size=48)
    assert int(sizes[rank]) == held
    if layout.tp == 1:  # what tensor parallelism does not cut, every one of its ranks holds
        assert int(sizes.sum()) == total * (layout.dp // (layout.shard or layout.dp))


@pytest.mark.slow
def test_default_sharding_of_experts_fills_some_ranks_five_times():
    sizes, _, total = placed("axk1", ParallelConfig(dp=1024), placement="first")
    assert sizes.max() / sizes.double().mean() == pytest.approx(5.2, abs=0.05)
    assert int(sizes.sum()) == total


@pytest.mark.parametrize("recipe", NAMED)
def test_a_recipes_own_plan_is_balanced(recipe):
    sizes, _, _ = placed(recipe, find(recipe).layout)
    assert sizes.max() / sizes.double().mean() < 1.1


@pytest.mark.parametrize(
    "layout",
    [
        ParallelConfig(dp=2, recompute="full"),
        ParallelConfig(tp=2, sequence_parallel=False, recompute="full"),
    ],
)
def test_the_planner_foretells_the_loss_of_a_large_vocabulary(layout):
    """By chunks, or of all logits where tensor parallelism gathers them: the fullest moment of a
    network so narrow."""
    family, values = twin("solar_open", vocab_size=65_536)
    found = dryrun.trace(lambda: build_hf_model(family, values), "", layout, tokens=4096)
    planned = memory(
        Job(
            architecture=architecture("", family, values),
            layout=layout,
            cluster=Cluster(gpu="B200", gpus=2),
            tokens=4096,
            batch_tokens=4096 * layout.dp,
        )
    )
    assert planned.peak_activations == pytest.approx(found.activation_bytes, rel=0.02)
    assert planned.allocated == pytest.approx(found.peak_bytes, rel=0.02)


@pytest.mark.parametrize(
    ("recipe", "text"),
    [
        ("hyperclovax_omni", "dp=1,tp=2,fsdp,recompute=none"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("hyperclovax_omni", "dp=2,tp=2,ddp,recompute=full"),
                ("vaetki", "dp=2,tp=2,ep=2,fsdp,recompute=full"),
                ("axk1", "dp=2,tp=2,ep=2,fsdp,recompute=none"),
                ("k_exaone", "dp=2,tp=2,ep=4,fsdp,recompute=none"),
                ("solar_open", "dp=2,tp=2,ep=2,hsdp:1,recompute=full"),
            )
        ),
    ],
)
def test_the_planner_foretells_sequence_parallelism(recipe, text):
    """The bytes of each of the tensor ranks' collectives, those of a few bytes left out, and what is
    kept, which is less than where each rank has whole sequences."""
    tokens, (family, values) = 512, twin(recipe, hidden_size=192, num_key_value_heads=4)
    layout = parse(text, 0)
    found, whole = (
        dryrun.trace(lambda: build_hf_model(family, values), "", each, tokens=tokens)
        for each in (layout, layout.replace(sequence_parallel=False))
    )
    job = Job(
        architecture=architecture("", family, values),
        layout=layout,
        cluster=Cluster(gpu="B200", gpus=layout.gpus),
        tokens=tokens,
        batch_tokens=tokens * layout.dp,
    )
    state_bytes = 2 * 192 * tokens
    sent, planned = Counter(), Counter()
    for c in found.collectives:
        sent[c.name] += c.bytes * c.calls * (c.group == "tp" and c.bytes >= state_bytes)
    for c in collectives(job):
        planned[c.kind] += c.total * (c.axis == "tp" and c.bytes >= state_bytes)
    assert dict(+planned) == pytest.approx(dict(+sent), rel=1e-9)
    assert memory(job).peak_activations == pytest.approx(found.activation_bytes, rel=0.05)
    assert found.peak_bytes < whole.peak_bytes
    # of a layer that is recomputed its input, of another more; all but the first one's is a part
    fewer = (1 - 1 / layout.tp) * (values["num_hidden_layers"] - 1) * state_bytes
    assert found.saved_bytes < whole.saved_bytes - fewer


@pytest.mark.parametrize(("recompute", "rows"), [("none", 4), ("full", 1)])
def test_the_planner_foretells_the_step_on_one_gpu(recompute, rows):
    """Weights in 32 and 16 bits, gradients that grow while activations go: what fills the GPU is
    activations in one case and weights in the other."""
    wide = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 6}
    family, values = twin("hyperclovax_omni", head_dim=64, num_attention_heads=16, **wide)
    layout = ParallelConfig(recompute=recompute, micro_batch=rows)
    found = dryrun.trace(lambda: build_hf_model(family, values), "", layout, tokens=2048)
    planned = memory(
        Job(
            architecture=architecture("", family, values),
            layout=layout,
            cluster=Cluster(gpu="H200", gpus=1),
            tokens=2048,
            batch_tokens=2048 * rows,
        )
    )
    assert planned.parameters == found.parameter_bytes == 6 * found.total_params
    assert planned.optimizer == pytest.approx(found.optimizer_bytes, rel=1e-3)
    assert planned.allocated == pytest.approx(found.peak_bytes, rel=0.02)
    assert found.gathered_bytes == 0 and not found.collectives


@pytest.mark.slow
@pytest.mark.parametrize("recipe", NAMES)
def test_the_planner_foretells_the_dry_run(recipe):
    found = dryrun.run(find(recipe), find(recipe).gpus)
    planned = pairs(found, find(recipe).omni, find(recipe).gpu)
    for part, tolerance in {
        "parameter": 1e-3,
        "optimizer": 1e-3,
        "peak activation": 0.1,
        "collective": 0.01,
    }.items():
        foretold, traced = planned[f"{part} bytes"]
        assert foretold == pytest.approx(traced, rel=tolerance), part
    assert dryrun.DryRun.from_json(found.to_json()) == found
    assert f"{recipe} on {find(recipe).gpus:,} GPUs".replace(",", "") in str(found)


@pytest.mark.parametrize(
    ("gpus", "layout", "rank", "says"),
    [
        (1024, None, 1024, "rank 1024"),
        (1024, None, -1, "rank -1"),
        (1004, None, 0, "not a multiple"),
        (1024, ParallelConfig(dp=512), 0, "is not 1024 GPUs"),
        (1024, ParallelConfig(dp=512, pp=2), 0, "needs"),
        (0, None, 0, "less than 1"),
    ],
)
def test_bad_input_is_said_in_one_line(gpus, layout, rank, says):
    with pytest.raises(ConfigError, match=says) as told:
        dryrun.run(find("axk1"), gpus, layout, rank)
    assert "\n" not in str(told.value)
