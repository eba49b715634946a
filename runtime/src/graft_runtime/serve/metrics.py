"""Prometheus metrics of the server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """One registry for each server, not one for the whole process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        registry = self.registry
        self.requests = Counter("graft_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.images = Counter("graft_images", "Images judged, by what came of it.", ["outcome"], registry=registry)
        self.stages = Histogram(
            "graft_seconds", "Seconds an image takes, with waiting.", ["stage"], buckets=SECONDS, registry=registry
        )
        self.batches = Histogram(
            "graft_batch_images",
            "Images that go through the network together.",
            buckets=(1, 2, 4, 8),
            registry=registry,
        )
        self.running = Counter("graft_network_seconds", "Seconds that the network was at work.", registry=registry)
        self.waiting = Gauge("graft_waiting_images", "Images that have no answer yet.", registry=registry)
        self.reloads = Counter(
            "graft_reloads", "Model files that were taken or refused.", ["outcome"], registry=registry
        )
        self.model = Gauge("graft_model_info", "The model that answers.", ["name", "sha256"], registry=registry)

    def watch_waiting(self, count: Callable[[], int]) -> None:
        """Set the function that counts the waiting images."""
        self.waiting.set_function(count)

    def set_model(self, name: str, sha256: str) -> None:
        """Set the current model."""
        self.model.clear()
        self.model.labels(name, sha256).set(1)

    def observe_batch(self, images: int, seconds: float) -> None:
        """Record one batch."""
        self.batches.observe(images)
        self.running.inc(seconds)

    @contextmanager
    def time_stage(self, stage: str) -> Iterator[None]:
        """Record the seconds of a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(stage).observe(time.perf_counter() - began)

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
