"""What a GPU computes, moves and sends: traffic's bytes on the wires against simulated rings, dry
runs and drawn routers."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnuri import recipes
from onnuri.planner import shapes, step_work
from onnuri.planner.architecture import Attention, Block
from onnuri.planner.hardware import Cluster, gpu
from onnuri.planner.job import Job
from onnuri.planner.parallel import MEGATRON, ONNURI, ParallelConfig
from onnuri.planner.traffic import Collective, collectives

DRY = json.loads(
    (Path(__file__).parents[2] / "benchmarks/results/dryrun.json").read_text(encoding="utf-8")
)
LINK = gpu("H100").link_gb_per_s * 1e9


def job(
    model: str = "Qwen3-30B-A3B",
    sequences: int = 4,
    nic: float | None = None,
    elsewhere: bool = False,
    **layout: object,
) -> Job:
    laid = ParallelConfig(**{"dp": 8, **layout})  # type: ignore[arg-type]
    return Job(
        architecture=shapes.shape(model),
        layout=laid,
        cluster=Cluster(gpu="H100", gpus=laid.gpus, nic_gb_per_s=nic),
        tokens=4096,
        batch_tokens=4096 * laid.dp * laid.micro_batch * sequences,
        engine=MEGATRON if elsewhere else None,
    )


def ring(kind: str, size: float, ranks: int) -> float:
    """Bytes that one rank sends, by walking round the ring: each step a rank's part to the next."""
    rounds = {"all_gather": 1, "reduce_scatter": 1, "all_reduce": 2}[kind]
    return sum(size / ranks for _ in range(rounds) for _ in range(ranks - 1))


def sent(found: list[Collective] | tuple[Collective, ...]) -> float:
    return sum(
        c.calls
        * (
            c.bytes
            if c.kind == "p2p"
            else c.bytes / c.ranks * (c.ranks - 1)
            if c.kind == "all_to_all"
            else ring(c.kind, c.bytes, c.ranks)
        )
        for c in found
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["ddp", "zero1", "fsdp"]),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2]),
    st.sampled_from(["selective", "full"]),
    st.booleans(),
)
def test_every_byte_of_traffic_is_on_a_wire_once(
    sharding: str, ep: int, tp: int, pp: int, recompute: str, elsewhere: bool
) -> None:
    """In one domain all wires have one rate, so their seconds are traffic's bytes over it."""
    dp = 8 // tp // pp
    one = job(
        dp=dp,
        tp=tp,
        pp=pp,
        ep=min(ep, dp),
        sharding=sharding,
        recompute=recompute,
        elsewhere=elsewhere,
    )
    found, m = step_work.wires(one), one.micro_batches
    seconds = sum(
        time * (1 if name == "step_wire" else m)
        for name, time in found.items()
        if name.endswith("_wire")
    )
    assert seconds * LINK == pytest.approx(
        sent(collectives(one, step_work.slowest_stage(one))), rel=1e-9
    )


@pytest.mark.parametrize("name", recipes.NAMES)
def test_the_step_is_given_the_bytes_that_the_dry_run_traced(name: str) -> None:
    """At cards as quick as the links every wire has one rate, and what the real step sent takes its
    bytes over it."""
    run = DRY[name]
    layout = ParallelConfig.from_json(run["layout"])
    one = Job(
        architecture=recipes.find(name).omni,
        layout=layout,
        tokens=run["tokens"],
        batch_tokens=run["tokens"] * layout.gpus,
        cluster=Cluster(gpu="H100", gpus=layout.gpus, nic_gb_per_s=LINK / 1e9),
    )
    traced = sum(
        c["calls"]
        * (
            c["bytes"] / c["ranks"] * (c["ranks"] - 1)
            if c["name"] == "all_to_all"
            else ring(c["name"], c["bytes"], c["ranks"])
        )
        for c in run["collectives"]
        if c["bytes"] > 2**10
    )
    found = sum(time for key, time in step_work.wires(one).items() if key.endswith("_wire"))
    assert found * LINK == pytest.approx(traced, rel=0.01)


def test_recomputation_sends_tokens_to_their_experts_once_more() -> None:
    for elsewhere in (False, True):
        kept, again = (
            step_work.wires(job(ep=8, recompute=r, elsewhere=elsewhere))["ep_wire"]
            for r in ("selective", "full")
        )
        assert again == pytest.approx(kept * 6 / 4)


@pytest.mark.parametrize(("ep", "domain"), [(8, 8), (32, 8), (64, 8)])
def test_deduplicated_tokens_by_drawing_experts(ep: int, domain: int) -> None:
    """Of 128 experts 8 are drawn; a rank of each domain's gets a token once, whatever experts of it
    were drawn."""
    one = job(dp=ep, ep=ep, elsewhere=True)
    draw, near, far, times = random.Random(0), 0, 0, 4000
    for _ in range(times):
        chosen = {e * ep // 128 for e in draw.sample(range(128), 8)}
        near += sum(
            r % domain != 0 for r in chosen
        )  # from rank 0, or from the rank of its place in another domain
        far += len({r // domain for r in chosen} - {0})
    size = 2 * 4096 * 2048
    found = {
        c.axis: c.bytes * (c.ranks - 1) / c.ranks / size
        for c in collectives(one)
        if c.kind == "all_to_all"
    }
    assert found["ep"] == pytest.approx(near / times, rel=0.06)
    assert found.get("domains", 0.0) == pytest.approx(far / times, rel=0.06)


def test_our_trainer_sends_a_copy_for_each_expert() -> None:
    ours, theirs = (
        step_work.wires(job(dp=64, ep=64, elsewhere=e))["ep_wire"] for e in (False, True)
    )
    assert ours > 1.2 * theirs


def test_copies_sum_every_micro_batch_here_and_once_a_step_elsewhere() -> None:
    ours, theirs = (
        collectives(job("Llama3-8B", dp=16, sharding="hsdp", shard=8, elsewhere=e))
        for e in (False, True)
    )
    totals = [sum(c.total for c in found if c.axis == "replica") for found in (ours, theirs)]
    assert totals[0] == pytest.approx(4 * totals[1], rel=0.01)


def test_a_copy_within_a_domain_keeps_off_the_network() -> None:
    whole, copies = (
        step_work.wires(job("Llama3-8B", dp=64, nic=10.0, sharding=s, shard=n, elsewhere=True))
        for s, n in (("fsdp", None), ("hsdp", 8))
    )
    assert (
        copies["gather_wire"] < 0.5 * whole["gather_wire"]
        and "step_wire" not in whole
        and copies["step_wire"] > 0
    )


def test_rings_share_a_domains_cards() -> None:
    """Eight ranks of a node in one ring have eight cards, a ring through one rank of each node has
    one."""
    one = job(dp=64)
    card = one.cluster.nic * 1e9
    assert step_work.ring_rate(one, 1, 8) == LINK
    assert step_work.ring_rate(one, 1, 64) == pytest.approx(8 * card)
    assert step_work.ring_rate(one, 8, 8) == pytest.approx(card)


def test_the_fullest_stage_sets_the_pace() -> None:
    """61 layers on 8 ranks: some have 8, and nobody waits less than for these."""
    one = job("DeepSeek-V3", dp=8, pp=8, ep=8)
    held = step_work.slowest_stage(one)
    assert sum(count for _, count in held.blocks) == pytest.approx(8, abs=0.2) and not held.first


def test_optimizer_moves_every_weight_and_moment_there_and_back() -> None:
    one, a = job("Llama3-8B"), shapes.shape("Llama3-8B")
    moved = (
        2 * 3 * 4 + 4
    )  # Adam's three numbers read and written, the gradient read; our weights are kept in 32 bits
    moved += 4 + 2 * 4  # the gradient read for its norm, read and written where it is clipped
    assert step_work.work(one).optimizer_bytes == pytest.approx(
        moved * (a.num_params()) / 8, rel=0.03
    )


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_one_gpu_rounds_its_weights_and_adds_its_gradients_up(micro_batches: int) -> None:
    """Byte by byte over a step: nothing is gathered, and clipping has no pass of its own."""
    one, a = job("Llama3-8B", micro_batches, dp=1), shapes.shape("Llama3-8B")
    assert one.micro_batches == micro_batches
    copied = 0
    for k in range(micro_batches):
        copied += 4 + 2  # 32 bits read, 16 written
        copied += 2 + 4 + 4 * (k > 0)  # a gradient read, written, and from the second on added
    updated = 2 * 3 * 4 + 4 + 4  # Adam's three numbers, the gradient, and once more for its norm
    found = step_work.work(one)
    assert micro_batches * found.copy_bytes + found.optimizer_bytes == pytest.approx(
        (copied + updated) * a.num_params(), rel=0.01
    )
    alone = step_work.work(one.replace(engine=ONNURI))  # FSDP of one rank, as it was
    assert alone.copy_bytes == pytest.approx(50 * a.num_params(), rel=0.01)
    several = step_work.work(job("Llama3-8B", micro_batches, dp=2))
    assert several.copy_bytes == pytest.approx(14 * a.num_params(), rel=0.01)


def test_tensor_ranks_that_share_the_tokens_share_all_work_between_products():
    block = Block(count=1, attention=Attention(heads=8, kv_heads=4, head_dim=64), mlp=2048)
    alone, shared, whole = (
        step_work.operator_bytes(block, 512, ParallelConfig(tp=tp, sequence_parallel=sp))
        for tp, sp in ((1, True), (4, True), (4, False))
    )
    assert shared == pytest.approx(alone / 4) and shared < whole < alone
