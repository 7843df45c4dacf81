"""Trains by the steps of litgpt's `pretrain.py`, in turn with other runs: a part of
`benchmarks/cpu.py`, which starts it in litgpt's environment as `cpu_litgpt.py WAY FOLDER DOOR`.

WAY is "compiled", as litgpt trains, or "eager". Model, loss, learning rate and order of calls are
litgpt 0.5's (`litgpt/pretrain.py`: main, fit); its checkpoints, its validation and its cosine of
learning rates are left out, and norms have no weight decay, as in the other runs. It has no masks
of documents, so a row must be one. It imports nothing of Onnuri.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from cpu_turns import Turns
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import chunked_cross_entropy, instantiate_torch_optimizer
from safetensors.torch import load_file


def build(folder: Path) -> GPT:
    """Return the model of a folder of transformers, converted as litgpt does."""
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = Config(
        name="benchmark",
        block_size=values["max_position_embeddings"],
        padded_vocab_size=values["vocab_size"],
        vocab_size=values["vocab_size"],
        n_layer=values["num_hidden_layers"],
        n_head=values["num_attention_heads"],
        n_query_groups=values["num_key_value_heads"],
        n_embd=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        norm_eps=values["rms_norm_eps"],
        rope_base=int(values["rope_parameters"]["rope_theta"]),
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(folder / "model.safetensors"))
    network = GPT(config)
    network.load_state_dict(weights)
    return network


def main() -> None:
    """Train until the benchmark ends the process."""
    way, folder, door = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    network: Any = build(folder / "model")
    network.max_seq_length = job["tokens"]
    named = list(network.named_parameters())
    groups = [
        {
            "params": [p for _, p in named if (p.ndim < 2) == vector],
            "weight_decay": 0.0 if vector else job["weight_decay"],
        }
        for vector in (False, True)
    ]
    if way == "compiled":
        network = torch.compile(network)
    network = fabric.setup(network)
    optimizer: Any = instantiate_torch_optimizer(
        {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": job["learning_rate"], "betas": job["betas"]},
        },
        groups,
        fused=False,  # `fused=fabric.device.type == "cuda"` there
    )
    optimizer = fabric.setup_optimizers(optimizer)
    rows = np.load(folder / "ids.npy", mmap_mode="r")
    targets = np.full_like(rows, -100)
    targets[:, :-1] = rows[:, 1:]
    examples = torch.utils.data.TensorDataset(torch.from_numpy(rows[:]), torch.from_numpy(targets))
    loader = fabric.setup_dataloaders(
        torch.utils.data.DataLoader(examples, batch_size=job["rows"], shuffle=False)
    )
    turns, losses = Turns(door), list[float]()
    turns.between_steps(lambda: losses)
    for ids, expected in loader:
        logits = network(ids.contiguous().long())
        loss = chunked_cross_entropy(logits, expected.contiguous().long())
        fabric.backward(loss)
        losses.append(loss.detach().item())
        fabric.clip_gradients(network, optimizer, max_norm=job["clip"])
        optimizer.step()
        optimizer.zero_grad()
        turns.between_steps(lambda: losses)


if __name__ == "__main__":
    main()
