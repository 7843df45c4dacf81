"""What a training step means, held against references that share no code with it: each test fails
for one changed line.

Clipping against PyTorch's own, a skipped update by comparing weights, groups of the optimizer by
reading them, a budget of minutes over several sittings, dropout by the masks that it drew.
"""

import math
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from onnuri.model.loss import LossParts
from onnuri.training import loop, state
from onnuri.training.loop import TrainConfig, fit, lr_at, read_metrics
from onnuri.training.optim import Optimizers
from onnuri.training.step import update_weights


def take(module, loss, optimizer, rate, clip, total=1.0):
    """A step with a loss that is a sum of the weight `total`."""
    (loss / total).backward()
    return update_weights(module, optimizer, rate, clip)


def small_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 1))


def plain_sgd(net, learning_rate=0.1):
    """SGD in the place of AdamW, whose update hides the size of a gradient."""
    optimizer = Optimizers(net, False, learning_rate, 0.0, (0.9, 0.95))
    optimizer.each = [torch.optim.SGD(net.parameters(), lr=learning_rate)]
    return optimizer


@pytest.mark.parametrize("clip", [0.05, 1e9])
def test_a_step_is_that_of_pytorchs_clipping_and_sgd(clip):
    ours, theirs, batch = (
        small_net(),
        small_net(),
        torch.randn(7, 6, generator=torch.Generator().manual_seed(3)),
    )
    norm = take(ours, ours(batch).square().sum(), plain_sgd(ours), 0.1, clip)
    theirs(batch).square().sum().backward()
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip)
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    assert float(norm) == pytest.approx(float(expected)) and float(norm) > 0.05
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert all(p.grad is None for p in ours.parameters())


def test_a_loss_is_divided_by_the_weight_of_the_whole_step():
    whole, shared, batch = small_net(), small_net(), torch.ones(3, 6)
    one = take(whole, whole(batch).square().sum(), plain_sgd(whole), 0.0, 1e9)
    part = take(shared, shared(batch).square().sum(), plain_sgd(shared), 0.0, 1e9, 4.0)
    assert float(part) == pytest.approx(float(one) / 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    net = small_net()
    before = [p.detach().clone() for p in net.parameters()]
    norm = take(net, net(torch.ones(2, 6)).sum() * bad, plain_sgd(net), 0.1, 1.0)
    assert not torch.isfinite(norm)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


@pytest.mark.parametrize("muon", [False, True])
def test_only_matrices_decay_and_betas_are_those_of_the_configuration(muon):
    net = small_net()
    optimizer = Optimizers(net, muon, 1e-3, 0.3, (0.8, 0.9))
    decays = {
        id(p): group["weight_decay"]
        for o in optimizer.each
        for group in o.param_groups
        for p in group["params"]
    }
    assert len(decays) == len(list(net.parameters()))
    assert {decays[id(p)] for p in net.parameters() if p.ndim >= 2} == {0.3}
    assert {decays[id(p)] for p in net.parameters() if p.ndim < 2} == {0.0}
    assert {group["betas"] for group in optimizer.each[0].param_groups} == {(0.8, 0.9)}
    assert {group["lr"] for o in optimizer.each for group in o.param_groups} == {1e-3}
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer.step(0.5)  # without gradients only decay is left: p · (1 − rate · decay)
    for p, q in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(p, q * (1 - 0.5 * 0.3) if p.ndim >= 2 else q)


class Masks:
    """A task that notes which random numbers each step drew."""

    def __init__(self):
        self.module, self.drawn = nn.Linear(1, 1), []

    def batch(self, step):
        return torch.ones(1, 1)

    def loss(self, batch):
        self.drawn.append(torch.rand(4).tolist())
        return self.module(batch).sum(), {}


def test_every_step_and_every_seed_draws_random_numbers_of_its_own(tmp_path):
    drawn = {}
    for seed in (0, 1):
        task = Masks()
        fit(task, TrainConfig(steps=5, seed=seed), tmp_path / str(seed))
        drawn[seed] = task.drawn
    everything = [tuple(numbers) for numbers in drawn[0] + drawn[1]]
    assert len(set(everything)) == 10
    again = Masks()
    fit(again, TrainConfig(steps=5, seed=1), tmp_path / "again")
    assert again.drawn == drawn[1]


def test_minutes_that_were_spent_count_after_a_resume(tmp_path, monkeypatch):
    """Each step takes a minute by the clock that is put in its place: five minutes are five steps,
    over two sittings."""
    clock = {"now": 0.0}
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock["now"])

    class Minute(Masks):
        stop_after = 2

        def loss(self, batch):
            clock["now"] += 60.0
            if len(self.drawn) + 1 == self.stop_after:
                loop.signal.raise_signal(loop.signal.SIGINT)
            return super().loss(batch)

    with pytest.raises(KeyboardInterrupt):
        fit(Minute(), TrainConfig(minutes=5, log_every=1), tmp_path)
    rest = Minute()
    rest.stop_after = None
    fit(rest, TrainConfig(minutes=5, log_every=1), tmp_path)
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5] and len(rest.drawn) == 3
    assert [line["seconds"] for line in lines] == [60.0, 120.0, 180.0, 240.0, 300.0]


def test_a_checkpoint_gives_back_weights_optimizer_step_and_seconds(tmp_path):
    net = small_net()
    optimizer = Optimizers(net, True, 1e-2, 0.1, (0.9, 0.95))
    for _ in range(3):
        take(net, net(torch.ones(2, 6)).square().sum(), optimizer, 1e-2, 1.0)
    state.store(tmp_path / "run", net, optimizer, state.Position(3, 6, 12.5, 2))
    other = small_net(1)
    fresh = Optimizers(other, True, 1e-2, 0.1, (0.9, 0.95))
    assert state.restore(tmp_path / "missing", other, fresh) == (0, 0, 0.0, 0)
    assert state.restore(tmp_path / "run", other, fresh) == (3, 6, 12.5, 2)
    for n, o in (
        (net, optimizer),
        (other, fresh),
    ):  # one more step is the same, so the moments came back too
        take(n, n(torch.ones(2, 6)).square().sum(), o, 1e-2, 1.0)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_checkpoints_are_written_while_the_run_goes_on(tmp_path, monkeypatch):
    clock, stored = {"now": 0.0}, []
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(
        loop.state, "write", lambda out, tensors, position, group: stored.append(position)
    )

    class Ten(Masks):
        def loss(self, batch):
            clock["now"] += 10.0
            return super().loss(batch)

    fit(Ten(), TrainConfig(steps=10, checkpoint_seconds=35.0), tmp_path)
    assert stored == [(4, 4, 40.0, 0), (8, 8, 80.0, 0), (10, 10, 100.0, 0)]


def test_the_rate_is_warm_up_then_flat_then_one_minus_the_root():
    config = TrainConfig(steps=100, learning_rate=0.4, warmup_steps=4, decay=0.5)
    assert lr_at(0, 0.0, config) == pytest.approx(0.4 / 5)
    assert lr_at(4, 0.04, config) == pytest.approx(0.4)
    assert lr_at(60, 0.625, config) == pytest.approx(0.4 * (1 - math.sqrt(0.25)))
    assert lr_at(60, 0.99, config.replace(decay=0.0)) == pytest.approx(0.4)


def test_metrics_are_means_over_the_steps_since_the_last_line(tmp_path):
    class Counting(Masks):
        def loss(self, batch):
            loss, _ = super().loss(batch)
            return loss, {"count": float(len(self.drawn))}

    task = Counting()
    fit(task, TrainConfig(steps=6, log_every=3), tmp_path)
    assert [line["count"] for line in read_metrics(tmp_path)] == [2.0, 5.0]
    assert not task.module.training


def test_what_a_task_counts_in_a_step_is_applied_after_the_optimizer(tmp_path):
    """Counting lasts through the backward pass, and what was counted is applied once, when the
    weights have moved."""
    events = []

    class Counts(Masks):
        @contextmanager
        def watching(self):
            events.append("begin")
            self.module.weight.register_hook(lambda gradient: events.append("backward") or gradient)
            yield
            events.append("end")

        def loss(self, batch):
            self.before = self.module.weight.detach().clone()
            return super().loss(batch)

        def after_step(self, norm):
            assert float(norm) > 0
            events.append(
                "applied" if not torch.equal(self.module.weight, self.before) else "too early"
            )

    fit(Counts(), TrainConfig(steps=1, warmup_steps=0, decay=0.0), tmp_path)
    assert events == ["begin", "backward", "end", "applied"]


class Uneven:
    """Batches of different size and weight: a loss per row, summed, as an objective of packed rows
    has."""

    def __init__(self, rows_per_batch, ranks=1, rank=0):
        self.module, self.rows, self.ranks, self.rank = (
            small_net().double(),
            rows_per_batch,
            ranks,
            rank,
        )

    def batch(self, step):
        """Rows number step · rows … of one stream; a rank of several reads each batch that is its
        turn."""
        step = step * self.ranks + self.rank
        rows = range(step * self.rows, (step + 1) * self.rows)
        return torch.stack(
            [torch.randn(6, generator=torch.Generator().manual_seed(k)).double() for k in rows]
        ), torch.tensor([0.1 + (k * 7 % 5) for k in rows], dtype=torch.float64)

    def weight(self, batch):
        return batch[1].sum()

    def loss(self, batch):
        rows, weights = batch
        parts = LossParts((self.module(rows)[:, 0].square() * weights).sum(), weights.sum())
        return parts, {
            "loss": LossParts(parts.sum.detach(), parts.weight),
            "tokens": float(len(rows)),
            "told": 1.0,
        }


def test_micro_batches_of_uneven_weight_are_one_batch(tmp_path):
    """Four rows at once, as two and two, and one by one: the same weights after three steps, to
    1e-12."""
    weights = []
    for rows, micro_batches in ((4, 1), (2, 2), (1, 4)):
        task = Uneven(rows)
        fit(
            task,
            TrainConfig(steps=3, micro_batches=micro_batches, clip=0.3, log_every=1),
            tmp_path / f"{rows}",
        )
        weights.append([p.detach().clone() for p in task.module.parameters()])
        lines = read_metrics(tmp_path / f"{rows}")
        assert all(line["tokens"] == 4 and line["told"] == 1 for line in lines)
        losses = [line["loss"] for line in lines]
        assert losses == pytest.approx(
            [line["loss"] for line in read_metrics(tmp_path / "4")], abs=1e-6
        )
    for other in weights[1:]:
        for p, q in zip(weights[0], other, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def unfused(optimizer):
    """Put PyTorch's AdamW of many small operators in the place of the fused one."""
    groups = [
        {"params": g["params"], "weight_decay": g["weight_decay"]}
        for g in optimizer.each[0].param_groups
    ]
    optimizer.each[0] = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.9), fused=False)
    optimizer.fused = None
    return optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_update_is_that_of_pytorchs_clipping_and_unfused_adamw(dtype):
    """The fused kernel divides in its own pass; its divisor has 32 bits, so gradients of 64 bits are
    clipped before it."""
    ours, theirs = small_net().to(dtype), small_net().to(dtype)
    own = Optimizers(ours, False, 1e-2, 0.3, (0.8, 0.9))
    other = unfused(Optimizers(theirs, False, 1e-2, 0.3, (0.8, 0.9)))
    draw = torch.Generator().manual_seed(4)
    for size in (3.0, 0.001, 0.7):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = size * torch.randn(p.shape, generator=draw, dtype=torch.float64).to(dtype)
            q.grad = p.grad.clone()
        norm = update_weights(ours, own, 1e-2, 0.5)
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        other.step(1e-2)
        torch.testing.assert_close(norm, expected)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12 if dtype is torch.float64 else 1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_changes_neither_weights_nor_moments(bad):
    net = small_net()
    optimizer = Optimizers(net, False, 1e-2, 0.3, (0.8, 0.9))
    take(net, net(torch.ones(2, 6)).square().sum(), optimizer, 1e-2, 1.0)
    tensors = [*net.parameters(), *optimizer.state_tensors(net).values()]
    before = [t.detach().clone() for t in tensors]
    take(net, net(torch.ones(2, 6)).sum() * bad, optimizer, 1e-2, 1.0)
    assert all(torch.equal(t, u) for t, u in zip(tensors, before, strict=True))


@pytest.mark.parametrize("muon", [False, True])
def test_an_update_that_is_skipped_without_a_look_changes_nothing(muon):
    """What a GPU does with a gradient that is not finite: the kernels are told, nobody waits for
    the value."""
    net, plain = small_net(), small_net()
    optimizer = Optimizers(net, muon, 1e-2, 0.3, (0.8, 0.9))
    other = unfused(Optimizers(plain, muon, 1e-2, 0.3, (0.8, 0.9)))
    for value, skip in ((1.0, False), (math.nan, True), (2.0, False)):
        for module in (net, plain) if not skip else (net,):
            for p in module.parameters():
                p.grad = torch.full_like(p, value)
        before = [p.detach().clone() for p in net.parameters()]
        optimizer.step(1e-2, skip=torch.tensor(skip))
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)) == skip
        if not skip:
            other.step(1e-2)
    for p, q in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_state_of_another_machine_goes_on_with_this_ones_kernels():
    """A state that says "not fused" goes on fused all the same, and skips."""
    net, there = small_net(), small_net()
    written = unfused(Optimizers(net, False, 1e-2, 0.3, (0.8, 0.9)))
    take(net, net(torch.ones(2, 6)).square().sum(), written, 1e-2, 1.0)
    optimizer = Optimizers(there, False, 1e-2, 0.3, (0.8, 0.9))
    for name, tensor in written.state_tensors(net).items():
        optimizer.state_tensors(there)[name].copy_(tensor)
    for p in there.parameters():
        p.grad = torch.full_like(p, math.nan)
    before = [p.detach().clone() for p in there.parameters()]
    optimizer.step(1e-2, skip=torch.tensor(True))
    assert all(torch.equal(p, q) for p, q in zip(there.parameters(), before, strict=True))


def test_every_micro_batch_draws_random_numbers_of_its_own(tmp_path):
    """Those that it would draw as a step of its own: how batches are put together changes no
    dropout."""
    drawn = []
    for steps, micro_batches in ((6, 1), (3, 2)):
        task = Masks()
        fit(
            task,
            TrainConfig(steps=steps, micro_batches=micro_batches),
            tmp_path / str(micro_batches),
        )
        drawn.append(task.drawn)
    assert drawn[0] == drawn[1] and len({tuple(numbers) for numbers in drawn[0]}) == 6
