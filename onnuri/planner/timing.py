"""Time many layouts of one model fast: what layouts share is counted once, then `step_time.seconds`
adds it up.

Knows no formula of its own: `step_work.copy_work` is kept for one copy of the model,
`step_work.data_parallel_work` for the data ranks, and both are the very functions that `step_time`
calls. A test holds the sums against `moe_imbalance.real_step`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from onnuri.planner import constants
from onnuri.planner.architecture import Architecture
from onnuri.planner.hardware import Cluster
from onnuri.planner.job import Job
from onnuri.planner.memory import memory
from onnuri.planner.moe_imbalance import slowdown
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.step_time import Rates, rates, seconds
from onnuri.planner.step_work import Work, copy_work, data_parallel_work, schedule

MANY = 64
"""micro-batches with which a copy of the model that stands alone is bounded, so that one count
serves many batches"""
Key = tuple[object, ...]


class Pace(NamedTuple):
    """The time of one copy's pipeline, before data ranks talk."""

    seconds: float
    """per micro-batch on one rank, on a cluster so small that its size costs nothing"""
    bubble: float
    """micro-batches' worth of waiting per step"""


class Timer:
    """Times layouts of one model in sequences of one length on one kind of GPU, and keeps what it
    counted."""

    def __init__(
        self, a: Architecture, cluster: Cluster, tokens: int, software_year: float | None = None
    ) -> None:
        self.a, self.tokens, self.software_year, self.one = (
            a,
            tokens,
            software_year,
            cluster.replace(gpus=1),
        )
        self._merged = a.merged()
        self.slowdown = slowdown(a)
        self._clusters: dict[int, Cluster] = {}
        self._copy_works: dict[Key, dict[str, float]] = {}
        self._data_works: dict[Key, dict[str, float]] = {}
        self._rates: dict[Key, Rates] = {}
        self._paces: dict[Key, Pace] = {}
        self._crowd: dict[int, float] = {}
        self._alone: dict[Key, float] = {}
        self._bytes: dict[Key, float] = {}
        self.calls = 0
        """layouts timed, for tests and reports: work is counted, not seconds"""

    def job(self, layout: ParallelConfig, batch_tokens: int) -> Job:
        """Return the job that trains the timer's model in a layout, on exactly as many GPUs as the
        layout takes."""
        return self._job(layout, batch_tokens, self.a)

    def _job(self, layout: ParallelConfig, batch_tokens: int, a: Architecture) -> Job:
        """Return the job that trains architecture `a` in a layout, on exactly as many GPUs as the
        layout takes."""
        gpus = layout.gpus
        cluster = self._clusters.get(gpus)
        if cluster is None:
            cluster = self._clusters[gpus] = self.one.replace(gpus=gpus)
        return Job(
            architecture=a,
            layout=layout,
            cluster=cluster,
            tokens=self.tokens,
            batch_tokens=batch_tokens,
            software_year=self.software_year,
        )

    @functools.cached_property
    def bare(self) -> Timer:
        """Return a timer of the layers alone, without embedding and head."""
        return Timer(self.a.replace(vocabulary=0), self.one, self.tokens, self.software_year)

    def pace(self, layout: ParallelConfig) -> Pace:
        """Return the pace of one copy of the model in a layout: less than what it takes with any
        number of data ranks, however they share weights."""
        key = self._copy_key(layout)
        if key not in self._paces:
            job = self._job(layout, self.tokens * layout.dp * layout.micro_batch, self._merged)
            parts, _ = seconds(
                Work(**self._copy_work_of(job)), self._rates_of(job, 1), constants.values()
            )
            self._paces[key] = Pace(sum(parts.values()) * self.slowdown, schedule(job)["bubble"])
        return self._paces[key]

    def crowd(self, gpus: int) -> float:
        """Return the factor by which a step takes longer than on one GPU because the cluster is so
        large."""
        if gpus not in self._crowd:
            job, c = self.job(ParallelConfig(dp=gpus), self.tokens * gpus), constants.values()
            one, many = (
                sum(seconds(Work(elementwise_bytes=1e9), self._rates_of(job, n), c)[0].values())
                for n in (1, gpus)
            )
            self._crowd[gpus] = many / one
        return self._crowd[gpus]

    def parts(self, layout: ParallelConfig, batch_tokens: int) -> dict[str, float]:
        """Return the seconds of a step by part, with a balanced router."""
        self.calls += 1
        job = self._job(layout, batch_tokens, self._merged)
        key = (
            layout.pp,
            layout.tp,
            layout.cp,
            layout.ep,
            layout.precision,
            layout.virtual_stages,
            layout.sharding,
            layout.shard,
            layout.dp,
        )
        if key not in self._data_works:
            self._data_works[key] = data_parallel_work(job)
        w = Work(**self._copy_work_of(job), **self._data_works[key], **schedule(job))
        return seconds(w, self._rates_of(job, layout.gpus), constants.values())[0]

    def seconds(self, layout: ParallelConfig, batch_tokens: int) -> float:
        """Return the seconds of a step in all, as `moe_imbalance.real_step` says them, up to
        rounding."""
        return sum(self.parts(layout, batch_tokens).values()) * self.slowdown

    def copy_seconds(self, layout: ParallelConfig, batch_tokens: int) -> float:
        """Return the seconds of a step if one copy of a `hsdp` layout stood alone: less than with
        others, whose gradients it must add."""
        alone = layout.replace(dp=layout.shards, sharding="fsdp", shard=None)
        passes = batch_tokens // (self.tokens * layout.dp * layout.micro_batch)
        many = (
            max(passes, MANY) if layout.pp == 1 else passes
        )  # what a step takes once weighs less in more of them
        key = (*self._copy_key(alone), layout.shards, many)
        if key not in self._alone:
            self._alone[key] = self.seconds(
                alone, self.tokens * alone.dp * alone.micro_batch * many
            )
        return self._alone[key] * passes / many * self.crowd(layout.gpus) / self.crowd(alone.gpus)

    def room(self, layout: ParallelConfig, batch_tokens: int) -> float:
        """Return the bytes that a GPU needs at most, with a probability of 90 %."""
        job = self.job(layout, batch_tokens)
        dp = (
            0 if layout.sharding in ("ddp", "hsdp") else layout.dp
        )  # copies beyond the shards change nothing
        key = (
            *self._copy_key(layout),
            layout.sharding,
            layout.shard,
            dp,
            min(job.micro_batches, _warmup(layout)),
        )
        if key not in self._bytes:
            self._bytes[key] = memory(job).high
        return self._bytes[key]

    def _copy_key(self, layout: ParallelConfig) -> Key:
        """Return the key of all that the cost of one copy of the model depends on."""
        near = (
            layout.pp > 1 and layout.gpus <= self.one.kind.domain
        )  # a pipeline inside one domain of fast links
        return (
            layout.pp,
            layout.tp,
            layout.cp,
            layout.ep,
            layout.precision,
            layout.virtual_stages,
            layout.micro_batch,
            layout.recompute,
            layout.engine.name,
            near,
        )

    def _copy_work_of(self, job: Job) -> dict[str, float]:
        """Return the fields of `Work` of one copy of the model, counted once per key."""
        key = self._copy_key(job.layout)
        if key not in self._copy_works:
            self._copy_works[key] = copy_work(job)
        return self._copy_works[key]

    def _rates_of(self, job: Job, gpus: int) -> Rates:
        """Return the rates of a job on so many GPUs, computed once per precision and engine."""
        key = (gpus, job.layout.precision, job.layout.engine.name)
        if key not in self._rates:
            self._rates[key] = rates(job.replace(cluster=self.one.replace(gpus=gpus)))
        return self._rates[key]


def _warmup(layout: ParallelConfig) -> int:
    """Return the number of micro-batches beyond which no pipeline rank holds more at once
    (`pipeline_stages.in_flight`), at least 2."""
    return max(2, 2 * (layout.pp - 1) + (layout.virtual_stages - 1) * layout.pp + 1)
