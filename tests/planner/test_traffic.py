"""What a step sends: against the real step's dry run, against counts by hand, and what must hold
for every layout."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri import recipes
from onnuri.planner.architecture import Architecture, Attention, Block, Experts
from onnuri.planner.fsdp_groups import embedding, group, layer, root
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.stock import architecture
from onnuri.planner.traffic import collectives
from onnuri.planner.weights import Shape, layer_shapes

DRY = json.loads(
    (Path(__file__).parents[2] / "benchmarks/results/dryrun.json").read_text(encoding="utf-8")
)
LLAMA = Architecture(
    name="llama",
    vocabulary=32_000,
    hidden=1024,
    blocks=(Block(count=8, attention=Attention(heads=16, kv_heads=4, head_dim=64), mlp=4096),),
)
MIXTURE = LLAMA.replace(
    blocks=(LLAMA.blocks[0].replace(mlp=0, experts=Experts(routed=16, topk=2, width=512)),)
)


def job(a: Architecture, layout: ParallelConfig, micro_batches: int = 4, tokens: int = 1024) -> Job:
    return Job(
        architecture=a,
        layout=layout,
        cluster=Cluster(gpu="H100", gpus=layout.gpus),
        tokens=tokens,
        batch_tokens=tokens * layout.dp * layout.micro_batch * micro_batches,
    )


def dry_job(name: str) -> Job:
    layout = ParallelConfig.from_json(DRY[name]["layout"])
    return job(recipes.find(name).omni, layout, micro_batches=1, tokens=DRY[name]["tokens"])


@pytest.mark.parametrize("name", recipes.NAMES)
def test_bytes_on_the_wires_are_those_of_the_dry_run(name: str) -> None:
    """By kind and size of group; a hundredth for experts that do not divide the tokens. Counts of a
    few bytes, of tokens an expert gets and of the gradient's norm, are not planned."""
    counted: Counter[tuple[str, int]] = Counter()
    for c in DRY[name]["collectives"]:
        counted[c["name"], c["ranks"]] += c["bytes"] * c["calls"]
    planned: Counter[tuple[str, int]] = Counter()
    for each in collectives(dry_job(name)):
        planned[each.kind, each.ranks] += each.total  # type: ignore[assignment]
    for key in counted.keys() | planned.keys():
        assert planned[key] == pytest.approx(
            counted[key], rel=0.01 if key[0] == "all_to_all" else 1e-9, abs=2**20
        )
    assert sum(planned.values()) == pytest.approx(DRY[name]["collective_bytes"], rel=0.01)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_bytes_a_gpu_are_those_of_the_dry_run(name: str) -> None:
    """The bars: parameters and optimizer 0.1 %, activations 10 %; and the peak of all together."""
    run, m = DRY[name], memory(dry_job(name))
    assert m.parameters == pytest.approx(run["parameter_bytes"], rel=1e-3)
    assert m.optimizer == pytest.approx(run["optimizer_bytes"], rel=1e-3)
    assert m.peak_activations == pytest.approx(run["activation_bytes"], rel=0.03)
    living = run["at_peak"]["activations"] + run["at_peak"]["gathered"]
    assert m.activations + m.logits + m.transient == pytest.approx(living, rel=0.03)
    assert m.allocated == pytest.approx(run["peak_bytes"], rel=0.01)


@pytest.mark.parametrize("name", recipes.NAMES)
def test_shapes_are_those_of_the_class(name: str) -> None:
    from onnuri.model.backbone import build_hf_model

    recipe = recipes.find(name)
    values = (
        recipe.values
        | {"num_hidden_layers": 6}
        | {
            k: recipe.values[k][:6]
            for k in ("mlp_layer_types", "layer_types")
            if k in recipe.values
        }
    )
    with torch.device("meta"):
        network: Any = build_hf_model(recipe.family, values)
    a = architecture(name, recipe.family, values)
    found = Counter(tuple(p.shape) for p in network.model.layers.parameters())
    assert found == Counter(s.dims for b in a.blocks for s in layer_shapes(b, a.hidden) * b.count)
    whole = (
        root(a, ParallelConfig()).shard
        + embedding(a, ParallelConfig()).shard
        + sum(b.count * layer(b, a.hidden, ParallelConfig()).shard for b in a.blocks)
    )
    assert whole == sum(p.numel() for p in network.parameters()) == a.num_params()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 12))
def test_fullest_shard_is_that_of_pytorch(dims: list[int], ranks: int) -> None:
    """`torch.chunk` along the rows; of three dimensions along the first that divides."""
    held = group([Shape(tuple(dims))], ParallelConfig(dp=ranks))
    cut = next((d for d, n in enumerate(dims) if n % ranks == 0), 0) if len(dims) == 3 else 0
    first = torch.empty(dims, device="meta").chunk(ranks, cut)[0]
    assert (held.shard, held.whole) == (first.numel(), first.numel() * ranks)


def test_one_gpu_sends_nothing() -> None:
    assert collectives(job(MIXTURE, ParallelConfig())) == ()


def test_distributed_optimizer_by_hand() -> None:
    """Every weight's gradient once in 32 bits, every weight back once in 16 (ZeRO, arXiv
    1910.02054, section 7)."""
    sent: Counter[tuple[str, int]] = Counter()
    for c in collectives(job(LLAMA, ParallelConfig(dp=8, sharding="zero1"))):
        sent[c.kind, c.ranks] += c.total  # type: ignore[assignment]
    assert sent == {
        ("reduce_scatter", 8): 4 * LLAMA.num_params(),
        ("all_gather", 8): 2 * LLAMA.num_params(),
    }


def test_tensor_parallelism_by_hand() -> None:
    """arXiv 2205.05198, section 4.2: a pair of gather and scatter about attention and about the
    feed-forward, forward and backward, and backward the gathers again for the weights'
    gradients."""
    found = collectives(job(LLAMA, ParallelConfig(tp=4, sharding="zero1"), micro_batches=1))
    hidden = 2 * 1024 * LLAMA.hidden
    calls = {c.kind: c.calls for c in found}
    assert calls == {"all_gather": 8 * 2 * 3 + 3, "reduce_scatter": 8 * 2 * 2 + 2}
    assert {c.bytes for c in found} == {hidden}


def test_experts_and_pipeline_by_hand() -> None:
    layout = ParallelConfig(dp=4, pp=2, ep=4, sharding="zero1", recompute="none")
    for stage in (0, 1):
        found = {c.name: c for c in collectives(job(MIXTURE, layout), stage)}
        sent = found["experts, dispatch and combine"]
        once = 4 * (1 - (3 / 4) ** 2)  # ranks of four that two draws reach
        assert (sent.calls, sent.bytes) == (
            4 * 4 * 4,
            2 * 1024 * MIXTURE.hidden * once,
        )  # layers, micro-batches; there and back
        assert (
            found["pipeline"].calls == 4
        )  # one boundary: forward from the first rank, backward from the second
    again = {c.name: c for c in collectives(job(MIXTURE, layout.replace(recompute="full")))}
    assert again["experts, dispatch and combine"].calls == 4 * 4 * 6


def test_our_tensor_ranks_each_dispatch_their_part() -> None:
    """As a dry run of k_exaone's twin has it, tp 2 and ep 4: every expert's copy, half of the
    tokens a rank."""
    layout = ParallelConfig(dp=4, tp=2, ep=4, sequence_parallel=False)
    assert layout.other_engine is None
    sent = next(c for c in collectives(job(MIXTURE, layout)) if c.kind == "all_to_all")
    assert sent.bytes == 2 * 1024 * MIXTURE.hidden * 2 / 2


@given(
    st.integers(0, 4),
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(0, 4),
    st.sampled_from(["ddp", "zero1", "fsdp"]),
)
@settings(max_examples=100, deadline=None)
def test_every_call_is_between_ranks(
    dp: int, tp: int, cp: int, pp: int, ep: int, sharding: Any
) -> None:
    layout = ParallelConfig(
        dp=2**dp, tp=2**tp, cp=2**cp, pp=2**pp, ep=2 ** min(ep, dp + cp), sharding=sharding
    )
    for stage in range(layout.pp):
        for c in collectives(job(MIXTURE, layout), stage):
            assert 1 < c.ranks <= layout.gpus and c.bytes > 0 and c.calls > 0
