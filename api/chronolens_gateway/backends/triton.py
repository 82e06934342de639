"""The engine behind a Triton server."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from chronolens.engine_wire import LANES, Call, Facts
from chronolens.errors import (
    ChronolensError,
    DeadlineExceededError,
    EngineCrashedError,
    EngineUnavailableError,
    OverloadedError,
    UnknownModelError,
)
from chronolens_gateway.backends.triton_repair import Repair
from chronolens_gateway.backends.triton_wires import BrokenError, LateError, RefusedError, UnreachableError, Wire, open_wire

EXPLAIN = "-explain"
PROBE_S = 2.5
"""A dead stub is reported after a second; a living one may be in the middle of a slice."""
_METRIC = "chronolens_passes_total"
_log = logging.getLogger("chronolens_gateway.triton")
T = TypeVar("T")


@dataclass(frozen=True)
class Addresses:
    """Where a server listens: ``http`` and ``grpc`` as ``host:port`` or ``unix:PATH``, ``metrics`` as ``host:port``.

    Args:
        key: of a server that restricts its protocols with the header ``chronolens-key``; None when it does not.
    """

    http: str
    grpc: str
    metrics: str
    key: str | None = field(default=None, repr=False)


class TritonTransport:
    """One Triton server, as :class:`chronolens.engine_client.Transport`.

    All operations go to the packed model ``MODEL-explain``, with the lane of the call as its priority.

    Args:
        where: the addresses, or the file ``triton.json`` in which the launcher writes them; the server may come later, go, and come back.
        protocol: of the two that the server speaks.
    """

    name = "triton"

    def __init__(self, where: Addresses | Path, protocol: Literal["http", "grpc"] = "grpc") -> None:
        self._where = where
        self._protocol = protocol
        self._lock = threading.Lock()
        self._wires: dict[Addresses, Wire] = {}
        self._waiting: Counter[str] = Counter()
        self._repair = Repair(self._wire, None if isinstance(where, Addresses) else where.with_name("triton-repair.lock"))

    def send(self, call: Call, body: bytes, timeout_s: float) -> bytes:
        """See :meth:`chronolens.engine_client.Transport.send`.

        Raises:
            UnknownModelError: the server's repository has no such model.
        """
        return self._infer(call.model, body, LANES.index(call.lane) + 1, timeout_s)

    def sources(self) -> list[str]:
        """Return the names of the models in the server's repository, whether they are loaded or not."""
        names = self._asked(lambda wire: wire.index())
        return sorted(name.removesuffix(EXPLAIN) for name in names if name.endswith(EXPLAIN))

    def passes(self) -> list[Facts]:
        """Return what the models have counted since they were loaded, read from the server's metrics."""
        try:
            response = httpx.get(f"http://{self._addresses().metrics}/metrics", timeout=PROBE_S, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            raise EngineUnavailableError("the server that runs the models does not answer") from error
        samples = [sample for family in text_string_to_metric_families(response.text) for sample in family.samples]
        counted: list[dict[str, Any]] = [{**one.labels, "passes": int(one.value)} for one in samples if one.name == _METRIC]
        return sorted(counted, key=lambda one: (one["model"], one["purpose"], one["direction"]))

    def stats(self) -> Facts:
        """Return nothing: Triton has metrics of its own."""
        return {}

    def healthy(self) -> bool:
        """Ask each model to describe itself, because server and model still say that they are ready when the model's process is dead."""
        try:
            return all([self._answers(source) for source in self.sources()])  # noqa: C419  # each one, so that each is repaired
        except ChronolensError:
            return False

    def close(self) -> None:
        """Close all connections, once a repair that is under way has ended."""
        self._repair.close()
        with self._lock:
            for wire in self._wires.values():
                wire.close()
            self._wires.clear()

    def _answers(self, source: str) -> bool:
        call = Call("describe", source)
        try:
            self._infer(source, call.pack(), 1, PROBE_S)
        except ChronolensError:
            return False
        return True

    def _infer(self, source: str, body: bytes, priority: int, timeout_s: float) -> bytes:
        model = f"{source}{EXPLAIN}"
        self._repair.settle(model)
        started = time.monotonic()
        self._count(model, 1)
        try:
            return self._asked(lambda wire: wire.infer(model, body, priority, timeout_s))
        except RefusedError as error:
            raise self._refused(model, str(error)) from error
        finally:
            self._count(model, -1)
            self._repair.nudge(model, lambda: self._waiting[model], time.monotonic() - started)

    def _refused(self, model: str, message: str) -> ChronolensError:
        """Return the error that a refusal of the server means; what a repair may help is repaired."""
        if "is not healthy" in message or "Stub process" in message:
            self._repair.begin(model)
            return EngineCrashedError("the process that runs the model died")
        if "maximum queue size" in message:
            return OverloadedError("more requests wait for the model than the server keeps waiting")
        if "timeout expired" in message.lower():
            return DeadlineExceededError("the time of this request was over before its turn came")
        if "unknown model" not in message and "no available versions" not in message and "not ready" not in message:
            _log.warning("the server refused a call: %s", message)
            return EngineUnavailableError("the server that runs the models failed on this request")
        names = self._asked(lambda wire: wire.index())
        if model not in names:
            return UnknownModelError("no model of that name is served", pointer="/model", allowed=self.sources())
        if names[model] in ("", "UNAVAILABLE"):  # whoever unloaded it did not load it again
            self._repair.begin(model)
        return EngineUnavailableError("the model is being loaded")

    def _asked(self, work: Callable[[Wire], T]) -> T:
        try:
            return work(self._wire())
        except UnreachableError as error:
            raise EngineUnavailableError("the server that runs the models does not answer") from error
        except BrokenError as error:
            raise EngineCrashedError("the server that runs the models went away while it held the request") from error
        except LateError as error:
            raise DeadlineExceededError("the models did not answer in time") from error

    def _count(self, model: str, change: int) -> None:
        with self._lock:
            self._waiting[model] += change

    def _wire(self) -> Wire:
        """Return the wire to where the server is now; those to where it was are left to requests that may still hold them."""
        addresses = self._addresses()
        with self._lock:
            if addresses not in self._wires:
                address = addresses.http if self._protocol == "http" else addresses.grpc
                self._wires[addresses] = open_wire(self._protocol, address, addresses.key)
            return self._wires[addresses]

    def _addresses(self) -> Addresses:
        if isinstance(self._where, Addresses):
            return self._where
        try:
            written = json.loads(self._where.read_bytes())
            return Addresses(written["http"], written["grpc"], written["metrics"], written.get("key"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineUnavailableError("the server that runs the models has not started yet") from error
