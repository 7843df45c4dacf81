"""Measures what a state costs that is written while training goes on: `python
benchmarks/async_save.py [INTERVAL_SECONDS] [PAIRS]` writes benchmarks/results/async_save.json.

One process trains a llama of 51M parameters on the CPU in stretches of as many steps as take about
an interval. Every second stretch begins with a state that is copied and then written, as the
training loop does (`onnuri/training/saver.py`), so machine and weights are the same for both. Each
stretch is compared with the mean of those before and after it. Also noted: the time for which the
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
    """A Stretch holds the seconds of some steps, and of the copy before them if there was one."""

    seconds: float
    copy_seconds: float | None


def measure(interval_seconds: float, pairs: int) -> dict[str, object]:
    """Return the figures of some pairs of stretches, and one stretch more without a state."""
    training = Training()
    training.steps(3)
    step_seconds = training.steps(3) / 3
    count = max(2, round(interval_seconds / step_seconds))
    stretches: list[Stretch] = []
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), training.module, training.optimizer)
        for k in range(2 * pairs + 1):
            copy_seconds = None
            start = time.perf_counter()
            if k % 2:
                saver.save(state.Position(k))
                copy_seconds = time.perf_counter() - start
            training.steps(count)
            stretches.append(Stretch(time.perf_counter() - start, copy_seconds))
            saver.wait()  # it has long been written: nothing of it may reach the next stretch
        start = time.perf_counter()
        saver.finish(state.Position(10**6))
        waiting_seconds = time.perf_counter() - start
        newest = state.latest(Path(folder))
        assert newest is not None
        size = sum(file.stat().st_size for file in newest.iterdir())
    ratios = [
        stretches[k].seconds / statistics.mean([stretches[k - 1].seconds, stretches[k + 1].seconds])
        for k in range(1, 2 * pairs, 2)
    ]
    copies = [each.copy_seconds for each in stretches if each.copy_seconds is not None]
    return {
        "machine": machine(),
        "parameters": sum(p.numel() for p in training.module.parameters()),
        "state_bytes": size,
        "steps_per_stretch": count,
        "seconds_without": [round(each.seconds, 3) for each in stretches[::2]],
        "seconds_with": [round(each.seconds, 3) for each in stretches[1::2]],
        "interval_seconds": round(statistics.median(each.seconds for each in stretches[::2]), 1),
        "slowdown_percent": round(100 * (statistics.median(ratios) - 1), 2),
        "slowdown_percent_of_each": [round(100 * (ratio - 1), 2) for ratio in ratios],
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
