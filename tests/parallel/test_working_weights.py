"""16-bit copies of the weights on one rank: against the copies' own gradients, and against FSDP."""

import contextlib

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.utils import _to_kwargs

from onnuri.model.backbone import BackboneConfig, compute_device
from onnuri.model.objective import RowObjective
from onnuri.parallel import working_weights
from onnuri.parallel.apply import parallelize
from onnuri.parallel.fill import give_memory, named_tensors
from onnuri.parallel.model import ModelWithLoss, ParallelModel, Untouched
from onnuri.parallel.working_weights import WorkingWeights
from onnuri.planner.parallel import ParallelConfig
from onnuri.training.verify import RandomRows


@pytest.fixture
def only_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def tied():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False))
    model[2].weight = model[0].weight
    return model


def test_gradients_are_those_of_the_rounded_weights_summed_over_micro_batches_in_32_bits():
    model, rounded = tied(), tied().bfloat16()
    rounded[2].weight = rounded[0].weight
    working = WorkingWeights(model, torch.bfloat16)
    expected = None
    for ids in (torch.tensor([1, 2, 3]), torch.tensor([4, 4, 0])):
        with working.in_place():
            assert model[2].weight is model[0].weight and model[0].weight.dtype is torch.bfloat16
            model(ids).square().sum().backward()
        rounded.zero_grad()
        rounded(ids).square().sum().backward()
        own = [p.grad.float() for p in rounded.parameters()]
        expected = own if expected is None else [a + b for a, b in zip(expected, own, strict=True)]
    assert model[2].weight is model[0].weight
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    for p, wanted in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, wanted, rtol=0, atol=0)


def test_an_update_reaches_the_copies_and_an_error_gives_the_weights_back():
    model = tied()
    weight = model[1].weight
    working = WorkingWeights(model, torch.bfloat16)
    with working.in_place():
        pass
    with torch.no_grad():
        weight.add_(1.0)
    with pytest.raises(KeyError), working.in_place():
        torch.testing.assert_close(model[1].weight.float(), weight.bfloat16().float())
        raise KeyError
    assert model[1].weight is weight


@pytest.mark.parametrize("fused", [False, True])
def test_every_update_is_seen_by_the_next_step(fused):
    """A fused optimizer changes weights and leaves no trace; on a GPU they stood still."""
    model = tied()
    working = WorkingWeights(model, torch.bfloat16)
    descent = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    for _ in range(3):
        with working.in_place():
            for p, weight in zip(
                model.parameters(), descent.param_groups[0]["params"], strict=True
            ):
                assert torch.equal(p, weight.bfloat16())
            model(torch.tensor([1, 2])).square().sum().backward()
        before = [p.detach().clone() for p in model.parameters()]
        descent.step()
        descent.zero_grad()
        assert not any(map(torch.equal, before, model.parameters()))


def test_frozen_weights_get_no_gradient():
    model = tied()
    model[1].requires_grad_(False)
    working = WorkingWeights(model, torch.bfloat16)
    with working.in_place():
        model(torch.tensor([1])).sum().backward()
    assert model[1].weight.grad is None and model[0].weight.grad is not None


def test_one_rank_trains_as_fsdp_does(only_rank):
    found = []
    for whole in (True, False):
        torch.manual_seed(0)
        network = BackboneConfig(vocabulary=64, width=48, layers=2, heads=4, hidden=96).build()
        objective = RowObjective(network, RandomRows(64, 48))
        layout = ParallelConfig(sharding="fsdp")
        if whole:
            model = ParallelModel(network, objective.loss, layout, torch.bfloat16)
            for k in range(2):
                model.forward_backward(objective.batch(k), 40.0)
        else:
            root = ModelWithLoss(network, lambda _, row, loss=objective.loss: loss(row))
            parallelize(network, layout, root, dtype=torch.bfloat16)
            for k in range(2):
                (root(Untouched(objective.batch(k)))[0].sum / 40.0).backward()
        found.append({n: p.grad for n, p in network.named_parameters()})
    one, other = found
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name].full_tensor(), rtol=1e-6, atol=1e-7)


def test_weights_may_come_after_the_model():
    """It is made on the meta device, filled, and evaluated before it trains: gradients are those of
    a model that had its weights at once."""
    gradients = []
    for later in (False, True):
        torch.manual_seed(0)
        config = BackboneConfig(vocabulary=64, width=48, layers=1, heads=4, hidden=96)
        network = config.build()
        if later:
            values = network
            with torch.device("meta"):
                network = config.build()
        objective = RowObjective(network, RandomRows(64, 48))
        model = ParallelModel(network, objective.loss, dtype=torch.bfloat16)
        if later:
            give_memory(model.root, torch.device("cpu"))
            tensors = {**values.state_dict(), **dict(values.named_buffers())}
            for name, tensor in named_tensors(network).items():
                tensor.copy_(tensors[name])
            model.mean_loss([objective.batch(1)])
        model.forward_backward(objective.batch(0), 40.0)
        assert network.lm_head.weight is network.model.embed_tokens.weight
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name


def test_weights_are_kept_apart_from_where_the_model_computes():
    config = BackboneConfig(vocabulary=64, width=48, layers=1, heads=4, hidden=96)
    with torch.device("meta"):
        network = config.build()
    meta, cpu = torch.device("meta"), torch.device("cpu")
    give_memory(network, meta, cpu)
    assert {p.device for p in network.parameters()} == {cpu}
    assert {b.device for b in network.buffers()} == {meta} and compute_device(network) == meta
    assert network.lm_head.weight is network.model.embed_tokens.weight


class NoStream:
    """A GPU's stream whose work is done at once."""

    def __init__(self, device=None):
        self.device, self.waited = device, 0

    def wait_stream(self, other):
        pass

    def synchronize(self):
        self.waited += 1


def test_offloaded_gradients_are_those_of_the_copies_summed_on_the_host(monkeypatch):
    """Without a GPU: its streams and pinned memory are stand-ins, the copies are real."""
    monkeypatch.setattr(torch.cuda, "Stream", NoStream)
    monkeypatch.setattr(torch.cuda, "current_stream", NoStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
    empty = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t, device=None, pin_memory=False: empty(t))
    model, plain = tied(), tied()
    model[1].bias.requires_grad_(False)
    plain[1].bias.requires_grad_(False)
    offloaded, beside = (WorkingWeights(m, torch.bfloat16) for m in (model, plain))
    offloaded._link = working_weights._HostLink(torch.device("cpu"))
    for step in range(3):
        for row in range(2):
            for network, working in ((model, offloaded), (plain, beside)):
                with working.in_place():
                    network(torch.tensor([row, step])).square().sum().backward()
        assert offloaded._link._stream.waited == 2 * (step + 1)
        for one, other in zip(model.parameters(), plain.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                assert torch.equal(one.grad, other.grad) and one.grad.dtype == torch.float32
            for p in (one, other):
                if p.grad is not None:
                    p.data -= 0.1 * p.grad
                    p.grad = None


@pytest.mark.parametrize("offload", [False, True])
def test_shards_are_offloaded_where_the_layout_says(only_rank, offload):
    network = BackboneConfig(vocabulary=64, width=48, layers=2, heads=4, hidden=96).build()
    parallelize(network, ParallelConfig(offload=offload))
    states = [m._get_fsdp_state() for m in network.modules() if isinstance(m, FSDPModule)]
    groups = [state._fsdp_param_group for state in states if state._fsdp_param_group]
    assert len(groups) >= 3
    assert {isinstance(group.offload_policy, CPUOffloadPolicy) for group in groups} == {offload}


def test_a_batch_reaches_the_loss_as_it_is():
    """On a GPU, FSDP hands over a row whose tensors it has moved there: here it moves them to
    "meta", where the host can read nothing."""
    network = BackboneConfig(vocabulary=64, width=48, layers=1, heads=4, hidden=96).build()
    objective = RowObjective(network, RandomRows(64, 48))
    model = ParallelModel(network, objective.loss)
    model.root.register_forward_pre_hook(
        lambda module, args: _to_kwargs(args, {}, torch.device("meta"), False)[0][0]
    )
    parts, _ = model.forward_backward(objective.batch(0), 40.0)
    assert float(parts.mean) > 0


@pytest.mark.parametrize("offload", [False, True])
def test_a_model_keeps_its_weights_where_its_layout_says(offload, monkeypatch):
    """On a CPU there is nowhere to move them, so that they are asked to move is what is seen."""
    moved = []
    monkeypatch.setattr("onnuri.parallel.model.keep_weights", lambda *asked: moved.append(asked))
    network = BackboneConfig(vocabulary=32, width=16, layers=1, heads=2, hidden=24).build()
    layout = ParallelConfig(dp=1, offload=offload)
    ParallelModel(network, lambda batch: (batch, {}), layout)
    assert moved == ([(network, torch.device("cpu"))] if offload else [])
