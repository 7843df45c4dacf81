"""Hold what a plan says as one frozen record: `plan.py` fills it, `report.py` writes it out.
Computes nothing."""

from __future__ import annotations

from onnuri.config import Config
from onnuri.planner.cost import Bill
from onnuri.planner.goodput import Goodput
from onnuri.planner.hardware import Cluster
from onnuri.planner.interval import Interval
from onnuri.planner.latency import Limited
from onnuri.planner.parallel import ParallelConfig
from onnuri.planner.search import Candidate, Search
from onnuri.planner.serving_cost import Serving
from onnuri.planner.verdict import Verdict


class StepPart(Config):
    """One part of a step, by what it spends time on."""

    name: str
    exposed_seconds: float
    """seconds that lengthen the step"""
    overlapped_seconds: float = 0.0
    """seconds that pass while something else runs"""


class StagePlan(Config):
    """The plan of one stage of training."""

    name: str
    tokens: float
    tokens_per_sequence: int
    batch_tokens: int
    layout: ParallelConfig
    engine: str | None
    """the engine that the layout needs; None where Onnuri's trainer runs it"""
    steps: float
    tokens_per_s_per_gpu: Interval
    memory_gib: float
    days: Interval
    """failures counted"""


class Fewest(Config):
    """How the number of GPUs was found, where the user asked for it."""

    days: float
    """in which all tokens are to be trained, at the middle of the range"""
    gpus: int
    less: int | None
    """the next lower count that was tried; None: one GPU is enough"""
    less_days: float | None
    """days that it takes; None where nothing fits on it"""
    tried: int
    """number of counts for which a plan was made"""
    monotone: bool
    """whether more GPUs never took longer, of those counts"""


class PlanRecord(Config):
    """What training a recipe on a cluster takes."""

    verdict: Verdict
    """what to decide by, before the figures"""
    recipe: str
    title: str
    cluster: Cluster
    layout: ParallelConfig
    engine: str | None
    """the engine that the layout needs; None where Onnuri's trainer runs it"""
    total_params: float
    active_params: float
    tokens: float
    tokens_of_recipe: float
    memory: dict[str, float]
    """GiB of the fullest GPU in the stage that needs most, by part"""
    memory_gib: Interval
    """sum of the parts, with its range"""
    capacity_gib: float
    step: tuple[StepPart, ...]
    """of the largest stage"""
    step_seconds: Interval
    mfu: Interval
    """model FLOPs over the bf16 peak; causal attention, no recomputation"""
    tokens_per_s_per_gpu: Interval
    stages: tuple[StagePlan, ...]
    goodput: Goodput
    state_bytes: float
    """bytes of a checkpoint"""
    days: Interval
    """days that `tokens` take; where the user fixed the days, the verdict has the tokens of those
    days"""
    encoding_gpu_hours: Interval | None
    """media into tokens, once; None where the codecs' cost is unknown"""
    gpu_hours: Interval
    """of training and encoding; where the user fixed days or dollars, until then"""
    bill: Bill
    loss: Interval | None
    """nats per text token by published laws; compare sizes with it, not other models; None for
    fewer tokens than parameters"""
    serving: Serving
    media: tuple[str, ...]
    days_wanted: float | None
    usd_wanted: float | None
    tokens_wanted: float
    """the user's tokens, or what the recipe says"""
    in_time: float | None
    """probability that all of them are trained by the user's day"""
    in_budget: float | None
    """probability that all of them are trained for the user's dollars"""
    evidence: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    search: Search | None
    """how the layout was found; None where it was the user's"""
    gpus_given: int
    """all GPUs that the user has, of which the cluster is what the plan uses"""
    warnings: tuple[str, ...]
    """sentences that a reader must know before any figure"""
    faster: Candidate | None
    """the fastest layout of another engine for the largest stage, where Onnuri's trainer is more
    than `FASTER` times slower"""
    fewest: Fewest | None = None
    """how the number of GPUs was found; None where it was the user's"""
    limited: Limited | None = None
    """serving within limits of latency; None where the user set none"""

    @property
    def main(self) -> StagePlan:
        """Return the stage that trains the most tokens, whose layout, step and speed are the
        plan's."""
        return max(self.stages, key=lambda s: s.tokens)

    @property
    def fullest(self) -> StagePlan:
        """Return the stage that needs the most memory, which is the plan's."""
        return max(self.stages, key=lambda s: s.memory_gib)

    @property
    def fits(self) -> bool:
        """Return whether the plan fits its GPUs at the middle of the range."""
        return self.memory_gib.mid <= self.capacity_gib
