"""Plan serving within limits of latency: requests of `isl` tokens in and `osl` out, time to first
token, time per output token.

    TTFT = prefill + one decode step + wait behind other prompts
    TPOT = decode step + prefill of the others' prompts, per token that a user gets

One pool of GPUs prefills and decodes (continuous batching); an instance holds the model, the batch
is the largest that meets both limits at the middle of what is unknown. The roofline is
`serving_cost.py`'s. Knows no engine.
"""

from __future__ import annotations

import functools
import math
import re

from onnuri.config import Config
from onnuri.errors import ConfigError
from onnuri.phrases import Phrase
from onnuri.planner.architecture import Architecture
from onnuri.planner.cost import price
from onnuri.planner.hardware import Cluster, Gpu
from onnuri.planner.interval import Interval, spread
from onnuri.planner.serving_cost import BANDWIDTH, BUSY, LAYER_SECONDS, PRODUCTS, Decoder, kv_bytes

MOST_TOKENS = 10_000_000
"""tokens of a prompt or an answer: ten times the longest context that is served"""
MOST_SECONDS = 3_600.0
SHARES = (BANDWIDTH, PRODUCTS, LAYER_SECONDS)
MIDS = tuple(share.mid for share in SHARES)


class Demand(Config):
    """What every user requests and how long it may take."""

    isl: int
    """tokens of a prompt"""
    osl: int
    """tokens of an answer"""
    ttft: float | None = None
    """seconds until the first token, at most; None for any"""
    tpot: float | None = None
    """seconds between tokens after it, at most; None for any"""
    prompts_per_token: float | None = None
    """prompt tokens that are prefilled for each token of an answer; less than isl / osl where
    prefixes are cached"""

    @property
    def new(self) -> float:
        """Return the tokens of a prompt that are prefilled, not cached."""
        return self.isl if self.prompts_per_token is None else self.prompts_per_token * self.osl

    def check(self) -> None:
        """Raise ConfigError for lengths, times or a share of cached prompts that cannot be."""
        for name, tokens in (("isl", self.isl), ("osl", self.osl)):
            if not 1 <= tokens <= MOST_TOKENS:
                raise ConfigError(
                    f"{name} {tokens}",
                    Phrase("is not from 1 to {:,} tokens", MOST_TOKENS),
                    "give such as 1024",
                )
        for name, seconds in (("ttft", self.ttft), ("tpot", self.tpot)):
            if seconds is not None and not 0 < seconds <= MOST_SECONDS:
                raise ConfigError(
                    f"{name} {seconds * 1e3:g} ms",
                    Phrase("is not above 0 and up to {:g} s", MOST_SECONDS),
                    "give milliseconds, such as 500, or such as 2s",
                )
        ratio, most = self.prompts_per_token, self.isl / self.osl
        if ratio is not None and not 0 <= ratio <= most * (1 + 1e-9):
            raise ConfigError(
                Phrase("prompts per token {:g}", ratio),
                Phrase("is not from 0 to isl / osl, {:.4g}", most),
                "give fewer, or leave it out where nothing is cached",
            )


class Limited(Config):
    """Serving one model on one kind of GPU within the limits of a demand.

    Where the demand cannot be met, the figures are of one user alone on the instance that comes
    nearest: the best that is possible.
    """

    demand: Demand
    met: bool
    """whether both limits are met at the middle of what is unknown"""
    gpus: int
    """per instance"""
    users: float
    """at once per instance: the batch"""
    ttft: Interval
    """seconds, the mean"""
    tpot: Interval
    """seconds, the mean"""
    tokens_per_s_per_gpu: Interval
    """of answers, with prefill in between"""
    requests_per_s: Interval
    """per instance"""
    likely: float
    """probability that both limits are met with this batch, the two taken as one unknown: the
    smaller of the two probabilities"""
    bound: str
    """what keeps the batch from growing, or what cannot be met: memory, ttft, tpot"""
    usd_per_million_input: Interval | None
    """per million prompt tokens prefilled; busy as `serving_cost.BUSY` says. None without a
    price"""
    usd_per_million_output: Interval | None
    """per million tokens of answers; None without a price"""


class _Server:
    """Serving one model on GPUs of one kind under one demand: its times by instance and batch."""

    def __init__(self, a: Architecture, gpu: Gpu, demand: Demand, weight_bytes: float) -> None:
        self.demand = demand
        self.decoder = Decoder(a, gpu, demand.isl + demand.osl, weight_bytes)
        self.full = self.decoder.kv  # a conversation at its end
        self.decoder.kv = kv_bytes(a, max(1, demand.isl + demand.osl // 2))  # in the mean
        # a third of a training step's products; what the cache holds is not read again
        cached = int(demand.isl - demand.new)
        self.prompt_flops = (
            demand.isl * a.flops_per_token(demand.isl)
            - (cached * a.flops_per_token(cached) if cached else 0)
        ) / 3

    def prefill(self, gpus: int, bandwidth: float, products: float, layer: float) -> float:
        """Return the seconds of prefill of the uncached part of one prompt."""
        on = self.decoder
        if not self.demand.new:
            return 0.0
        read = (
            on.touched(self.demand.new)
            * on.weight_bytes
            / (gpus * on.gpu.memory_tb_per_s * 1e12 * bandwidth)
        )
        return max(self.prompt_flops / (gpus * on.peak * products), read) + on.layers * layer * (
            gpus > 1
        )

    def tpot(self, gpus: int, batch: float, *shares: float) -> float:
        """Return the mean seconds between two tokens of a user: a decode step, and the prefill of
        prompts that come in meanwhile."""
        return (
            self.decoder.step_seconds(gpus, batch, *shares)
            + batch * self.prefill(gpus, *shares) / self.demand.osl
        )

    def ttft(self, gpus: int, batch: float, *shares: float) -> float:
        """Return the mean seconds to the first token.

        Prompts come at random and are prefilled one by one: an M/D/1 queue waits load / (2 (1 -
        load)) service times (Pollaczek 1930, Khinchine 1932).
        """
        prefill = self.prefill(gpus, *shares)
        load = batch * prefill / (self.demand.osl * self.tpot(gpus, batch, *shares))
        wait = prefill * load / (2 * (1 - min(load, 0.999)))
        return prefill + wait * (batch > 1) + self.decoder.step_seconds(gpus, batch, *shares)

    def fewest(self) -> int:
        """Return the smallest power of two of GPUs that holds the weights and one whole
        conversation."""
        gpus = 1
        while self.decoder.room(gpus) < self.full:
            gpus *= 2
        return gpus

    def broken_limit(self, gpus: int, batch: float) -> str:
        """Return the limit that a batch breaks at the middle of what is unknown: memory, tpot,
        ttft, or an empty text for none."""
        demand = self.demand
        if batch > self.most(gpus):
            return "memory"
        if demand.tpot is not None and self.tpot(gpus, batch, *MIDS) > demand.tpot:
            return "tpot"
        return (
            "ttft"
            if demand.ttft is not None and self.ttft(gpus, batch, *MIDS) > demand.ttft
            else ""
        )

    def most(self, gpus: int) -> float:
        """Return the number of users whose keys and values memory holds, at least 1."""
        return max(1.0, math.floor(self.decoder.room(gpus) / max(self.decoder.kv, 1.0)))

    def batch(self, gpus: int) -> tuple[float, str]:
        """Return the largest whole batch within the limits and what bounds it; 0 where one user is
        too many. It bisects, because both times only grow with the batch."""
        if why := self.broken_limit(gpus, 1):
            return 0.0, why
        low, high = 1, int(self.most(gpus)) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.broken_limit(gpus, middle) else (middle, high)
        return float(low), self.broken_limit(gpus, high)


def limited(
    a: Architecture, cluster: Cluster, demand: Demand, weight_bytes: float | None = None
) -> Limited:
    """Return the instance and batch that generate most tokens per second and GPU within the limits.
    Raises ConfigError for a demand that cannot be."""
    demand.check()
    gpu = cluster.kind
    server = _Server(a, gpu, demand, weight_bytes or (1.0 if gpu.fp8_tflops else 2.0))
    fewest = server.fewest()
    sizes = [fewest * 2**k for k in range(11) if k == 0 or fewest * 2**k <= gpu.domain]
    batches = {n: server.batch(n) for n in sizes}
    able = [n for n in sizes if batches[n][0]]
    if able:
        gpus = max(able, key=lambda n: _rate(server, n, batches[n][0], *MIDS))
        return _answer(server, gpus, batches[gpus][0], batches[gpus][1], True)
    gpus = min(sizes, key=lambda n: _excess(server, n))
    return _answer(server, gpus, 1.0, batches[gpus][1], False)


def _excess(server: _Server, gpus: int) -> float:
    """Return how many times its limit the worse of the two times is, for one user."""
    demand = server.demand
    times = ((demand.ttft, server.ttft(gpus, 1, *MIDS)), (demand.tpot, server.tpot(gpus, 1, *MIDS)))
    return max(time / limit for limit, time in times if limit)


def _rate(server: _Server, gpus: int, batch: float, *shares: float) -> float:
    """Return the tokens of answers generated per second and GPU, for an instance of `gpus` with
    this batch."""
    return batch / server.tpot(gpus, batch, *shares) / gpus


def _answer(server: _Server, gpus: int, batch: float, bound: str, met: bool) -> Limited:
    """Return the figures of an instance of `gpus` with this batch; `bound` is what bounds it, `met`
    whether the demand is met."""
    demand = server.demand
    ttft, tpot, rate = (
        spread(functools.partial(f, gpus, batch), *SHARES)
        for f in (server.ttft, server.tpot, functools.partial(_rate, server))
    )
    odds = [time.cdf(limit) for time, limit in ((ttft, demand.ttft), (tpot, demand.tpot)) if limit]
    usd = price(server.decoder.gpu)
    read: Interval | None = None
    written: Interval | None = None
    if usd:
        million = gpus * 1e6 / 3600
        per_step = functools.partial(server.decoder.step_seconds, gpus, batch)
        written = spread(
            lambda p, busy, *s: p / busy * million * per_step(*s) / batch, usd, BUSY, *SHARES
        )
        if demand.new:
            read = spread(
                lambda p, busy, *s: p / busy * million * server.prefill(gpus, *s) / demand.new,
                usd,
                BUSY,
                *SHARES,
            )
    return Limited(
        demand=demand,
        met=met,
        gpus=gpus,
        users=batch,
        ttft=ttft,
        tpot=tpot,
        tokens_per_s_per_gpu=rate,
        requests_per_s=rate * (gpus / demand.osl),
        likely=min(odds, default=1.0),
        bound=bound,
        usd_per_million_input=read,
        usd_per_million_output=written,
    )


def seconds(name: str, text: str | None) -> float | None:
    """Return the seconds that `500`, `500ms` or `0.5s` say: milliseconds without a unit. Raises
    ConfigError for what is no time."""
    if text is None:
        return None
    parts = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(ms|s)?\s*", text)
    if not parts:
        raise ConfigError(
            f"{name} {text!r}", "is not a time", "give milliseconds, such as 500, or such as 2s"
        )
    return float(parts[1]) * (1.0 if parts[2] == "s" else 1e-3)


def demand(
    isl: int | None, osl: int | None, ttft: str | None, tpot: str | None, ratio: float | None
) -> Demand | None:
    """Return the demand that flags of the command line make; None where no flag is set. Raises
    ConfigError for one length without the other."""
    if isl is None and osl is None and ttft is None and tpot is None and ratio is None:
        return None
    if isl is None or osl is None:
        missing = " and ".join(
            name for name, value in (("--isl", isl), ("--osl", osl)) if value is None
        )
        raise ConfigError(
            "serving",
            Phrase("lacks {}", missing),
            "give the tokens of a prompt and of an answer: --isl 1024 --osl 256",
        )
    wanted = Demand(
        isl=isl,
        osl=osl,
        ttft=seconds("ttft", ttft),
        tpot=seconds("tpot", tpot),
        prompts_per_token=ratio,
    )
    wanted.check()
    return wanted
