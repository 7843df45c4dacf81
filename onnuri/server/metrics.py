"""`/metrics` for Prometheus: the queue, how long the first token and the first sound took, tokens by medium."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from onnuri.server.service import Decoder

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.6, 1, 2, 4, 8, 16, 32)
"""seconds"""


class Metrics:
    """One server's figures."""

    def __init__(self, engine: Decoder) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Engine(engine))
        self.requests = Counter("onnuri_requests", "answers, by route and status", ["route", "status"], registry=self.registry)
        self.seconds = Histogram("onnuri_request_seconds", "until the whole answer", ["route"], buckets=BUCKETS,
                                 registry=self.registry)
        self.first_token = Histogram("onnuri_first_token_seconds", "from the request to the first token or its picture",
                                     ["medium"], buckets=BUCKETS, registry=self.registry)
        self.first_audio = Histogram("onnuri_first_audio_seconds", "from the request to the first samples of sound",
                                     buckets=BUCKETS, registry=self.registry)

    def first(self, began: float) -> First:
        """For one request that began at a time of `time.perf_counter`."""
        return First(self, began)

    def page(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)


class _Engine:
    """What the engine counts by itself, read when it is asked for."""

    def __init__(self, engine: Decoder) -> None:
        self.engine = engine

    def collect(self) -> Iterable[Metric]:
        engine = self.engine
        for name, text, value in (("onnuri_queue", "requests that wait for the engine", len(engine.queue)),
                                  ("onnuri_active", "requests that are decoded", len(engine.active)),
                                  ("onnuri_rows", "sequences in the cache", len(engine.rows)),
                                  ("onnuri_prefix_bytes", "of kept prefixes", engine.prefixes.held_bytes)):
            yield GaugeMetricFamily(name, text, value=value)
        tokens = CounterMetricFamily("onnuri_tokens", "ids decoded, by medium", labels=["medium"])
        for kind, count in dict(engine.drawn).items():
            tokens.add_metric([kind], count)
        yield tokens
        reused = CounterMetricFamily("onnuri_prefix_reused_tokens", "ids of prompts that were not read again")
        reused.add_metric([], engine.prefixes.reused)
        yield reused


class First:
    """How long one request's first of everything took."""

    def __init__(self, metrics: Metrics, began: float) -> None:
        self.metrics, self.began, self.seen = metrics, began, set[str]()

    def see(self, medium: str, sound: bool = False) -> None:
        """Something of a medium is there, and whether it can be heard."""
        seconds = time.perf_counter() - self.began
        if medium not in self.seen:
            self.metrics.first_token.labels(medium).observe(seconds)
        if sound and "sound" not in self.seen:
            self.metrics.first_audio.observe(seconds)
        self.seen |= {medium} | ({"sound"} if sound else set())
