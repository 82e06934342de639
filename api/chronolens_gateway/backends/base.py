"""Whatever runs the models, as the gateway and the runner see it: one transport, watched over."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Protocol

from chronolens.engine_client import SLICE_TIMEOUT_S, EngineClient, Transport
from chronolens.errors import ChronolensError, DeadlineExceededError, EngineUnavailableError
from chronolens.pipeline import Engine
from chronolens.schemas import ModelInfo
from chronolens_gateway.backends.guard import Breaker

_FRESH_S = 5.0
_AGAIN_S = 0.5
_FIRST_WAIT_S = 2.0
_FIRST_LIST_S = 120.0
_LIST_S = 5.0


class ServerTransport(Transport, Protocol):
    """A transport that also tells how its engine is."""

    def passes(self) -> list[dict[str, Any]]:
        """Return what the engine has counted since it started, see :meth:`chronolens.engine.Engine.passes`.

        Raises:
            EngineUnavailableError: nobody answers.
        """

    def stats(self) -> dict[str, Any]:
        """Return what nobody else publishes: ``restarts`` of workers and ``queues``; nothing where the server has metrics of its own.

        Raises:
            EngineUnavailableError: nobody answers.
        """

    def healthy(self) -> bool:
        """Return within a few seconds whether it would answer now."""

    def close(self) -> None:
        """Close all connections."""


class Backend:
    """One engine behind a transport: the local worker pool, TorchServe or Triton. Methods block and may be called from any thread.

    Args:
        transport: the way to it; the engine may come later, go, and come back.
    """

    def __init__(self, transport: ServerTransport) -> None:
        self._transport = transport
        self.breaker = Breaker()
        self._asking = threading.Lock()
        self._told = threading.Event()
        self._models: dict[str, ModelInfo] = {}
        self._failure: ChronolensError | None = None
        self._asked_at = -math.inf

    @property
    def name(self) -> str:
        """Kind of engine, as in ``ModelInfo.backend``."""
        return self._transport.name

    def engine(self, info: ModelInfo, *, timeout_s: float = SLICE_TIMEOUT_S, retries: bool = True) -> Engine:
        """Return the engine for one model, which refuses to answer with other weights than those of ``info``.

        Args:
            retries: try a second time at once; a job, which can wait, tries again by itself.
        """
        guard = self.breaker if retries else self.breaker.once
        return EngineClient(self._transport, weights=info.weights, timeout_s=timeout_s, guard=guard)

    def models(self) -> list[ModelInfo]:
        """Return the served models, as far as they are known.

        They are asked for again every few seconds, always behind the caller's back: an engine that hangs, or loads for minutes, must not
        keep the threads that everybody needs.

        Raises:
            ChronolensError: nothing is known yet; EngineUnavailableError, or what the engine said.
        """
        if time.monotonic() - self._asked_at > (_FRESH_S if self._models else _AGAIN_S):
            self._ask_behind()
        if not self._models:
            self._told.wait(_FIRST_WAIT_S)
        if not self._models:
            raise self._failure or EngineUnavailableError("the engine has not told its models yet")
        return list(self._models.values())

    def passes(self) -> list[dict[str, Any]]:
        """Return what the engine has counted since it started, see :meth:`chronolens.engine.Engine.passes`.

        Raises:
            EngineUnavailableError: nothing answers.
        """
        return self._transport.passes()

    def stats(self) -> dict[str, Any]:
        """Return the engine's queues and restarts where it has no metrics of its own, see :meth:`ServerTransport.stats`.

        Raises:
            EngineUnavailableError: nothing answers.
        """
        return self._transport.stats()

    def healthy(self) -> bool:
        """Return whether it answers now."""
        return self._transport.healthy()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def _ask_behind(self) -> None:
        """Ask for the models in a thread of its own, unless one does already."""
        if self._asking.acquire(blocking=False):
            self._asked_at = time.monotonic()
            self._told.clear()
            threading.Thread(target=self._refresh, name="models", daemon=True).start()

    def _refresh(self) -> None:
        try:
            self._models, self._failure = self._ask(), None
        except ChronolensError as error:  # what was known stands
            self._failure = error
        finally:
            self._asking.release()
            self._told.set()

    def _ask(self) -> dict[str, ModelInfo]:
        # At first the models may still be loading; later the list is only read.
        client = EngineClient(self._transport, timeout_s=_LIST_S if self._models else _FIRST_LIST_S)
        found: dict[str, ModelInfo] = {}
        failed: ChronolensError | None = None
        for source in self._transport.sources():
            try:
                found |= {info.name: info for info in client.describe(source)}
            except (EngineUnavailableError, DeadlineExceededError) as error:
                failed = error
                found |= {name: info for name, info in self._models.items() if name == source}
        if failed is not None and not found:
            raise failed
        return found
