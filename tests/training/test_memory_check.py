"""What a run needs at least is what its tensors then take, and a model that needs more than is free
is refused."""

import re

import pytest
import torch
from small_models import SMALL
from transformers import AutoConfig, AutoModelForCausalLM

from onnuri.errors import ConfigError
from onnuri.model.objective import RowObjective
from onnuri.parallel.model import ParallelModel
from onnuri.planner.parallel import ParallelConfig
from onnuri.training import memory_check
from onnuri.training.memory_check import check_host_memory, check_memory, least_bytes
from onnuri.training.optim import Optimizers
from onnuri.training.verify import RandomRows

CPU = torch.device("cpu")


def model(dtype=None, device="cpu"):
    with torch.device(device):
        network = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", **SMALL), dtype=torch.float32
        )
    objective = RowObjective(network, RandomRows(64, 48))
    return objective, ParallelModel(network, objective.loss, dtype=dtype, device=CPU)


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_least_is_what_a_step_leaves(muon, dtype):
    objective, trained = model(dtype)
    optimizer = Optimizers(trained.network, muon, 1e-3, 0.1, (0.9, 0.95))
    trained.forward_backward(objective.batch(0), 40.0)
    optimizer.step(1e-3)
    parameters = list(trained.network.parameters())
    tensors = [*parameters, *(p.grad for p in parameters)]
    if trained.working_weights:
        tensors += [copy for _, copy in trained.working_weights.pairs]
    states = [state for each in optimizer.each for state in each.state.values()]
    tensors += [t for state in states for t in state.values() if t.ndim]
    assert least_bytes(model(dtype, "meta")[1], muon)[CPU] == sum(t.nbytes for t in tensors)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_offloaded_weights_are_the_hosts(dtype, monkeypatch):
    """A GPU holds copies, and the host all else, and what is moved once more."""
    gpu = torch.device("cuda")
    network = model(device="meta")[0].module
    offloads = ParallelConfig(offload=True)
    large = ParallelModel(network, lambda _: None, offloads, dtype, device=gpu)
    copies = sum(p.numel() for p in network.parameters()) * (dtype or torch.float32).itemsize
    kept = least_bytes(model(device="meta")[1], False)[CPU]
    assert least_bytes(large, False) == {CPU: kept + copies, gpu: copies}
    free = {CPU: kept + copies, gpu: copies}
    monkeypatch.setattr(memory_check, "free_bytes", free.get)
    check_memory("my-llm", large, False)
    free[gpu] -= 1
    with pytest.raises(ConfigError, match=r"on its GPU.*more \(fsdp, tp, ep\)$"):
        check_memory("my-llm", large, False)
    free |= {gpu: copies, CPU: kept}
    with pytest.raises(ConfigError, match="of memory per rank"):
        check_memory("my-llm", large, False)


def test_too_little_memory_is_one_line(monkeypatch):
    _, large = model(device="meta")
    least = least_bytes(large, False)[CPU]
    monkeypatch.setattr(memory_check, "GIB", 1000)
    monkeypatch.setattr(memory_check, "available_bytes", lambda: least)
    check_memory("my-llm", large, False)
    monkeypatch.setattr(memory_check, "available_bytes", lambda: least - 1)
    figure = re.escape(f"{least / 1000:,.1f} GiB of memory per rank")
    with pytest.raises(ConfigError, match=f"my-llm: needs at least {figure}.*use more ranks"):
        check_memory("my-llm", large, False)
    whole = sum(p.nbytes for p in large.network.parameters())
    monkeypatch.setattr(memory_check, "available_bytes", lambda: whole)
    check_host_memory("why", large)
    monkeypatch.setattr(memory_check, "available_bytes", lambda: whole - 1)
    with pytest.raises(ConfigError, match="why: the first rank must hold the whole model"):
        check_host_memory("why", large)
    monkeypatch.setattr(memory_check, "available_bytes", lambda: None)  # not told by this system
    check_memory("my-llm", large, False)


def test_memory_of_this_machine_is_read():
    available = memory_check.available_bytes()
    assert available is None or 1 << 20 < available < 1 << 50
