"""The route `/metrics` for Prometheus: the queue, the time to the first token and the first sound,
tokens by modality."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from onnuri.inference.backend import Backend

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.3, 0.6, 1, 2, 4, 8, 16, 32)
"""seconds"""
GAUGES = (
    ("waiting", "onnuri_queue", "requests that wait for the engine"),
    ("active", "onnuri_active", "requests that are decoded"),
    ("rows", "onnuri_rows", "sequences in the cache"),
    ("prefix_bytes", "onnuri_prefix_bytes", "of kept prefixes"),
)
"""(field of `BackendLoad`, metric, its help text)"""


class ServerMetrics:
    """The metrics of one server; those of engines are labelled by model."""

    def __init__(self, engines: Mapping[str, Backend]) -> None:
        """Register all metrics, with those of the engines by model."""
        self.registry = CollectorRegistry()
        self.registry.register(_Engines(engines))
        self.requests = Counter(
            "onnuri_requests",
            "answers, by route and status",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "onnuri_request_seconds",
            "until the whole answer",
            ["route"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "onnuri_first_token_seconds",
            "from the request to the first token or its picture",
            ["modality"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.first_audio = Histogram(
            "onnuri_first_audio_seconds",
            "from the request to the first samples of sound",
            buckets=BUCKETS,
            registry=self.registry,
        )

    def first(self, began: float) -> FirstTimes:
        """Return a recorder of one request's first times; `began` is a time of
        `time.perf_counter`."""
        return FirstTimes(self, began)

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


class _Engines:
    """A Prometheus collector that reads the engines' own counters when it is scraped."""

    def __init__(self, engines: Mapping[str, Backend]) -> None:
        self.engines = engines

    def collect(self) -> Iterable[Metric]:
        """Return the load and counters of every engine as metrics."""
        tokens = CounterMetricFamily(
            "onnuri_tokens", "ids decoded, by modality", labels=["model", "modality"]
        )
        families: dict[str, Metric] = {
            field: GaugeMetricFamily(name, text, labels=["model"]) for field, name, text in GAUGES
        }
        reused = CounterMetricFamily(
            "onnuri_prefix_reused_tokens",
            "ids of prompts that were not read again",
            labels=["model"],
        )
        families |= {"sampled_tokens": tokens, "prefix_reused_tokens": reused}
        for model, engine in self.engines.items():
            load = dataclasses.asdict(engine.load())
            for modality, count in load.pop("sampled_tokens").items():
                tokens.add_metric([model, modality], count)
            for field, value in load.items():
                families[field].add_metric([model], value)  # type: ignore[attr-defined]
        return families.values()


class FirstTimes:
    """A recorder of the seconds from one request to its first token of each modality and to its
    first sound."""

    def __init__(self, metrics: ServerMetrics, began: float) -> None:
        self.metrics, self.began, self.seen = metrics, began, set[str]()

    def see(self, modality: str, sound: bool = False) -> None:
        """Record that something of a modality has come, and whether it is sound that can be
        played."""
        seconds = time.perf_counter() - self.began
        if modality not in self.seen:
            self.metrics.first_token.labels(modality).observe(seconds)
        if sound and "sound" not in self.seen:
            self.metrics.first_audio.observe(seconds)
        self.seen |= {modality} | ({"sound"} if sound else set())
