"""The engine worker of this machine, reached over its Unix socket."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from chronolens.errors import EngineUnavailableError
from chronolens.pipeline import Engine
from chronolens.schemas import ModelInfo
from chronolens.worker_client import WorkerClient

_FRESH_S = 5.0


class LocalBackend:
    """One engine worker, as :class:`chronolens_gateway.backends.base.Backend`.

    Args:
        socket: path of the worker's Unix socket; the worker may come later, go, and come back.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._client = WorkerClient(socket)
        self._probe = WorkerClient(socket, timeout_s=2.0)
        self._lock = threading.Lock()
        self._models: list[ModelInfo] | None = None
        self._asked_at = 0.0

    def engine(self) -> Engine:
        """Return the worker's client."""
        return self._client

    def models(self) -> list[ModelInfo]:
        """Return the served models, asked again every few seconds; while the worker restarts, those known from before."""
        known = self._models
        if known is not None and time.monotonic() - self._asked_at <= _FRESH_S:
            return known
        if not self._lock.acquire(blocking=known is None):  # somebody else is asking; what is known will do meanwhile
            return known or []
        try:
            self._models = self._ask()
        except EngineUnavailableError:
            if self._models is None:
                raise
        finally:
            self._asked_at = time.monotonic()
            self._lock.release()
        return self._models

    def passes(self) -> list[dict[str, Any]]:
        """Return what the worker has counted since it started."""
        self._must_have_started()
        return self._probe.passes()

    def healthy(self) -> bool:
        """Return whether the worker answers now."""
        return self._socket.exists() and self._probe.healthy()

    def _ask(self) -> list[ModelInfo]:
        self._must_have_started()
        # At first the models are loaded, which takes a while; later the list is only read.
        return (self._client if self._models is None else self._probe).models()

    def _must_have_started(self) -> None:
        if not self._socket.exists():
            raise EngineUnavailableError("the process that runs the models has not started yet")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._probe.close()
