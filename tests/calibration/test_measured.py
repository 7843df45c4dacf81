"""Our own step on one GPU: the planner against what was measured there, and its bytes against a
count of operators."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from onnuri.calibration import measured, runs
from onnuri.calibration.fit import published, stack, usable
from onnuri.calibration.validate import in_sample
from onnuri.model.backbone import build_hf_model
from onnuri.planner.activations import torch_compiled_layer
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import GIB, memory
from onnuri.planner.parallel import ONNURI, ONNURI_ONE_GPU, ParallelConfig
from onnuri.planner.step_time import step_time
from onnuri.planner.step_work import OPERATORS_ROUTED, operator_bytes, work
from onnuri.planner.stock import architecture
from onnuri.profile import fake_ops
from onnuri.recipes import solar_open

ROWS = runs.read(measured.FILE)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["id"])
def test_memory_and_speed_of_a_measured_step(row: runs.Row) -> None:
    job = measured.job(row)
    whole = row["zero_or_fsdp"] == "none"
    assert (row["zero_or_fsdp"] == "fsdp") != whole and job.profile.whole_weights == whole
    assert job.profile.name == (ONNURI_ONE_GPU if whole else ONNURI).name
    assert job.cluster.compiled == ("compiled" in row["id"])
    assert memory(job).allocated / GIB == pytest.approx(measured.peak_gib(row), rel=0.05)
    found = step_time(job)
    assert found.tokens_per_s_per_gpu == pytest.approx(float(row["value"]), rel=0.15)
    assert found.low < float(row["value"]) < found.high


def test_what_a_case_left_over_is_the_last_ones_weights() -> None:
    """The measuring process held the previous case's 32-bit weights, but not where layers were
    compiled: the same cases met the same peaks in processes of their own."""
    shared = [row for row in ROWS if "one process a case" not in row["note"]]
    weights = [measured.shapes()[row["model"]].num_params() * 4 / GIB for row in shared]
    left = [0.0, *weights[:-1]]
    for row, bytes_left in zip(shared, left, strict=True):
        compiled = "compiled" in row["id"]
        expected = 0.0 if compiled else bytes_left
        assert float(row["held_before_GiB"] or 0) == pytest.approx(expected, abs=0.01)


def test_cases_met_the_same_peaks_again_in_processes_of_their_own() -> None:
    peaks = {row["id"]: measured.peak_gib(row) for row in ROWS}
    again = {name: name.removesuffix("-2") for name in peaks if name.endswith("-2")}
    pairs = [(peaks[name], peaks[old]) for name, old in again.items() if old in peaks]
    assert len(pairs) == 4
    for new, old in pairs:
        assert new == pytest.approx(old, abs=0.02)


def test_measured_rows_are_evidence_of_the_fit() -> None:
    assert usable(ROWS) == ROWS and in_sample(ROWS) == len(ROWS)
    e = stack(ROWS)
    assert e.per_gpu == pytest.approx([int(row["global_batch_tokens"]) for row in ROWS])
    assert published(e) == pytest.approx([math.log(float(row["value"])) for row in ROWS])


def test_a_compiled_step_takes_less_time_and_memory_than_an_eager_one() -> None:
    eager = measured.job(ROWS[0])
    fused = eager.replace(cluster=eager.cluster.replace(compiled=True))
    assert (
        step_time(fused).total < step_time(eager).total
        and memory(fused).allocated < memory(eager).allocated
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("llama", {"intermediate_size": 640}),
        ("solar_open", {"moe_intermediate_size": 160, "n_routed_experts": 8}),
    ],
)
def test_a_compiled_layer_keeps_what_the_compiler_saves(family: str, sizes: dict[str, int]) -> None:
    """Bytes per token of two more layers, from the tensors that autograd saves."""
    narrow = {
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    }
    all_values = LLAMA if family == "llama" else {k: v[0] for k, v in solar_open.VALUES.items()}
    config = {**all_values, "num_experts_per_tok": 4, **narrow, **sizes, "vocab_size": 64}
    saved = {
        (layers, tokens): saved_by_compiled(family, config, layers, tokens)
        for layers in (1, 3)
        for tokens in (96, 192)
    }
    few, many = (saved[3, tokens] - saved[1, tokens] for tokens in (96, 192))
    (block,) = architecture("", family, {**config, "num_hidden_layers": 1}).blocks
    kept = torch_compiled_layer(block, 256, ParallelConfig()).saved_bytes
    assert kept == pytest.approx((many - few) / 96 / 2, rel=1e-3)


def saved_by_compiled(family: str, config: dict[str, Any], layers: int, tokens: int) -> int:
    """Return the bytes of the tensors that a network of compiled layers saves, weights left out."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    network: Any = build_hf_model(family, {**config, "num_hidden_layers": layers}).bfloat16()
    network.config._experts_implementation = "grouped_mm"
    network.set_attn_implementation("sdpa")
    for layer in network.model.layers:
        layer.compile()
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        """Note a saved tensor's storage, and keep it so that none takes its place."""
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        network.model(torch.zeros(1, tokens, dtype=torch.long))
    return sum(storage.nbytes() for storage in storages.values())


class Moved(TorchDispatchMode):
    """Counts bytes that operators read and write; views, allocations, products and attention left
    out."""

    FREE = {
        "view",
        "_unsafe_view",
        "transpose",
        "t",
        "permute",
        "expand",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "split",
        "chunk",
        "split_with_sizes",
        "as_strided",
        "unbind",
        "empty",
        "empty_like",
        "new_empty_strided",
    }
    PRODUCTS = ("mm", "addmm", "bmm", "_grouped_mm", "fused_attention", "fused_attention_backward")

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), named: Any = None
    ) -> Any:
        out = function(*args, **(named or {}))
        name = function._overloadpacket.__name__
        if name not in self.FREE and name not in self.PRODUCTS and "grouped_mm" not in name:
            tensors = [t for t in tree_leaves((args, named, out)) if isinstance(t, torch.Tensor)]
            self.bytes[name] += sum(
                t.untyped_storage().nbytes() if 0 in t.stride() else t.numel() * t.element_size()
                for t in tensors
            )
        return out


def moved(family: str, values: dict[str, Any], layers: int, tokens: int) -> float:
    """Bytes a token of a forward and a backward pass."""
    with torch.device("meta"):
        network = build_hf_model(family, {**values, "num_hidden_layers": layers}).to(torch.bfloat16)
        fake_ops.register()
        network.set_attn_implementation(fake_ops.FUSED)
        network.config._experts_implementation = "grouped_mm"
        with Moved() as count:
            network.model(
                input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False
            ).last_hidden_state.sum().backward()
    return sum(count.bytes.values()) / tokens


LLAMA = {
    "vocab_size": 256,
    "hidden_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 4096,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}


def test_bytes_between_products_are_those_that_operators_move() -> None:
    """Of one more layer, against a dispatch mode over transformers' Llama of other widths than
    those that gave the sizes."""
    values = {**LLAMA, "num_hidden_layers": 2}
    a = architecture("llama", "llama", values)
    counted = moved("llama", LLAMA, 2, 1024) - moved("llama", LLAMA, 1, 1024)
    assert operator_bytes(a.blocks[0], a.hidden, ParallelConfig()) == pytest.approx(
        counted, rel=0.1
    )


def test_own_selective_recomputation_moves_a_forward_pass_more() -> None:
    def between(recompute: str) -> float:
        layout = ParallelConfig(recompute=recompute)  # type: ignore[arg-type]
        one = Job(
            architecture=measured.shapes()["solar_open shape"],
            layout=layout,
            cluster=Cluster(gpu="H200", gpus=1),
            tokens=4096,
            batch_tokens=4096,
        )
        w = work(one)
        assert w.permute_bytes == pytest.approx(
            (1.3 if recompute != "none" else 1.0) * OPERATORS_ROUTED * 4096 * 4 * 2048 * 10
        )
        return w.elementwise_bytes

    assert between("none") < between("selective") == between("full")
