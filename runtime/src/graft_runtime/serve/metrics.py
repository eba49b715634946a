"""What a server counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

FORMAT = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """One set of figures for each server, not one for the whole program."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter("graft_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.pictures = Counter(
            "graft_pictures", "Pictures judged, by what came of it.", ["outcome"], registry=registry
        )
        self.stages = Histogram(
            "graft_seconds", "Seconds a picture takes, with waiting.", ["stage"], buckets=SECONDS, registry=registry
        )
        self.batches = Histogram(
            "graft_batch_pictures",
            "Pictures that go through the network together.",
            buckets=(1, 2, 4, 8),
            registry=registry,
        )
        self.running = Counter("graft_network_seconds", "Seconds that the network was at work.", registry=registry)
        self.waiting = Gauge("graft_waiting_pictures", "Pictures that have no answer yet.", registry=registry)
        self.reloads = Counter(
            "graft_reloads", "Model files that were taken or refused.", ["outcome"], registry=registry
        )
        self.model = Gauge("graft_model_info", "The model that answers.", ["name", "sha256"], registry=registry)

    def waits(self, count: Callable[[], int]) -> None:
        """Where to look for the number of pictures that wait."""
        self.waiting.set_function(count)

    def serves(self, name: str, sha256: str) -> None:
        """The model of the moment."""
        self.model.clear()
        self.model.labels(name, sha256).set(1)

    def ran(self, pictures: int, seconds: float) -> None:
        """One run of the network."""
        self.batches.observe(pictures)
        self.running.inc(seconds)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """The seconds that this takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(stage).observe(time.perf_counter() - began)

    def text(self) -> bytes:
        """All figures, in Prometheus' own format."""
        return generate_latest(self.registry)
