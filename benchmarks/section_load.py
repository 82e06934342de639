"""How many requests a second, and how long each takes, when several come at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Any

from markdown_table import Table
from samples import clocked, spread
from server_facts import counts
from tiny_services import MODEL, Service

from chronolens import pipeline

CONCURRENCY = (1, 4, 16)


@dataclass
class Load:
    """What several threads got done, over all rounds.

    Args:
        seconds: from the first request to the last answer of each round, added up.
        each: seconds of every request.
        calls, batches: that the engine counted meanwhile.
    """

    seconds: float = 0.0
    each: list[float] = field(default_factory=list)
    calls: int = 0
    batches: int = 0

    def row(self) -> dict[str, Any]:
        """Return the cells of a table."""
        rate = len(self.each) / self.seconds
        together = {"calls_a_batch": self.calls / self.batches if self.batches else None}
        return {"requests": len(self.each), "per_second": rate, **spread("latency", self.each), **together}


def under_load(work: Callable[[], object], concurrency: int, requests: int) -> tuple[float, list[float]]:
    """Do a piece of work ``requests`` times in ``concurrency`` threads that begin together.

    Returns:
        Seconds for everything and seconds of each.
    """
    start = threading.Barrier(concurrency + 1)
    left = repeat(None, requests)

    def worker() -> list[float]:
        start.wait()
        return [clocked(work)[0] for _ in left]  # threads share the iterator, so each takes what the others have not

    with ThreadPoolExecutor(concurrency) as threads:
        running = [threads.submit(worker) for _ in range(concurrency)]
        start.wait()
        seconds, each = clocked(lambda: [one for future in running for one in future.result()])
    return seconds, each


def load_tables(services: Sequence[Service], rounds: int, requests: int) -> list[Table]:
    """Return throughput and latency at every concurrency, over the transport and over HTTP; the bare call beside them.

    Args:
        rounds: in each of them every engine, way and concurrency has its turn; one more before them warms up.
        requests: of each turn.
    """
    found: dict[tuple[str, str, int], Load] = {}
    for number in range(-1, rounds):
        for service in services:
            for way, concurrency, work in _turns(service):
                entry = found.setdefault((service.name, way, concurrency), Load())
                if number >= 0:
                    _add(entry, service, work, concurrency, requests)
                else:
                    under_load(work, concurrency, concurrency)
    rows = [{"engine": name, "way": way, "concurrency": concurrency, **entry.row()} for (name, way, concurrency), entry in found.items()]
    ceiling = _ceiling(services[0], requests)
    notes = [
        "bare: the call in this process, one after the other. engine: threads with the gateway's client and transport, no gateway, no "
        "decoding. HTTP: `POST /v1/predictions`, decoding in, default settings: two clips are decoded at a time, four predictions asked "
        "at a time, the others wait.",
        f"Requests come from threads of one process on the same machine. From `GET /healthz` they get {ceiling:,.0f} answers a "
        f"second at {CONCURRENCY[-1]}: more than that the generator cannot show.",
        "calls a batch: as the engine counts, its own descriptions for the gateway included; Triton's count also holds the gateway's calls "
        "that wake its queue.",
    ]
    return [Table("Requests at the same time", rows, notes)]


def _turns(service: Service) -> Iterator[tuple[str, int, Callable[[], object]]]:
    yield "bare", 1, partial(_look, service, service.bare)
    for concurrency in CONCURRENCY:
        yield "engine", concurrency, partial(_look, service, service.client)
    for concurrency in CONCURRENCY:
        yield "HTTP", concurrency, service.predict


def _look(service: Service, engine: pipeline.Engine) -> None:
    engine.look(MODEL, service.frames, target=None, gradcam=None)


def _add(entry: Load, service: Service, work: Callable[[], object], concurrency: int, requests: int) -> None:
    before = counts(service.settings, MODEL)
    seconds, each = under_load(work, concurrency, requests)
    after = counts(service.settings, MODEL)
    entry.seconds += seconds
    entry.each += each
    entry.calls += after.calls - before.calls
    entry.batches += after.batches - before.batches


def _ceiling(service: Service, requests: int) -> float:
    """Return the requests a second that the generator gets done when the answer costs next to nothing."""
    seconds, each = under_load(lambda: service.http.get("/healthz").raise_for_status(), CONCURRENCY[-1], requests)
    return len(each) / seconds
