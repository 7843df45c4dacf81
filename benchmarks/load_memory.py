"""This benchmark measures how much memory every rank needs beyond its shard when a pretraining run
starts and ends: `python benchmarks/load_memory.py` writes results/load.json.

Four processes over gloo try a class on its small copy, shard a mixture of some gigabytes, fill the
shards, with random weights or from a folder in 16 bits, and write the model. A rank's excess is its
peak resident memory less what it held before and less its shard; mapped files count. The largest
tensor, the fused experts of a layer in 32 bits, is larger than a rank's shard. What is read from a
folder is written again, and must be the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from export_memory import VALUES, resident
from torch.distributed.tensor import DTensor

from onnuri.evaluation.machine import machine
from onnuri.model.backbone import build_hf_config
from onnuri.model.base import load_base
from onnuri.model.trial_copy import trial_copy
from onnuri.parallel.apply import parallelize
from onnuri.parallel.fill import give_memory
from onnuri.planner.parallel import ParallelConfig
from onnuri.training.export import export
from onnuri.training.load import Loader

RANKS = 4
SMALLER = {**VALUES, "n_routed_experts": 48}
LAYOUTS = {
    "fsdp": ParallelConfig(dp=RANKS, recompute="none"),
    "ep": ParallelConfig(dp=RANKS, ep=RANKS, recompute="none"),
}


def measured(work: Callable[[], None]) -> dict[str, float]:
    """Do some work in every rank at once, and return what it took in this one."""
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, start = resident("VmRSS"), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return {"before_bytes": before, "peak_bytes": resident("VmHWM"), "seconds": round(seconds, 2)}


def rank_starts_and_ends(rank: int, folder: Path, out: Path, name: str, place: Path) -> None:
    """Load a folder in one rank and write it to `out`, and note what that took."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/s", rank=rank, world_size=RANKS)
    load_base(folder, device="meta")  # imports the class, which is no part of what is measured
    held: list[Any] = []

    def load() -> None:
        """Shard the model and fill its shards."""
        if rank == 0:
            trial_copy(folder)
        network = load_base(folder, device="meta", dtype=torch.float32)
        loader = Loader(folder, network, 0)
        assert loader.why_whole is None, loader.why_whole
        meshes = parallelize(network, LAYOUTS[name], dtype=None)
        give_memory(network, torch.device("cpu"))
        loader.load(network, meshes)
        held.extend((network, meshes))

    loading = measured(load)
    network, meshes = held
    local = [p.to_local() if isinstance(p, DTensor) else p for p in network.parameters()]
    shard = sum(p.nbytes for p in local)
    dtypes = {n: t.dtype for n, t in load_base(folder, device="meta").state_dict().items()}
    writing = measured(lambda: export(network, out, meshes, dtype=dtypes))
    figures = {
        "shard_bytes": shard,
        "load": {
            **loading,
            "excess_bytes": loading["peak_bytes"] - loading["before_bytes"] - shard,
        },
        "write": {**writing, "excess_bytes": writing["peak_bytes"] - writing["before_bytes"]},
    }
    (place / f"{rank}.json").write_text(json.dumps(figures))
    dist.destroy_process_group()


def measure(folder: Path, out: Path, name: str) -> dict[str, Any]:
    """Return what every rank took to load a folder and to write it to `out`."""
    place = Path(tempfile.mkdtemp(prefix="load", dir=out.parent))
    multiprocessing.spawn(rank_starts_and_ends, (folder, out, name, place), nprocs=RANKS)
    ranks = [json.loads((place / f"{rank}.json").read_text()) for rank in range(RANKS)]
    return {
        "ranks": ranks,
        "largest_excess_bytes": {
            step: max(each[step]["excess_bytes"] for each in ranks) for step in ("load", "write")
        },
    }


def digest(folder: Path) -> str:
    """Return a SHA-256 of all weights of a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def main() -> None:
    """Measure a start with random weights and one with those that it wrote, in every layout."""
    os.nice(10)
    place = Path(tempfile.mkdtemp(prefix="load"))
    try:
        config = build_hf_config("vaetki", SMALLER)
        config.dtype = "bfloat16"
        config.save_pretrained(place / "random")
        network: Any = load_base(place / "random", device="meta", dtype=torch.float32)
        sizes = [p.nbytes for p in network.parameters()]
        layouts: dict[str, dict[str, Any]] = {}
        for name in sys.argv[1:] or LAYOUTS:
            layouts[name] = {
                "random": measure(place / "random", place / "first", name),
                "folder": measure(place / "first", place / "second", name),
            }
            layouts[name]["weights"] = digest(place / "first")
            assert layouts[name]["weights"] == digest(place / "second")
        # random weights are those of any layout
        assert len({each["weights"] for each in layouts.values()}) == 1
    finally:
        shutil.rmtree(place)
    results = {
        "machine": machine(),
        "model_bytes": sum(sizes),
        "largest_tensor_bytes": max(sizes),
        "layouts": layouts,
    }
    path = Path(__file__).parent / "results/load.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    for name, result in layouts.items():
        for start in ("random", "folder"):
            excess = result[start]["largest_excess_bytes"]
            print(name, start, {step: f"{size >> 20} MiB" for step, size in excess.items()})


if __name__ == "__main__":
    main()
