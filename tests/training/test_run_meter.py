"""Speed, waits and memory of a run: FLOPs against a count by hand, seconds on a clock in its place."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from onnuri.data.pack import pack
from onnuri.model.backbone import BackboneConfig
from onnuri.model.objective import RowObjective
from onnuri.training import loop, metrics, run_meter
from onnuri.training.loop import TrainConfig, fit, read_metrics
from onnuri.training.run_meter import RunMeter, Sitting

WIDTH, LAYERS, HIDDEN, VOCABULARY = 32, 2, 48, 64
LENGTHS = (20, 10)


class Rows:
    """Rows of two sequences of 20 and 10 ids, and two of padding."""

    def row(self, index):
        rng, lengths = np.random.default_rng(index), list(LENGTHS)

        def draw():
            n = lengths.pop(0) if lengths else 99
            return rng.integers(1, VOCABULARY, n).tolist(), [1.0] * n, [0] * n

        return pack(draw, 32, 0)


def language_model():
    network = BackboneConfig(
        vocabulary=VOCABULARY, width=WIDTH, layers=LAYERS, heads=2, hidden=HIDDEN
    ).build()
    return RowObjective(network, Rows())


class Waiting:
    """A task whose batches take 3 s, losses 1 s, and stores 7 s, by a clock in the place of time's."""

    def __init__(self, monkeypatch):
        self.module, self.now = nn.Linear(1, 1), 0.0
        monkeypatch.setattr(loop.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(loop.Saver, "save", lambda *_: self.spend(7.0))

    def spend(self, seconds):
        self.now += seconds

    def batch(self, step):
        self.spend(3.0)
        return torch.ones(1, 1)

    def loss(self, batch):
        self.spend(1.0)
        return self.module(batch).sum(), {}


def sittings(out):
    lines = (out / "sittings.jsonl").read_text().splitlines()
    return [Sitting.from_json(json.loads(line)) for line in lines]


def test_speed_is_model_flops_over_those_of_a_large_product(tmp_path, monkeypatch):
    monkeypatch.setattr(run_meter, "product_flops_per_second", lambda device, dtype: 5e10)
    task = language_model()
    fit(task, TrainConfig(steps=4, log_every=2), tmp_path)
    line, (sitting,) = read_metrics(tmp_path)[-1], sittings(tmp_path)
    # 6 per weight in a product, the head's too; scores and values of a sequence's earlier half
    products = sum(p.numel() for n, p in task.module.named_parameters() if p.ndim == 2)
    if not task.module.config.tie_word_embeddings:
        products -= VOCABULARY * WIDTH
    context = sum(n * n for n in LENGTHS) / sum(LENGTHS)
    attention = 3 * LAYERS * 2 * 2 * WIDTH * round(context) / 2
    assert sitting.flops_per_token == pytest.approx(6 * products + attention, rel=0.02)
    assert line["tokens"] == 30
    assert line["tflops_per_second"] * 1e12 == pytest.approx(
        line["tokens_per_second"] * sitting.flops_per_token, rel=1e-2
    )
    assert line["mfu"] == pytest.approx(line["tflops_per_second"] * 1e12 / 5e10, rel=1e-2)
    assert line["peak_bytes"] > 50e6


def test_the_product_is_timed_without_a_draw_from_trainings_random_numbers():
    before = torch.random.get_rng_state()
    rate = run_meter.product_flops_per_second(torch.device("cpu"), torch.float32)
    assert 1e8 < rate < 1e15 and torch.equal(torch.random.get_rng_state(), before)


def test_what_is_no_language_model_has_no_flops_and_times_no_product(tmp_path, monkeypatch):
    monkeypatch.setattr(run_meter, "product_flops_per_second", lambda *_: 1 / 0)
    fit(Waiting(monkeypatch), TrainConfig(steps=1, log_every=1), tmp_path)
    (line,) = read_metrics(tmp_path)
    assert "mfu" not in line and "tokens_per_second" not in line
    assert sittings(tmp_path)[0].flops_per_token is None


def test_a_family_that_the_planner_does_not_know_has_no_flops():
    task = language_model()
    task.module.config.model_type = "unheard_of"
    task.module.config.to_dict = lambda: {}
    assert run_meter.architecture_of(task) is None


def test_seconds_of_rows_steps_and_saves_are_those_of_the_clock(tmp_path, monkeypatch):
    task = Waiting(monkeypatch)
    fit(task, TrainConfig(steps=6, log_every=2, checkpoint_seconds=11.0), tmp_path)
    lines = read_metrics(tmp_path)
    assert [line["loader_seconds"] for line in lines] == [3.0, 3.0, 3.0]
    assert [line["steps_per_second"] for line in lines] == [0.25] * 3
    # stored after step 3 (12 s), noted in the line of step 4; after the last step no line follows
    assert [line.get("save_seconds") for line in lines] == [None, 7.0, None]
    assert sittings(tmp_path)[0].first_step_seconds == 4.0


def test_counters_are_read_only_where_a_line_is_written(tmp_path, monkeypatch):
    reads, read = [], RunMeter.read
    monkeypatch.setattr(RunMeter, "read", lambda self: reads.append(1) or read(self))
    fit(Waiting(monkeypatch), TrainConfig(steps=9, log_every=3), tmp_path)
    assert len(reads) == 3


def test_every_sitting_is_noted_with_the_step_it_went_on_from(tmp_path):
    task = language_model()
    fit(task, TrainConfig(steps=2, log_every=1), tmp_path)
    fit(task, TrainConfig(steps=2, log_every=1), tmp_path)  # nothing is left to do: no sitting
    fit(task, TrainConfig(steps=5, log_every=1), tmp_path)
    assert [(s.step, s.steps, s.device, s.ranks) for s in sittings(tmp_path)] == [
        (0, 2, "cpu", 1),
        (2, 5, "cpu", 1),
    ]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_a_thread_that_waits_for_a_core_is_counted_as_a_share(tmp_path, monkeypatch):
    task = Waiting(monkeypatch)
    waited = iter([5.0, 6.0, 9.0])
    monkeypatch.setattr(run_meter, "core_wait_seconds", lambda: next(waited))
    fit(task, TrainConfig(steps=2, log_every=1), tmp_path)
    assert [line["core_wait_share"] for line in read_metrics(tmp_path)] == [0.25, 0.75]


def test_a_system_without_the_count_has_no_share(tmp_path, monkeypatch):
    monkeypatch.setattr(run_meter, "core_wait_seconds", lambda: None)
    fit(Waiting(monkeypatch), TrainConfig(steps=1, log_every=1), tmp_path)
    assert "core_wait_share" not in read_metrics(tmp_path)[0]


def test_a_line_has_the_most_of_any_rank_and_the_sum_of_tokens(tmp_path, monkeypatch):
    """A second rank that waits longer and takes more, in the place of the process group."""

    def gather(every, own):
        other = {**own, "/most/loader_seconds": 9.0, "/most/save_seconds": 2.0, "loss": 30.0}
        every[:] = [own, {**other, "/most/peak_bytes": own["/most/peak_bytes"] + 1000}]

    group = SimpleNamespace(
        is_initialized=lambda: True, get_world_size=lambda: 2, all_gather_object=gather
    )
    monkeypatch.setattr(metrics, "dist", group)
    monkeypatch.setattr(run_meter, "peak_bytes", lambda device: 5000)
    meter = RunMeter(language_model(), TrainConfig(steps=3), tmp_path, 0)
    monkeypatch.setattr(meter, "speed", lambda tokens_per_second: {})
    log = metrics.MetricsLog(tmp_path / "metrics.jsonl", 0, data_ranks=2, meter=meter)
    for _ in range(2):
        log.add(0.5, {"loss": 1.0, "tokens": 100.0, "loader_seconds": 0.1})
    log.write(step=2, seconds=1.0)
    (line,) = read_metrics(tmp_path)
    assert (line["loader_seconds"], line["save_seconds"], line["peak_bytes"]) == (9.0, 2.0, 6000)
    assert line["tokens_per_second"] == 400.0 and line["loss"] == 8.0
