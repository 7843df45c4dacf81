"""This benchmark measures how much memory every rank needs beyond its shard while all export a
model of some gigabytes: `python benchmarks/export_memory.py` writes results/export.json.

Four processes over gloo share fake weights, which are made shard by shard, so that no process ever
holds the whole model. A rank's excess is its peak resident memory during the export less what it
held before, its shard included. The largest tensor, the fused experts of a layer in 32 bits, is
larger than the bar of 2 GiB. That the right numbers are written is what the tests hold.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.tensor import DTensor

from onnuri.evaluation.machine import machine
from onnuri.model.backbone import build_hf_model
from onnuri.parallel.apply import parallelize
from onnuri.planner.parallel import ParallelConfig
from onnuri.training.export import export, plan

RANKS = 4
VALUES = {
    "vocab_size": 32_768,
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "q_lora_rank": 512,
    "kv_lora_rank": 256,
    "sliding_window": 512,
}
LAYOUTS = {
    "fsdp": ParallelConfig(dp=RANKS, recompute="none"),
    "ep": ParallelConfig(dp=RANKS, ep=RANKS, recompute="none"),
}


def resident(field: str) -> int:
    """Return a figure of this process's memory in bytes, such as VmRSS or VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) << 10
    raise KeyError(field)


def fill(network: nn.Module) -> None:
    """Give a network that is sharded on the meta device memory, and every shard a number of its
    own."""
    network.to_empty(device="cpu")
    with torch.no_grad():
        for number, tensor in enumerate(network.state_dict().values()):
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            # cheap, unlike zeros really in memory, and different in every rank and tensor
            local.fill_(dist.get_rank() + 1 + number / 1024)


def rank_exports(rank: int, folder: Path, name: str, store: Path) -> None:
    """Export in one rank, and write what it measured."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    with torch.device("meta"):
        network: Any = build_hf_model("vaetki", VALUES)
    meshes = parallelize(network, LAYOUTS[name], dtype=None)
    fill(network)
    local = [p.to_local() if isinstance(p, DTensor) else p for p in network.parameters()]
    shard = sum(p.nbytes for p in local)
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, start = resident("VmRSS"), time.perf_counter()
    export(network, folder / "model", meshes, dtype=torch.float32)
    seconds = time.perf_counter() - start
    figures = {
        "shard_bytes": shard,
        "before_bytes": before,
        "peak_bytes": resident("VmHWM"),
        "excess_bytes": resident("VmHWM") - before,
        "seconds": seconds,
    }
    (store.parent / f"{rank}.json").write_text(json.dumps(figures))
    dist.destroy_process_group()


def measure(name: str) -> dict[str, Any]:
    """Return what an export in a layout took."""
    place = Path(tempfile.mkdtemp(prefix="export"))
    try:
        multiprocessing.spawn(rank_exports, (place / "out", name, place / "store"), nprocs=RANKS)
        figures = [json.loads((place / f"{rank}.json").read_text()) for rank in range(RANKS)]
        files = sorted((place / "out/model").glob("*.safetensors"))
        return {
            "ranks": figures,
            "model_bytes": sum(file.stat().st_size for file in files),
            "files": len(files),
            "left_over": [p.name for p in (place / "out").iterdir() if p.name != "model"],
            "largest_excess_bytes": max(each["excess_bytes"] for each in figures),
        }
    finally:
        shutil.rmtree(place)


def largest_tensor_bytes() -> int:
    """Return the bytes of the model's largest tensor."""
    with torch.device("meta"):
        files, _ = plan(build_hf_model("vaetki", VALUES), torch.float32, 10**9)
    return max(math.prod(w.shape) * 4 for file in files for w in file.weights.values())


def main() -> None:
    """Measure every layout and write the results."""
    os.nice(10)
    results = {
        "machine": machine(),
        "bar_bytes": 2 << 30,
        "largest_tensor_bytes": largest_tensor_bytes(),
        "layouts": {name: measure(name) for name in sys.argv[1:] or LAYOUTS},
    }
    path = Path(__file__).parent / "results/export.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    for name, result in results["layouts"].items():
        print(
            name, result["model_bytes"] >> 20, "MiB, excess", result["largest_excess_bytes"] >> 20
        )


if __name__ == "__main__":
    main()
