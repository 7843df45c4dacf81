"""Predict the seconds of a training step by part, tokens per second and GPU, an interval, and the
evidence, by a roofline per class of products.

Knows no row of the published runs; its constants (`constants.py`) were fitted on them by
`calibration/fit.py`. All of `seconds` is arithmetic that holds for numbers and for arrays of them,
so the fit runs this very code.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from onnuri.config import Config
from onnuri.phrases import Phrase
from onnuri.planner import constants, hardware
from onnuri.planner import evidence as evidences
from onnuri.planner.interval import Interval
from onnuri.planner.job import Job
from onnuri.planner.step_work import FUSED_YEAR, Work, work

HOPPER = 2023.0
"""launch year of GPUs whose instructions PyTorch's own attention lacks, because it is
FlashAttention-2 (arXiv 2407.08608: 35 % of an H100's peak, against 75 %)"""
NEARER = 0.1
"""decrease of the logarithm of the gap per year: PyTorch's own attention comes nearer to the
vendors' (cuDNN's and later FlashAttention's kernels enter `scaled_dot_product_attention`, PyTorch
2.5 to 2.11); assumed, a fit moves it to 0.07"""
UNFUSED = 0.4
"""share of bytes that eager operators move beyond the vendors' kernels: 944 KB per token and layer
of a Llama of width 2,048 in a trace, against 270 KB counted once, times the fitted `elementwise`"""
SMALL, OTHERS = 2e9, ("TPU", "MI", "Ascend", "Gaudi")
"""parameters below which, and GPUs on which, errors are larger: three of four rows are on
NVIDIA's"""
MIXED_YEAR = 2025.6
"""software year from which mixtures err no more than dense models of the same stack: dispatch
without padding (DeepEP), grouped products and their conversions became the default; before it,
published steps of one model differ 2 times"""
FEW = 0.25
"""share of what an unfamiliar stack widens an interval by, for each smaller doubt; of 0.1 to 1 the
least quantile loss on held-out rows"""
UNSURE = 2.0
"""how many unfamiliar stacks a wholly assumed architecture counts as: assumed"""
COMMON_YEAR = 2025.5
"""year of training software where it is unknown"""


class Rates(NamedTuple):
    """What the hardware and the software of a job offer: rates, and switches of 0 or 1."""

    wide: float
    """FLOP/s of large 16-bit products"""
    narrow: float
    """FLOP/s of large products in the job's precision"""
    cap: float
    """natural logarithm of the power allowed over the board's own; 0 without a cap"""
    fp8: float
    """1 where the precision is FP8"""
    mxfp8: float
    """1 where the precision is MXFP8"""
    nvfp4: float
    """1 where the precision is NVFP4"""
    memory: float
    """bytes per second"""
    special: float
    """exponentials per second"""
    plain: float
    """1 where attention's kernels are older than the GPU"""
    pytorch: float
    """1 where PyTorch's own engines run, whose tensor parallelism waits for its collectives"""
    unfused: float
    """1 where the kernels of an engine other than Onnuri's are not fused"""
    compiled: float
    """1 where PyTorch's compiler fused the kernels of an engine other than Onnuri's"""
    own: float
    """1 for Onnuri's trainer, whose bytes between products are counted operator by operator"""
    year: float
    """of the training software"""
    graphs: float
    """probability that kernels are replayed from CUDA graphs"""
    domains: float
    """doublings from one domain of fast links to the cluster"""


class StepTime(Config):
    """The predicted time of a training step; `parts` sum to `total`."""

    parts: dict[str, float]
    """s per step"""
    overlapped: dict[str, float]
    """s of traffic hidden behind computation, by part"""
    total: float
    """s"""
    tokens_per_s_per_gpu: float
    mfu: float
    """model FLOPs utilization: with causal attention, over the bf16 peak"""
    low: float
    """tokens/s/GPU: one of ten runs is slower"""
    high: float
    """tokens/s/GPU: one of ten runs is faster"""
    evidence: tuple[str, ...]

    @property
    def speed(self) -> Interval:
        """Return the tokens per second and GPU with their 80 % interval."""
        return Interval(low=self.low, mid=self.tokens_per_s_per_gpu, high=self.high)


def rates(job: Job) -> Rates:
    """Return the rates of the job's GPU, and the switches that its precision and engine set."""
    kind, cluster, engine = job.cluster.kind, job.cluster, job.profile
    share = cluster.gemm_share or kind.gemm_share
    capped = cluster.power_w / kind.power_w if cluster.power_w and kind.power_w else 1.0
    precision = job.layout.precision
    return Rates(
        wide=kind.bf16_tflops * 1e12 * share,
        narrow=_precision_flops(job, share),
        cap=math.log(min(1.0, capped)),
        fp8=float(precision == "fp8"),
        mxfp8=float(precision == "mxfp8"),
        nvfp4=float(precision == "nvfp4"),
        memory=(cluster.memory_tb_per_s or kind.memory_tb_per_s) * 1e12,
        special=kind.special_tera_per_s * 1e12,
        plain=float(_attention_is_older(job)),
        own=float(engine.transformers),
        compiled=float(engine.kernels == "compiled"),
        pytorch=float(engine.pytorch and not engine.async_tp),
        unfused=float(engine.kernels == "eager"),
        year=_year(job),
        graphs=engine.graphs,
        domains=max(0.0, math.log2(cluster.gpus / min(kind.domain, cluster.gpus))),
    )


def _precision_flops(job: Job, share: float) -> float:
    """Return FLOP/s of large products in the job's precision; fp8 products that were measured on
    the machine scale it."""
    gain = job.cluster.fp8_gain if job.layout.precision in ("fp8", "mxfp8") else 1.0
    return job.cluster.kind.peak_tflops(job.layout.precision) * 1e12 * share * gain


def seconds(
    amounts: Work, machine: Rates, fitted: dict[str, float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of a step by part that are exposed, and those that are hidden behind
    computation.

    `amounts` is what one GPU computes and moves, `machine` what the hardware offers, `fitted` the
    constants by name. Holds for numbers and, while fitting, for arrays of them.
    """
    narrow = machine.fp8 + machine.mxfp8 + machine.nvfp4
    clock = math_exp(fitted["power"] * machine.cap)
    wide = machine.wide * clock
    speed = (
        machine.narrow
        * clock
        * (
            1
            - narrow
            + (machine.fp8 + machine.mxfp8) * fitted["fp8"]
            + machine.nvfp4 * fitted["nvfp4"]
        )
    )
    corner = functools.partial(larger, sharp=fitted["corner"])
    old = math_exp(2022 - machine.year)
    behind = fitted["plain_attention"] * machine.plain * math_exp(-NEARER * (machine.year - HOPPER))
    soft = 1 + behind + fitted["old"] * old
    memory = machine.memory * fitted["memory"]
    size = (
        1 - narrow / 3 - machine.nvfp4 / 6
    )  # operands in 8 or 4 bit, results in 16, all of one size
    # where experts compute in block formats, the releases of June 2026 fuse what stands around
    # their products
    fused = 1 - (1 - fitted["fused"]) * (machine.mxfp8 + machine.nvfp4) * (
        machine.year >= FUSED_YEAR
    )
    others = (1 + UNFUSED * machine.unfused) * (1 - (1 - fitted["compiled"]) * machine.compiled)
    between = (
        fitted["elementwise"] * (1 + fitted["old"] * old) * others * (1 - machine.own)
        + fitted["operators"] * machine.own
    )
    micro_batch = {  # of a micro-batch
        "projections": corner(
            amounts.proj_flops / (speed * fitted["projection"]), size * amounts.proj_bytes / memory
        ),
        "feed_forward": corner(
            amounts.mlp_flops / (speed * fitted["projection"]), size * amounts.mlp_bytes / memory
        ),
        "experts": corner(
            amounts.expert_flops / (speed * fitted["expert"]), size * amounts.expert_bytes / memory
        ),
        "head": corner(
            amounts.head_flops / (wide * fitted["projection"]), amounts.head_bytes / memory
        ),
        "attention": soft
        * corner(
            amounts.attention_flops / (wide * fitted["attention"]),
            amounts.exponentials / (machine.special * fitted["exponential"]),
        ),
        "convert": narrow
        * fitted["convert"]
        * (amounts.quant_bytes + fused * amounts.expert_quant_bytes)
        / memory,
        "elementwise": between * amounts.elementwise_bytes / memory,
        "copies": (amounts.copy_bytes + amounts.tp_copy_bytes) / memory,
        "permute": (
            fitted["permute"] * fused * (1 - machine.own) + fitted["operators"] * machine.own
        )
        * amounts.permute_bytes
        / memory,
        "scan": fitted["scan"] * amounts.scan_bytes / memory,
    }
    busy = sum(micro_batch.values())
    progress = math_exp(-fitted["launch_progress"] * (machine.year - COMMON_YEAR))
    of_experts = (
        amounts.expert_layers * fitted["launch_experts"]
        + amounts.expert_groups * fitted["launch_group"]
    )
    host = (amounts.layers * fitted["launch"] + of_experts * progress * fused) * (
        1 - machine.graphs * (1 - fitted["graph"])
    )
    micro_batch["launch"] = beyond(host, busy, fitted["corner"])
    waits = machine.pytorch + (1 - machine.pytorch) * fitted["tp_exposed"]
    exposed_share = {
        "tp": waits,
        "cp": fitted["ring_exposed"],
        "ep": fitted["ep_exposed"],
        "pp": fitted["ring_exposed"],
    }
    wire_seconds = {
        "tp": amounts.tp_wire / fitted["wire"],
        "cp": amounts.cp_wire / fitted["wire"],
        "ep": amounts.ep_wire / fitted["wire"],
        "pp": amounts.pp_wire / fitted["wire"],
    }
    micro_batch |= {name: time * exposed_share[name] for name, time in wire_seconds.items()}
    micro_batch_seconds = sum(micro_batch.values())
    gather = amounts.gather_wire / fitted["wire"] + amounts.gather_hops * fitted["hop"]
    hiding_seconds = min(fitted["overlap"], 1.0) * micro_batch_seconds
    micro_batch["gather"] = (
        beyond(gather, hiding_seconds, fitted["corner"]) + fitted["leak"] * gather
    )
    step = amounts.step_wire / fitted["wire"] + amounts.step_hops * fitted["hop"]
    parts = {name: time * amounts.micro_batches for name, time in micro_batch.items()}
    parts["bubble"] = amounts.bubble * sum(micro_batch.values())
    covered = hiding_seconds * amounts.cover
    parts["reduce"] = beyond(step, covered, fitted["corner"]) + fitted["leak"] * step
    parts["optimizer"] = amounts.optimizer_bytes / memory
    parts["crowd"] = fitted["crowd"] * machine.domains * sum(parts.values())
    hidden = {
        name: time * (1 - exposed_share[name]) * amounts.micro_batches
        for name, time in wire_seconds.items()
    }
    hidden |= {
        "gather": gather * amounts.micro_batches - parts["gather"],
        "reduce": step - parts["reduce"],
    }
    return parts, hidden


def step_time(job: Job, fitted: dict[str, float] | None = None) -> StepTime:
    """Return the prediction of a job's step. `fitted` are constants to use instead of the
    package's."""
    c = fitted or constants.values()
    w, r = work(job), rates(job)
    parts, hidden = seconds(w, r, c)
    total = sum(parts.values())
    speed = job.batch_tokens / job.cluster.gpus / total
    moe = job.architecture.mixture
    down, up = spread(moe, extrapolation_flags(job), {**constants.values(), **c})
    return StepTime(
        parts=parts,
        overlapped={k: max(0.0, v) for k, v in hidden.items()},
        total=total,
        tokens_per_s_per_gpu=speed,
        mfu=w.model_flops / total / (job.cluster.kind.bf16_tflops * 1e12),
        low=speed * math.exp(-down),
        high=speed * math.exp(up),
        evidence=evidence(job.cluster.gpu, job.layout.precision, moe),
    )


def extrapolation_flags(job: Job) -> float:
    """Return how doubtful a prediction is: 1 for an unfamiliar stack, and a part of it for each
    lesser reason.

    Lesser reasons are a GPU without a published run or launched less than a year before, few
    parameters, and an architecture that the formulas do not hold whole, or that is assumed.
    """
    kind = job.cluster.kind
    new = kind.name not in evidences.published().gpus or _year(job) - kind.launched < 1
    small = job.architecture.num_params() < SMALL
    return unfamiliar(job) + FEW * (new + small) + UNSURE * job.architecture.unsure


def unfamiliar(job: Job) -> bool:
    """Return whether the job's stack is of a kind whose held-out rows err about twice as much as
    those of known ones.

    Known: NVIDIA's GPUs with software since 2023, and Onnuri's trainer on GPUs of the generation on
    which it was measured, joined by fast links: what it sends over a network nobody has timed.
    Unfamiliar: other vendors' chips, older software, PyTorch's own kernels in 8 or 4 bits or with
    experts, mixtures before summer 2025.
    """
    kind, year, mixture = job.cluster.kind, _year(job), job.architecture.mixture
    if job.profile.transformers:
        return kind.launched != hardware.gpu("H200").launched or job.cluster.gpus > kind.domain
    pytorch = job.profile.pytorch and (mixture or job.layout.precision != "bf16")
    return kind.name.startswith(OTHERS) or year < 2023 or pytorch or (mixture and year < MIXED_YEAR)


def _year(job: Job) -> float:
    """Return the year of the training software: where it is unknown, the common one, or half a year
    after the GPU's launch."""
    return job.software_year or max(COMMON_YEAR, job.cluster.kind.launched + 0.5)


def _attention_is_older(job: Job) -> bool:
    """Return whether attention runs kernels older than the GPU: PyTorch's own on Hopper and
    later."""
    return job.profile.pytorch and job.cluster.kind.launched >= HOPPER


def spread(moe: bool, doubt: float, c: dict[str, float]) -> tuple[float, float]:
    """Return two positive logarithms: how far the lower and the upper end of the 80 % interval are
    from the prediction. `doubt` is `extrapolation_flags`, `c` the fitted constants."""
    kind, wider = "moe" if moe else "dense", 1 + c["open"] * doubt
    return c[f"{kind}_below"] * wider, c[f"{kind}_above"] * wider


def newest() -> float:
    """Return the year of the newest published software: what a plan made now would run."""
    return evidences.published().newest_year


@functools.cache
def evidence(gpu: str, precision: str, moe: bool) -> tuple[str, ...]:
    """Return two sentences of evidence: how many published runs are alike, and how many constants
    were fitted."""
    published = evidences.published()
    kind, name = ("moe", "mixture-of-experts") if moe else ("dense", "dense")
    key = evidences.key(kind, gpu, precision)
    return (
        Phrase(
            "{} of {} published {} runs are on {} in {}: {}",
            published.alike.get(key, 0),
            published.runs[kind],
            name,
            gpu,
            precision,
            ", ".join(published.models.get(key, ())) or "none",
        ),
        Phrase("{} constants, `onnuri plan constants`", len(constants.fitted())),
    )


def larger(a: float, b: float, sharp: float) -> float:
    """Return the larger of two with a round corner: their sum where `sharp` is 1."""
    return (a**sharp + b**sharp) ** (1 / sharp)


def beyond(a: float, b: float, sharp: float) -> float:
    """Return by how much `larger` of the two exceeds `b`: 0 where `a` is 0, whatever rounding
    does."""
    return b * ((1 + (a / b) ** sharp) ** (1 / sharp) - 1)  # type: ignore[no-any-return]


def math_exp(x: float) -> float:
    """Return e to the power of a number, or of each of an array."""
    return math.e**x
