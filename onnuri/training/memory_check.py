"""This module says, before anything is allocated, whether a model that is sharded on the meta
device fits in its ranks' memory.

What it counts is a lower bound: weights, gradients and optimizer state. Activations and gathered
weights come on top, which `onnuri plan` foretells.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from onnuri.errors import ConfigError
from onnuri.parallel import group, launch
from onnuri.parallel.model import ParallelModel
from onnuri.training.optim import moments

GIB = 1 << 30


def check_memory(name: str, model: ParallelModel, muon: bool) -> None:
    """Raise ConfigError, at every rank, if one has less free memory on its device, or on its host
    where weights are offloaded, than training takes at least; `name` is the model's."""
    with group.failing_together():
        for device, needed in least_bytes(model, muon).items():
            free = free_bytes(device)
            if free is None or needed <= free:
                continue
            on_gpu = device.type == "cuda"
            raise ConfigError(
                name,
                f"needs at least {needed / GIB:,.1f} GiB {'on its GPU' if on_gpu else 'of memory'} "
                "per rank for weights, gradients and optimizer state, and "
                f"{free / GIB:,.1f} are free",
                "use more ranks, or a --layout that shards more (fsdp, tp, ep)"
                + (" or keeps them on the host (offload)" if on_gpu and not model.offloads else ""),
            )


def check_host_memory(why: str, model: ParallelModel) -> None:
    """Raise ConfigError, at every rank, if the first rank's host has too little free memory for the
    whole model in 32 bits; `why` says why it must have it."""
    needed = sum(p.numel() * p.element_size() for p in model.root.parameters())
    with group.failing_together():
        free = available_bytes()
        if launch.is_first() and free is not None and needed > free:
            raise ConfigError(
                why,
                f"the first rank must hold the whole model, {needed / GIB:,.1f} GiB, and "
                f"{free / GIB:,.1f} are free",
                "give a folder that transformers' save_pretrained wrote",
            )


def least_bytes(model: ParallelModel, muon: bool) -> dict[torch.device, int]:
    """Return the bytes of this rank's weights, gradients, optimizer state and, where one rank
    computes in another dtype or elsewhere, copies of the weights, by the device that holds them."""
    kept = copied = 0
    copies = not model.meshes and (model.dtype is not None or model.offloads)
    for name, p in model.root.named_parameters():
        count = (p.to_local() if isinstance(p, DTensor) else p).numel()
        tensors = 2 + moments(name, p, muon) if p.requires_grad else 1
        kept += count * tensors * p.element_size()
        copied += count * (model.dtype or p.dtype).itemsize if copies else 0
    if model.offloads:  # what is moved passes through memory of the host, as large as the copies
        return {model.weights_device: kept + copied, model.device: copied}
    return {model.device: kept + copied}


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that a rank may still use on its device: those of a CPU are shared evenly by
    the ranks of the machine. None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = available_bytes()
    return None if available is None else available // launch.local_ranks()


def available_bytes() -> int | None:
    """Return the bytes of this machine's memory that programs can still get without swapping; None
    on systems without /proc."""
    path = Path("/proc/meminfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
