"""This module measures how fast a training run is, what it waits for and how much memory it takes.

    meter = RunMeter(objective, config, out, step, dtype)    # times a large product, once
    with meter.saving(): ...                                 # counts as time of saves
    meter.read()                                             # this rank's figures since last time

It reads host clocks and counters only, and those of the system only where a line is written, so a
step that is not logged costs nothing and no device is waited for. It knows no modality.

    out/sittings.jsonl    one line per sitting, after its first step (`Sitting`)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.model.backbone import compute_device
from onnuri.parallel import launch
from onnuri.planner import stock
from onnuri.planner.architecture import Architecture
from onnuri.resident import resident_bytes, status_bytes

if TYPE_CHECKING:
    from onnuri.training.loop import TrainConfig

SITTINGS = "sittings.jsonl"
GPU_SIZE, CPU_SIZE = 8192, 1024
"""rows and columns of the timed product: 1.1 TFLOP, as `benchmarks/gpu.py` times it, and 2 GFLOP"""
GPU_CALLS, CPU_CALLS = 5, 1
"""products per timing, in a row, so that a GPU's host is not what is timed"""
TIMINGS = 5
"""timings of the product; the shortest counts, because other processes only add time"""


@runtime_checkable
class HasSequences(Protocol):
    """An objective implements this if its batches are sequences of a language model."""

    def sequence_lengths(self, batch: Any) -> Tensor:
        """Return the tokens of each sequence [sequences] of a batch, on the host."""


class Sitting(Config):
    """A Sitting says how a run went on from a step: once at its start, and after each restart."""

    time: float
    """Unix time in seconds"""
    step: int
    """number of steps that earlier sittings have done"""
    steps: int | None
    minutes: float | None
    """the budget: steps, or minutes of training"""
    log_every: int
    device: str
    """name of the first rank's GPU, or "cpu" """
    ranks: int
    flops_per_token: float | None
    """FLOPs of forward and backward pass per token as the planner counts them; None for a model
    that is no language model, or of a family that the planner does not know"""
    product_flops_per_second: float | None
    """FLOPs per second of a large product on one device; None where no FLOPs are known"""
    first_step_seconds: float
    """seconds of the sitting's first step, with compilation"""


class RunMeter:
    """A RunMeter measures one sitting of a run in one rank."""

    def __init__(
        self,
        objective: Any,
        config: TrainConfig,
        out: Path,
        step: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Time a large product in the first rank, if the model's FLOPs can be counted.

        `step` is the number of steps that are done, `dtype` that of the model's products. On a GPU
        the peak of its memory is counted from here on.
        """
        self.config, self.out, self.step = config, out, step
        self.device = compute_device(objective.module)
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        self.objective = objective
        self.architecture = architecture_of(objective) if launch.is_first() else None
        self.flops_per_token: float | None = None
        self.product: float | None = None
        if self.architecture:
            self.product = product_flops_per_second(
                self.device, dtype or _product_dtype(objective.module, self.device)
            )
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.begun, self.save_seconds = False, 0.0
        self.read_at, self.core_waited = time.perf_counter(), core_wait_seconds()

    def count_flops(self, batch: Any) -> None:
        """Count the FLOPs of forward and backward pass per token in sequences as long as those of
        the sitting's first batch; later batches are not looked at."""
        if self.begun or not self.architecture:
            return
        lengths = self.objective.sequence_lengths(batch).double()
        if len(lengths):
            # mean over tokens of the length of the sequence that a token is in, which attention is
            # of
            mean = round(float(lengths.square().sum() / lengths.sum()))
            self.flops_per_token = self.architecture.flops_per_token(mean)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Count the seconds of a `with` block as spent in saves."""
        start = time.perf_counter()
        yield
        self.save_seconds += time.perf_counter() - start

    def add_step(self, seconds: float) -> None:
        """Note a step's seconds on the host; the first step of a sitting begins its record."""
        if self.begun or not launch.is_first():
            return
        self.begun = True
        gpu = self.device.type == "cuda"
        sitting = Sitting(
            time=round(time.time(), 3),
            step=self.step,
            steps=self.config.steps,
            minutes=self.config.minutes,
            log_every=self.config.log_every,
            device=torch.cuda.get_device_name(self.device) if gpu else "cpu",
            ranks=self.ranks,
            flops_per_token=self.flops_per_token,
            product_flops_per_second=self.product,
            first_step_seconds=round(seconds, 6),
        )
        with (self.out / SITTINGS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(sitting.to_json()) + "\n")

    def read(self) -> dict[str, float]:
        """Return this rank's figures since the last reading: peak_bytes (of the whole sitting), and
        where there are any core_wait_share, save_seconds, alloc_retries and swapped_bytes."""
        now, waited = time.perf_counter(), core_wait_seconds()
        figures: dict[str, float] = {"peak_bytes": peak_bytes(self.device)}
        if waited is not None and self.core_waited is not None and now > self.read_at:
            figures["core_wait_share"] = (waited - self.core_waited) / (now - self.read_at)
        optional = {"save_seconds": self.save_seconds, "swapped_bytes": status_bytes("VmSwap") or 0}
        if self.device.type == "cuda":  # a count of the host's: the device is not asked
            retries = torch.cuda.memory_stats(self.device).get("num_alloc_retries", 0)
            optional["alloc_retries"] = retries
        self.read_at, self.core_waited, self.save_seconds = now, waited, 0.0
        return figures | {name: value for name, value in optional.items() if value}

    def speed(self, tokens_per_second: float) -> dict[str, float]:
        """Return tflops_per_second, of the model's FLOPs over all ranks, and mfu, their share of
        what all ranks' devices would do in large products; nothing where no FLOPs are known."""
        if not self.flops_per_token or not self.product:
            return {}
        flops_per_second = self.flops_per_token * tokens_per_second
        return {
            "tflops_per_second": flops_per_second / 1e12,
            "mfu": flops_per_second / (self.product * self.ranks),
        }


def architecture_of(objective: Any) -> Architecture | None:
    """Return the planner's description of an objective's language model; None for anything that the
    planner does not know."""
    config = getattr(objective.module, "config", None)
    if not isinstance(objective, HasSequences) or not hasattr(config, "model_type"):
        return None
    try:
        return stock.from_config(config)
    except ConfigError:  # a family of transformers that the planner has no counts of
        return None


def product_flops_per_second(device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the FLOPs per second of a large square matrix product on a device, timed for a
    fraction of a second; None if a clock says that it took no time."""
    on_gpu = device.type == "cuda"
    size, calls = (GPU_SIZE, GPU_CALLS) if on_gpu else (CPU_SIZE, CPU_CALLS)
    # random numbers, because a GPU multiplies zeros faster; of a generator of their own, because
    # the training's random state must stay as it is
    draw = torch.Generator(device).manual_seed(0)
    shape = (size, size)
    left = torch.randn(shape, generator=draw, device=device, dtype=dtype)
    right = torch.randn(shape, generator=draw, device=device, dtype=dtype)
    times = []
    for _ in range(TIMINGS + 1):  # the first one warms up
        if on_gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            left @ right
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    shortest = min(times[1:])
    return 2 * size**3 * calls / shortest if shortest > 0 else None


def _product_dtype(module: nn.Module, device: torch.device) -> torch.dtype:
    """Return the type of a model's matrix products where the loop was told none: on a GPU
    objectives multiply in bf16 themselves (`finetune.py`), elsewhere weights are as they are."""
    return torch.bfloat16 if device.type == "cuda" else next(module.parameters()).dtype


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes allocated on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident_bytes("VmHWM")


def core_wait_seconds() -> float | None:
    """Return the seconds that this thread was ready to run and had no core since it began, None
    where the system does not count them.

    It is the second figure of Linux's schedstat, in nanoseconds (Documentation/scheduler).
    """
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/thread-self/schedstat").read_text(encoding="ascii")
        return int(text.split()[1]) / 1e9
    return None
