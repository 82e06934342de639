"""Every metric of the gateway. One prefix, seconds and bytes, labels from small fixed sets only; a registry for each application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chronolens.engine_wire import LANES

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BYTES = tuple(float(4**power) for power in range(7, 14))


class EngineFigures(Collector):
    """What the engine counts itself. Passes of a model server start again at 0 when it does, as counters may; those of the pool never."""

    def __init__(self) -> None:
        self.passes: list[dict[str, Any]] = []
        self.stats: dict[str, Any] = {}

    def collect(self) -> Iterator[Metric]:
        """Yield passes by model, purpose and direction; restarts of workers; length and age of the pool's queues by lane."""
        labels = ["model", "purpose", "direction"]
        passes = CounterMetricFamily("chronolens_passes", "Passes of one clip through a network.", labels=labels)
        for entry in self.passes:
            passes.add_metric([str(entry[label]) for label in labels], entry["passes"])
        yield passes
        if self.stats:
            yield CounterMetricFamily("chronolens_worker_restarts", "Restarts of engine workers.", value=self.stats["restarts"])
            yield from self._queues(self.stats["queues"])

    def _queues(self, queues: list[dict[str, Any]]) -> Iterator[Metric]:
        calls = GaugeMetricFamily("chronolens_engine_waiting", "Calls that wait for a worker.", labels=["lane"])
        oldest = GaugeMetricFamily("chronolens_engine_waiting_seconds", "How long the oldest of them has waited.", labels=["lane"])
        for lane in LANES:
            here = [queue for queue in queues if queue["lane"] == lane]
            calls.add_metric([lane], sum(queue["calls"] for queue in here))
            oldest.add_metric([lane], max((queue["oldest_s"] for queue in here), default=0.0))
        yield calls
        yield oldest


class Metrics:
    """The metrics of one application. Label ``route`` is a route template, ``code`` a problem code, never a text of the caller."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # one series less for each counter; the start time says nothing here
        self.registry = CollectorRegistry()
        self.requests = Counter("chronolens_http_requests", "Answered requests.", ["method", "route", "status"], registry=self.registry)
        self.request_seconds = Histogram(
            "chronolens_http_request_seconds", "From request to last byte.", ["method", "route"], buckets=_SECONDS, registry=self.registry
        )
        self.refusals = Counter("chronolens_refusals", "Refused requests by problem code.", ["code"], registry=self.registry)
        self.upload_bytes = Histogram("chronolens_upload_bytes", "Sizes of stored clips.", buckets=_BYTES, registry=self.registry)
        self.decode_seconds = Histogram(
            "chronolens_decode_seconds", "Decoding of one clip in the sandbox.", buckets=_SECONDS, registry=self.registry
        )
        self.predict_seconds = Histogram(
            "chronolens_predict_seconds", "One prediction, without decoding.", ["model"], buckets=_SECONDS, registry=self.registry
        )
        self.jobs_accepted = Counter("chronolens_jobs_accepted", "Accepted explanation jobs.", ["model"], registry=self.registry)
        self.jobs_waiting = Gauge("chronolens_jobs", "Jobs not yet ended.", ["status"], registry=self.registry)
        self.ready = Gauge("chronolens_ready", "1 when the part answers.", ["part"], registry=self.registry)
        self.breaker = Gauge("chronolens_breaker_open", "1 while the engine is given time to recover.", ["engine"], registry=self.registry)
        self.engine = EngineFigures()
        self.registry.register(self.engine)
        self.restarts = Counter("chronolens_child_restarts", "Restarts of child processes.", ["child"], registry=self.registry)
