"""What ``GET /metrics`` shows, for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from visionward.runtime.guard.verdict import Verdict
from visionward.serve.byte_budget import ByteBudget
from visionward.serve.request_queue import RequestQueue

# Seconds. A verdict takes milliseconds with the demonstration guard, and minutes with four tiles on a slow CPU.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STAGES = ("preprocess", "vision", "prefill", "decode")


class Metrics:
    """The metrics of one server."""

    def __init__(self, queue: RequestQueue, budget: ByteBudget) -> None:
        self._registry = registry = CollectorRegistry()
        PlatformCollector(registry=registry)
        ProcessCollector(registry=registry)
        self._requests = Counter("visionward_requests", "Requests.", ("route", "status"), registry=registry)
        self._seconds = Histogram(
            "visionward_request_seconds", "Time of a request.", ("route",), registry=registry, buckets=_BUCKETS
        )
        self._verdicts = Counter("visionward_verdicts", "Verdicts.", ("verdict",), registry=registry)
        self._stages = Histogram(
            "visionward_stage_seconds",
            "Time of a stage of a classification.",
            ("stage",),
            registry=registry,
            buckets=_BUCKETS,
        )
        self._tiles = Counter("visionward_tiles", "Image tiles that were judged.", registry=registry)
        self._tokens = Counter("visionward_prompt_tokens", "Tokens of prompts.", registry=registry)
        waiting = Gauge("visionward_requests_waiting", "Requests in the queue.", registry=registry)
        waiting.set_function(lambda: queue.waiting)
        running = Gauge("visionward_requests_running", "Requests that are computed.", registry=registry)
        running.set_function(lambda: queue.running)
        held = Gauge("visionward_held_bytes", "Bytes of bodies and downloads that requests hold.", registry=registry)
        held.set_function(lambda: budget.held)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def count_verdict(self, verdict: Verdict, queue_ms: float) -> None:
        """Count a verdict."""
        self._verdicts.labels(verdict.verdict).inc()
        self._stages.labels("queue").observe(queue_ms / 1000)
        for stage in _STAGES:
            self._stages.labels(stage).observe(getattr(verdict.timings_ms, stage) / 1000)
        self._tiles.inc(verdict.tiles)
        self._tokens.inc(verdict.tokens.prompt)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)
