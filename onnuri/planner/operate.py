"""What it takes to serve a model: GPUs, bytes a token, tokens a second, users a node, dollars per million tokens.

A roofline of decoding: the weights that a batch touches and its keys and values pass through memory once a step, or its
products take longer. Knows no engine; media count as tokens.
"""

from __future__ import annotations

import functools

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.planner.architecture import Architecture
from onnuri.planner.bill import price
from onnuri.planner.hardware import Cluster, Gpu
from onnuri.planner.interval import Interval, spread

CONTEXT = 8_192
"""tokens that a user's conversation holds, in the mean"""
TOKENS_PER_S = 20.0
"""that each user gets at least: DeepSeek serves 20 to 22 (its inference system overview, 2025-03)"""
MEMORY_SHARE = 0.9
"""of a GPU's memory for weights, keys and values: vLLM's default `gpu_memory_utilization`"""
BANDWIDTH = Interval(low=0.2, mid=0.4, high=0.7)
"""share of the memory's rate that decoding reaches. Low: DeepSeek's 1,850 tokens/s an H800 at 20 a user and 4,989 tokens of
context move about 40 GB in 50 ms, 24 % (the same); the rest assumed"""
PRODUCTS = Interval(low=0.15, mid=0.3, high=0.5)
"""share of the peak that products reach. Low: its 32,200 tokens/s read anew a node of 8 H800, 15 % (the same); the rest
assumed"""
LAYER_SECONDS = Interval(low=15e-6, mid=40e-6, high=80e-6)
"""two collectives and kernel starts of a layer on more than one GPU: assumed"""
PROMPT = 608e9 * (1 - 0.563) / 168e9
"""tokens read anew for each one generated: DeepSeek's day, 608B in, of them 56.3 % from its cache, 168B out (the same)"""
BUSY = Interval(low=0.3, mid=0.5, high=0.8)
"""share of the hours in which users come: assumed"""
EVIDENCE = ("roofline of memory and products", "DeepSeek's inference system overview, 2025-03: prompts, speed a user",
            "assumed: shares reached, 8,192 tokens of context")


class Serving(Config):
    """One model on one kind of GPU, in instances of `gpus`."""

    fewest_gpus: int
    """that hold weights and one user"""
    gpus: int
    """an instance: the fewest or up to 8 times as many, the first within a tenth of the most tokens/s/GPU (low end times
    middle)"""
    weight_gb: float
    kv_bytes_per_token: float
    """at the mean context, windows counted"""
    users: Interval
    """at once, an instance"""
    users_per_node: Interval
    tokens_per_s_per_gpu: Interval
    """generated, the time for reading prompts counted"""
    usd_per_million_tokens: Interval | None
    """generated; None without a list price"""


def kv_bytes(a: Architecture, context: int, value_bytes: float = 1.0) -> float:
    """Keys and values of a conversation of `context` tokens; a layer with a window keeps no more than the window."""
    return value_bytes * sum(b.count * b.attention.kv_values() * min(context, b.attention.window or context)
                             for b in a.blocks if b.attention)


def touched(a: Architecture, batch: float) -> float:
    """Weights that a step of `batch` tokens reads: of routed experts those that at least one token chose, if all are
    alike; of the embedding a row each."""
    total = float(a.num_params() - a.embedding() * (1 - a.tied))
    for b in a.blocks:
        if e := b.experts:
            total -= b.count * e.routed * b.expert(a.hidden) * (1 - e.topk / e.routed) ** batch
    return total


def step_seconds(a: Architecture, gpu: Gpu, gpus: int, batch: float, context: int, weight_bytes: float,
                 bandwidth: float, products: float, layer: float) -> float:
    """One token for each of `batch` users."""
    read = touched(a, batch) * weight_bytes + batch * kv_bytes(a, context)
    return max(read / (gpus * gpu.memory_tb_per_s * 1e12 * bandwidth),
               batch * product_seconds(a, gpu, context, False, weight_bytes, products) / gpus) + a.layers * layer * (gpus > 1)


def product_seconds(a: Architecture, gpu: Gpu, context: int, causal: bool, weight_bytes: float, products: float) -> float:
    """One token's products on one GPU: a third of a training step's."""
    peak = gpu.peak_tflops("fp8" if weight_bytes == 1 else "bf16")
    return a.flops_per_token(context, causal) / 3 / (peak * 1e12 * products)


def instance(a: Architecture, gpu: Gpu, context: int, weight_bytes: float) -> int:
    """Fewest GPUs, a power of two, that hold the weights and one user."""
    gpus, needed = 1, a.num_params() * weight_bytes + kv_bytes(a, context)
    while gpus * gpu.memory_gb * 1e9 * MEMORY_SHARE < needed:
        gpus *= 2
    return gpus


def _users(a: Architecture, gpu: Gpu, gpus: int, context: int, weight_bytes: float, *shares: float) -> float:
    """Most users that memory holds and that all get their tokens."""
    room = gpus * gpu.memory_gb * 1e9 * MEMORY_SHARE - a.num_params() * weight_bytes
    high = max(room / max(kv_bytes(a, context), 1.0), 1.0)
    low, allowed = 1.0, 1 / TOKENS_PER_S
    if step_seconds(a, gpu, gpus, high, context, weight_bytes, *shares) <= allowed:
        return high
    while high - low > 0.5:
        middle = (low + high) / 2
        slow = step_seconds(a, gpu, gpus, middle, context, weight_bytes, *shares) > allowed
        low, high = (low, middle) if slow else (middle, high)
    return low


def serving(a: Architecture, cluster: Cluster, context: int = CONTEXT, weight_bytes: float | None = None) -> Serving:
    """Weights in 8 bits where the GPU multiplies them, else in 16; keys and values in 8 bits."""
    if context < 1:
        raise ConfigError(f"context {context}", "is less than 1 token", "give the mean length of a conversation")
    gpu = cluster.kind
    each = weight_bytes or (1.0 if gpu.fp8_tflops else 2.0)
    fewest, shares = instance(a, gpu, context, each), (BANDWIDTH, PRODUCTS, LAYER_SECONDS)

    def speed(gpus: int, *s: float) -> float:
        batch = _users(a, gpu, gpus, context, each, *s)
        generated = step_seconds(a, gpu, gpus, batch, context, each, *s) * gpus / batch
        return 1 / (generated + PROMPT * product_seconds(a, gpu, context, True, each, s[1]))

    rates = {fewest * k: spread(functools.partial(speed, fewest * k), *shares) for k in (1, 2, 4, 8)}
    enough = 0.8 * max(r.low * r.mid for r in rates.values())
    gpus, rate = next((n, r) for n, r in rates.items() if r.low * r.mid >= enough)
    users, usd = spread(functools.partial(_users, a, gpu, gpus, context, each), *shares), price(gpu)
    return Serving(
        fewest_gpus=fewest, gpus=gpus, weight_gb=a.num_params() * each / 1e9,
        kv_bytes_per_token=kv_bytes(a, context) / context, users=users,
        users_per_node=users * (cluster.node / gpus), tokens_per_s_per_gpu=rate,
        usd_per_million_tokens=spread(lambda p, r, b: p / 3600 / (r * b) * 1e6, usd, rate, BUSY) if usd else None)
