"""Every metric of the gateway. One prefix, seconds and bytes, labels from small fixed sets only; a registry for each application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BYTES = tuple(float(4**power) for power in range(7, 14))


class EnginePasses(Collector):
    """Passes through the networks as the engine counts them; they start again at 0 when the engine does, as counters may."""

    def __init__(self) -> None:
        self.latest: list[dict[str, Any]] = []

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield one counter with the labels model, purpose and direction."""
        labels = ["model", "purpose", "direction"]
        family = CounterMetricFamily("chronolens_passes", "Passes of one clip through a network.", labels=labels)
        for entry in self.latest:
            family.add_metric([str(entry[label]) for label in labels], entry["passes"])
        yield family


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
        self.passes = EnginePasses()
        self.registry.register(self.passes)
        self.restarts = Counter("chronolens_child_restarts", "Restarts of child processes.", ["child"], registry=self.registry)
