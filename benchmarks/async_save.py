"""Measures what a state costs that is written while training goes on: `python
benchmarks/async_save.py [INTERVAL_SECONDS] [PAIRS]` writes benchmarks/results/async_save.json.

One process trains a llama of 51M parameters on the CPU in stretches of as many steps as take about
an interval. Every second stretch begins with a state that is copied and then written, as the
training loop does (`onnuri/training/saver.py`), so machine and weights are the same for both. Each
stretch is compared with the mean of those before and after it, by the clock and, since others may
use the machine too, by the processor time of the whole process. Also noted: the time for which the
copy stops training, and that of a state for which training waits.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from onnuri.data.loader import BatchRamp, RowLoader
from onnuri.evaluation.machine import machine
from onnuri.model.backbone import build_hf_model
from onnuri.model.objective import RowObjective
from onnuri.parallel.model import ParallelModel
from onnuri.training import state
from onnuri.training.loop import TrainConfig, train_step
from onnuri.training.optim import Optimizers
from onnuri.training.saver import Saver
from onnuri.training.verify import RandomRows

RESULT = Path(__file__).parent / "results/async_save.json"
LLAMA = {
    "vocab_size": 16384,
    "hidden_size": 512,
    "num_hidden_layers": 11,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 1408,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
TOKENS = 128
LOOP_SECONDS = TrainConfig().checkpoint_seconds


class Training:
    """A Training takes steps of the benchmark's model."""

    def __init__(self) -> None:
        """Build the model, its optimizer and its rows."""
        torch.manual_seed(0)
        self.module = build_hf_model("llama", LLAMA)
        rows = RandomRows(LLAMA["vocab_size"], TOKENS)
        self.objective = RowObjective(self.module, rows)
        self.config = TrainConfig(steps=10**6)
        self.model = ParallelModel(self.module, self.objective.loss)
        self.optimizer = Optimizers(self.module, False, 1e-4, 0.1, (0.9, 0.95))
        self.loader = RowLoader(rows, BatchRamp(rows=1))
        self.module.train()

    def steps(self, count: int) -> float:
        """Take some steps and return the seconds they took."""
        start = time.perf_counter()
        for _ in range(count):
            train_step(self.objective, self.model, self.loader, self.optimizer, self.config, 1e-4)
        return time.perf_counter() - start


class Stretch(NamedTuple):
    """A Stretch holds the seconds of some steps, by the clock and of all processors, and of the copy
    before them if there was one."""

    seconds: float
    processor_seconds: float
    copy_seconds: float | None


def slowdowns(seconds: list[float]) -> list[float]:
    """Return by how many percent each second stretch took longer than the mean of its neighbours."""
    return [
        round(100 * (seconds[k] / statistics.mean([seconds[k - 1], seconds[k + 1]]) - 1), 2)
        for k in range(1, len(seconds), 2)
    ]


def measure(interval_seconds: float, pairs: int) -> dict[str, object]:
    """Return the figures of some pairs of stretches, and one stretch more without a state."""
    training = Training()
    training.steps(30)  # the first ones take several times as long
    step_seconds = min(training.steps(1) for _ in range(8))
    count = max(2, round(interval_seconds / step_seconds))
    stretches: list[Stretch] = []
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), training.module, training.optimizer)
        for k in range(2 * pairs + 1):
            copy_seconds = None
            start, processor_start = time.perf_counter(), time.process_time()
            if k % 2:
                saver.save(state.Position(k))
                copy_seconds = time.perf_counter() - start
            training.steps(count)
            saver.wait()  # it has long been written: nothing of it may reach the next stretch
            seconds = time.perf_counter() - start
            processor_seconds = time.process_time() - processor_start
            stretches.append(Stretch(seconds, processor_seconds, copy_seconds))
            print(stretches[-1], file=sys.stderr, flush=True)
        start = time.perf_counter()
        saver.finish(state.Position(10**6))
        waiting_seconds = time.perf_counter() - start
        newest = state.latest(Path(folder))
        assert newest is not None
        size = sum(file.stat().st_size for file in newest.iterdir())
    pairs_seconds = zip(stretches[1::2], stretches[:-1:2], stretches[2::2], strict=True)
    per_state = statistics.median(
        own.seconds - (before.seconds + after.seconds) / 2 for own, before, after in pairs_seconds
    )
    by_clock = slowdowns([each.seconds for each in stretches])
    by_processor = slowdowns([each.processor_seconds for each in stretches])
    copies = [each.copy_seconds for each in stretches if each.copy_seconds is not None]
    return {
        "machine": machine(),
        "parameters": sum(p.numel() for p in training.module.parameters()),
        "state_bytes": size,
        "steps_per_stretch": count,
        "seconds_without": [round(each.seconds, 3) for each in stretches[::2]],
        "seconds_with": [round(each.seconds, 3) for each in stretches[1::2]],
        "interval_seconds": round(statistics.median(each.seconds for each in stretches[::2]), 1),
        "seconds_per_state": round(per_state, 2),
        "percent_of_the_loops_interval": round(100 * per_state / LOOP_SECONDS, 2),
        "slowdown_percent": statistics.median(by_clock),
        "slowdown_percent_of_each": by_clock,
        "processor_percent": statistics.median(by_processor),
        "processor_percent_of_each": by_processor,
        "copy_seconds": round(statistics.median(copies), 3),
        "seconds_when_training_waits": round(waiting_seconds, 3),
    }


def main() -> None:
    """Measure, print and write the result."""
    interval_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    result = measure(interval_seconds, pairs)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
