"""Estimate what it takes to serve a model: GPUs, bytes per token, tokens per second, users per
node, dollars per million tokens.

A roofline of decoding: the weights that a batch touches and its keys and values pass through memory
once per step, or its products take longer. Knows no engine; media count as tokens.
"""

from __future__ import annotations

import functools

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner.architecture import Architecture
from onnuri.planner.cost import price
from onnuri.planner.hardware import Cluster, Gpu
from onnuri.planner.interval import Interval, spread

CONTEXT = 8_192
"""tokens that a user's conversation holds, in the mean"""
TOKENS_PER_S = 20.0
"""tokens per second that each user gets at least: DeepSeek serves 20 to 22 (its inference system
overview, 2025-03)"""
MEMORY_SHARE = 0.9
"""share of a GPU's memory for weights, keys and values: vLLM's default `gpu_memory_utilization`"""
BANDWIDTH = Interval(low=0.2, mid=0.4, high=0.7)
"""share of the memory's rate that decoding reaches. Low: DeepSeek's 1,850 tokens/s per H800 at 20
per user and 4,989 tokens of context move about 40 GB in 50 ms, 24 % (its inference system
overview); the rest assumed"""
PRODUCTS = Interval(low=0.15, mid=0.3, high=0.5)
"""share of the peak that products reach. Low: DeepSeek's 32,200 tokens/s prefilled per node of 8
H800, 15 % (its inference system overview); the rest assumed"""
LAYER_SECONDS = Interval(low=15e-6, mid=40e-6, high=80e-6)
"""seconds of two collectives and of kernel starts per layer on more than one GPU: assumed"""
PROMPT = 608e9 * (1 - 0.563) / 168e9
"""prompt tokens prefilled for each token generated: DeepSeek's day, 608B in, of them 56.3 % from
its cache, 168B out (its inference system overview)"""
BUSY = Interval(low=0.3, mid=0.5, high=0.8)
"""share of the hours in which users come: assumed"""
EVIDENCE = (
    "roofline of memory and products",
    "DeepSeek's inference system overview, 2025-03: prompts, speed a user",
    Phrase(
        "assumed: shares reached, {:,} tokens of context, users in {:.0%} of the hours",
        CONTEXT,
        BUSY.mid,
    ),
)


class Serving(Config):
    """What serving one model on one kind of GPU takes, in instances of `gpus`."""

    fewest_gpus: int
    """that hold weights and one user"""
    gpus: int
    """per instance: the fewest, or up to 8 times as many where fast links join them; the first
    within a tenth of the most tokens/s/GPU (low end times middle)"""
    weight_gb: float
    kv_bytes_per_token: float
    """at the mean context, windows counted"""
    users: Interval
    """at once per instance"""
    users_per_node: Interval
    tokens_per_s_per_gpu: Interval
    """generated, the time of prefill counted"""
    usd_per_million_tokens: Interval | None
    """generated; None without a list price"""


def kv_bytes(a: Architecture, context: int, value_bytes: float = 1.0) -> float:
    """Return the bytes of keys and values of a conversation of `context` tokens; a layer with a
    window keeps no more than the window."""
    return value_bytes * sum(
        b.count * b.attention.kv_values() * min(context, b.attention.window or context)
        for b in a.blocks
        if b.attention
    )


class Decoder:
    """The roofline of decoding one model on GPUs of one kind; what does not change with the batch
    is counted once."""

    def __init__(self, a: Architecture, gpu: Gpu, context: int, weight_bytes: float) -> None:
        self.gpu, self.weight_bytes, self.layers = gpu, weight_bytes, a.layers
        self.total = a.num_params()
        self.read = float(self.total - a.embedding() * (1 - a.tied))
        self.routed = [
            (b.count * b.routed(a.hidden), 1 - b.experts.topk / b.experts.routed)
            for b in a.blocks
            if b.experts
        ]
        self.kv = kv_bytes(a, context)
        self.peak = gpu.peak_tflops("fp8" if weight_bytes == 1 else "bf16") * 1e12
        # a third of a training step's products
        self.generated, self.prompt = (
            a.flops_per_token(context, causal) / 3 for causal in (False, True)
        )

    def touched(self, batch: float) -> float:
        """Return how many weights a decode step of `batch` tokens reads: of routed experts those
        that at least one token chose, if all are equally likely; of the embedding a row each."""
        return self.read - sum(weights * idle**batch for weights, idle in self.routed)

    def step_seconds(
        self, gpus: int, batch: float, bandwidth: float, products: float, layer: float
    ) -> float:
        """Return the seconds of a decode step, which gives one token to each of `batch` users.

        `bandwidth` and `products` are the shares of the peaks that are reached, `layer` the seconds
        per layer between GPUs.
        """
        read = self.touched(batch) * self.weight_bytes + batch * self.kv
        return max(
            read / (gpus * self.gpu.memory_tb_per_s * 1e12 * bandwidth),
            batch * self.generated / (gpus * self.peak * products),
        ) + self.layers * layer * (gpus > 1)

    def room(self, gpus: int) -> float:
        """Return the bytes that so many GPUs have left for keys and values."""
        return gpus * self.gpu.memory_bytes * MEMORY_SHARE - self.total * self.weight_bytes

    def fewest(self) -> int:
        """Return the smallest power of two of GPUs that holds the weights and one user."""
        gpus = 1
        while self.room(gpus) < self.kv:
            gpus *= 2
        return gpus

    def users(self, gpus: int, *shares: float) -> float:
        """Return the most users that memory holds and that all get their tokens in time."""
        low, high, allowed = 1.0, max(self.room(gpus) / max(self.kv, 1.0), 1.0), 1 / TOKENS_PER_S
        if self.step_seconds(gpus, high, *shares) <= allowed:
            return high
        while high > 1.005 * low:
            middle = (low + high) / 2
            low, high = (
                (low, middle)
                if self.step_seconds(gpus, middle, *shares) > allowed
                else (middle, high)
            )
        return low

    def tokens_per_s(self, gpus: int, *shares: float) -> float:
        """Return the tokens generated per second and GPU, with prefill in between."""
        batch = self.users(gpus, *shares)
        return 1 / (
            self.step_seconds(gpus, batch, *shares) * gpus / batch
            + PROMPT * self.prompt / (self.peak * shares[1])
        )


def serving(
    a: Architecture, cluster: Cluster, context: int = CONTEXT, weight_bytes: float | None = None
) -> Serving:
    """Return what serving a model takes on the cluster's kind of GPU.

    Weights are in 8 bits where the GPU multiplies them, else in 16, unless `weight_bytes` says
    otherwise; keys and values are in 8 bits. Raises ConfigError for a context below 1 token.
    """
    if context < 1:
        raise ConfigError(
            Phrase("context {}", context),
            "is less than 1 token",
            "give the mean length of a conversation",
        )
    gpu = cluster.kind
    decoder = Decoder(a, gpu, context, weight_bytes or (1.0 if gpu.fp8_tflops else 2.0))
    fewest, shares = decoder.fewest(), (BANDWIDTH, PRODUCTS, LAYER_SECONDS)
    sizes = [fewest * k for k in (1, 2, 4, 8) if k == 1 or fewest * k <= gpu.domain]
    rates = {n: spread(functools.partial(decoder.tokens_per_s, n), *shares) for n in sizes}
    enough = 0.8 * max(r.low * r.mid for r in rates.values())
    gpus, rate = next((n, r) for n, r in rates.items() if r.low * r.mid >= enough)
    users, usd = spread(functools.partial(decoder.users, gpus), *shares), price(gpu)
    return Serving(
        fewest_gpus=fewest,
        gpus=gpus,
        weight_gb=decoder.total * decoder.weight_bytes / 1e9,
        kv_bytes_per_token=decoder.kv / context,
        users=users,
        users_per_node=users * (cluster.node / gpus),
        tokens_per_s_per_gpu=rate,
        usd_per_million_tokens=spread(lambda p, r, b: p / 3600 / (r * b) * 1e6, usd, rate, BUSY)
        if usd
        else None,
    )
