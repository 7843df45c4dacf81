"""The step time of many layouts of one model: what layouts share is counted once, then
`step_time.seconds` adds it up.

Knows no formula of its own: `step_work.copy_work` is kept for one copy of the model, `step_work.data_parallel_work` for the
data ranks, and both are the very functions that `step_time` calls. A test holds the sums against
`moe_imbalance.real_step`.
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
"""micro-batches with which a copy that stands alone is bounded, so that one count serves many
batches"""
Key = tuple[object, ...]


class Pace(NamedTuple):
    """One copy's pipeline, before data ranks talk."""

    seconds: float
    """of a micro-batch on one rank, on a cluster so small that its size costs nothing"""
    bubble: float
    """micro-batches' worth of waiting in a step"""


class Timer:
    """Times layouts of one model in sequences of one length on one kind of GPU."""

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
        self._inside: dict[Key, dict[str, float]] = {}
        self._between: dict[Key, dict[str, float]] = {}
        self._rates: dict[Key, Rates] = {}
        self._paces: dict[Key, Pace] = {}
        self._crowd: dict[int, float] = {}
        self._alone: dict[Key, float] = {}
        self._bytes: dict[Key, float] = {}
        self.calls = 0
        """layouts timed, for tests and reports: work is counted, not seconds"""

    def job(self, layout: ParallelConfig, batch_tokens: int) -> Job:
        """A layout as a job that fills its GPUs."""
        return self._job(layout, batch_tokens, self.a)

    def _job(self, layout: ParallelConfig, batch_tokens: int, a: Architecture) -> Job:
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
        """A timer of the layers alone, without embedding and head."""
        return Timer(self.a.replace(vocabulary=0), self.one, self.tokens, self.software_year)

    def pace(self, layout: ParallelConfig) -> Pace:
        """Of a layout's copy of the model. Less than what any number of data ranks takes, however
        they share weights."""
        key = self._copy(layout)
        if key not in self._paces:
            job = self._job(layout, self.tokens * layout.dp * layout.micro_batch, self._merged)
            parts, _ = seconds(
                Work(**self._inside_of(job)), self._rates_of(job, 1), constants.values()
            )
            self._paces[key] = Pace(sum(parts.values()) * self.slowdown, schedule(job)["bubble"])
        return self._paces[key]

    def crowd(self, gpus: int) -> float:
        """Times a step of one GPU that a step takes because the cluster is so large."""
        if gpus not in self._crowd:
            job, c = self.job(ParallelConfig(dp=gpus), self.tokens * gpus), constants.values()
            one, many = (
                sum(seconds(Work(elementwise_bytes=1e9), self._rates_of(job, n), c)[0].values())
                for n in (1, gpus)
            )
            self._crowd[gpus] = many / one
        return self._crowd[gpus]

    def parts(self, layout: ParallelConfig, batch_tokens: int) -> dict[str, float]:
        """Seconds of a step by part, a balanced router assumed."""
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
        if key not in self._between:
            self._between[key] = data_parallel_work(job)
        w = Work(**self._inside_of(job), **self._between[key], **schedule(job))
        return seconds(w, self._rates_of(job, layout.gpus), constants.values())[0]

    def seconds(self, layout: ParallelConfig, batch_tokens: int) -> float:
        """What `moe_imbalance.real_step` says of a step in all, up to rounding."""
        return sum(self.parts(layout, batch_tokens).values()) * self.slowdown

    def copy_seconds(self, layout: ParallelConfig, batch_tokens: int) -> float:
        """Of a step if one copy of a `hsdp` layout stood alone: less than with others, whose
        gradients it must add."""
        alone = layout.replace(dp=layout.shards, sharding="fsdp", shard=None)
        passes = batch_tokens // (self.tokens * layout.dp * layout.micro_batch)
        many = (
            max(passes, MANY) if layout.pp == 1 else passes
        )  # what a step takes once weighs less in more of them
        key = (*self._copy(alone), layout.shards, many)
        if key not in self._alone:
            self._alone[key] = self.seconds(
                alone, self.tokens * alone.dp * alone.micro_batch * many
            )
        return self._alone[key] * passes / many * self.crowd(layout.gpus) / self.crowd(alone.gpus)

    def room(self, layout: ParallelConfig, batch_tokens: int) -> float:
        """Bytes that a GPU needs at most, with a probability of 90 %."""
        job = self.job(layout, batch_tokens)
        dp = (
            0 if layout.sharding in ("ddp", "hsdp") else layout.dp
        )  # copies beyond the shards change nothing
        key = (
            *self._copy(layout),
            layout.sharding,
            layout.shard,
            dp,
            min(job.micro_batches, _warmup(layout)),
        )
        if key not in self._bytes:
            self._bytes[key] = memory(job).high
        return self._bytes[key]

    def _copy(self, layout: ParallelConfig) -> Key:
        """What the cost of one copy of the model depends on."""
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

    def _inside_of(self, job: Job) -> dict[str, float]:
        key = self._copy(job.layout)
        if key not in self._inside:
            self._inside[key] = copy_work(job)
        return self._inside[key]

    def _rates_of(self, job: Job, gpus: int) -> Rates:
        key = (gpus, job.layout.precision, job.layout.engine.name)
        if key not in self._rates:
            self._rates[key] = rates(job.replace(cluster=self.one.replace(gpus=gpus)))
        return self._rates[key]


def _warmup(layout: ParallelConfig) -> int:
    """Micro-batches beyond which no pipeline rank holds more at once (`pipeline_stages.in_flight`), and at
    least 2."""
    return max(2, 2 * (layout.pp - 1) + (layout.virtual_stages - 1) * layout.pp + 1)
