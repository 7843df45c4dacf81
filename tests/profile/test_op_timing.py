"""Speeds of a machine from what was timed, where every timing takes as long as it is told to."""

import pytest
import torch
from torch import nn

from onnuri.profile import op_timing
from onnuri.training.optim import Optimizers


@pytest.fixture
def each_takes_half_a_second(monkeypatch):
    """Every work is done once and said to take 0.5 seconds."""
    done = []
    monkeypatch.setattr(op_timing, "shortest_seconds", lambda work: done.append(work()) or 0.5)
    return done


def test_a_copy_reads_and_writes_every_byte(each_takes_half_a_second, monkeypatch):
    monkeypatch.setattr(op_timing, "COPY_BYTES", 4000)
    assert op_timing.copy_bytes_per_second() == 2 * 4000 / 0.5
    (target,) = each_takes_half_a_second
    assert target.nbytes == 4000


def test_a_product_is_timed_with_both_its_gradients(each_takes_half_a_second):
    assert op_timing.product_seconds(3, 5, 7) == 0.5
    forward, to_input, to_weights = each_takes_half_a_second[0]
    assert (forward.shape, to_input.shape, to_weights.shape) == ((3, 5), (3, 7), (5, 7))


def test_many_matrices_of_one_shape_take_as_much_longer_as_they_are_more(each_takes_half_a_second):
    many, few = (
        nn.ModuleList([nn.LayerNorm(4), *(nn.Linear(4, 4, bias=False) for _ in range(n))])
        for n in (3 * op_timing.MUON_SAMPLE, 1)
    )
    seconds = [
        op_timing.muon_seconds(Optimizers(m, True, 1e-3, 0.1, (0.9, 0.95))) for m in (many, few)
    ]
    assert seconds == [pytest.approx(3 * 0.5), pytest.approx(0.5)]


def test_every_expert_of_a_stacked_parameter_is_a_matrix_of_its_own(each_takes_half_a_second):
    """Experts stand in one parameter [experts, outputs, inputs], and each is orthogonalised."""
    module = nn.Module()
    module.norm, module.experts = (
        nn.LayerNorm(4),
        nn.Parameter(torch.randn(3 * op_timing.MUON_SAMPLE, 4, 6)),
    )
    seconds = op_timing.muon_seconds(Optimizers(module, True, 1e-3, 0.1, (0.9, 0.95)))
    assert seconds == pytest.approx(3 * 0.5)
    (timed,) = each_takes_half_a_second
    assert timed.shape == (op_timing.MUON_SAMPLE, 4, 6)


def test_the_quickest_of_several_tries_counts(monkeypatch):
    times = iter([0.0, 0.2, 1.0, 1.1, 2.0, 2.3])
    monkeypatch.setattr(op_timing.time, "perf_counter", lambda: next(times))
    tries = []
    assert op_timing.shortest_seconds(
        lambda: tries.append(torch.ones(1)), least=3, seconds=0.0
    ) == pytest.approx(0.1)
    assert len(tries) == 3
