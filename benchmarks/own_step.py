"""Measures Onnuri's training step on one GPU: tokens a second and the allocator's peak, one process
a case.

    python benchmarks/own_step.py out.csv     the cases of `onnuri/calibration/data/measured_gpu.csv`, into a table like it

A process of its own for each case, because what a case leaves behind (a graph that still points at
its weights when garbage is collected) counts into the peak of the next one: the first table was
measured in one process and had to be corrected for it. Needs a GPU. The shapes are those of
`onnuri/calibration/data/measured_shapes.json`, as transformers' configs.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from onnuri.calibration import measured, runs
from onnuri.model.backbone import build_hf_model
from onnuri.model.loss import next_token_loss
from onnuri.parallel.apply import parallelize
from onnuri.parallel.model import ModelWithLoss
from onnuri.planner.parallel import ParallelConfig
from onnuri.recipes import axk1, solar_open
from onnuri.training.optim import Optimizers
from onnuri.training.step import update_weights

LLAMA = {
    "vocab_size": 32768,
    "hidden_size": 2048,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 6144,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
EXPERTS = {
    "vocab_size": 65536,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1024,
}


def values(family: str) -> dict[str, Any]:
    """Return the config of a measured shape."""
    if family == "llama":
        return dict(LLAMA)
    if family == "solar_open":
        return (
            {k: v[0] for k, v in solar_open.VALUES.items()}
            | EXPERTS
            | {"num_hidden_layers": 10, "num_key_value_heads": 4, "head_dim": 128}
        )
    return (
        {k: v[0] for k, v in axk1.VALUES.items()}
        | EXPERTS
        | {
            "num_hidden_layers": 8,
            "num_key_value_heads": 16,
            "intermediate_size": 8192,
            "mlp_layer_types": ["dense"] + ["sparse"] * 7,
        }
    )


def measure(row: runs.Row, steps: int = 8) -> dict[str, float]:
    """Return tokens a second and GiB at the peak of one case, in this process."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", RANK="0", WORLD_SIZE="1")
    torch.distributed.init_process_group("nccl")
    job, family = measured.job(row), row["model"].split()[0]
    torch.manual_seed(0)
    with torch.device("cuda"):
        network: Any = build_hf_model(family, values(family))
    network.config._experts_implementation = "grouped_mm"
    network.set_attn_implementation("sdpa")
    trainee = ModelWithLoss(network, next_token_loss)
    if job.cluster.compiled:
        for layer in network.model.layers:
            layer.compile()
    layout = ParallelConfig(micro_batch=job.layout.micro_batch, recompute=job.layout.recompute)
    parallelize(network, layout, trainee, device="cuda")
    optimizer = Optimizers(trainee, False, 1e-4, 0.1, (0.9, 0.95))
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        ids = torch.randint(
            0, network.config.vocab_size, (layout.micro_batch, job.tokens), device="cuda"
        )
        torch.cuda.synchronize()
        began = time.perf_counter()
        loss = trainee(ids)
        (loss.sum / loss.weight).backward()
        update_weights(trainee, optimizer, 1e-4, 1.0)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    middle = sorted(seconds[3:])[len(seconds[3:]) // 2]
    return {
        "value": round(job.batch_tokens / middle, 1),
        "peak_allocated_GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2),
    }


def main() -> None:
    rows = runs.read(measured.FILE)
    if len(sys.argv) == 3 and sys.argv[1] == "--case":
        print(json.dumps(measure(next(row for row in rows if row["id"] == sys.argv[2]))))
        return
    done = []
    for row in rows:
        out = subprocess.run(
            [sys.executable, __file__, "--case", row["id"]],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found = json.loads(out.splitlines()[-1])
        done.append(
            {**row, "held_before_GiB": "", **{name: str(value) for name, value in found.items()}}
        )
        print(row["id"], found, flush=True)
    with Path(sys.argv[1]).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(done)


if __name__ == "__main__":
    main()
