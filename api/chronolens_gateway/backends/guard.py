"""Retries and the circuit breaker: how the gateway treats an engine that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from chronolens.errors import ChronolensError, DeadlineExceededError, EngineCrashedError, EngineUnavailableError, OverloadedError

T = TypeVar("T")
OPEN_AFTER = 5
OPEN_S = 5.0
_PAUSE_S = 0.2


class Breaker:
    """Stops asking an engine that has failed several times in a row, and tries again with one request after a while.

    What counts as a failure: nobody answers, nonsense, no answer in time. A refusal is an answer. An engine that died of a request does
    not count, or one poisonous clip after the other would shut out everybody; neither does one that is full.

    As a :class:`chronolens.engine_client.Guard` it tries a second time when the first found nobody or a dying engine: calls change nothing,
    so that is always safe. What came too late is not tried again.

    Args:
        open_after: failures in a row that open it.
        open_s: how long it then refuses.
    """

    def __init__(self, open_after: int = OPEN_AFTER, open_s: float = OPEN_S) -> None:
        self._open_after = open_after
        self._open_s = open_s
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_again_at = 0.0
        self._trying = False

    def __call__(self, work: Callable[[], T], deadline: float) -> T:
        """See :class:`chronolens.engine_client.Guard`.

        Raises:
            EngineUnavailableError: ``circuit-open`` while it is open; otherwise whatever ``work`` raised last.
        """
        try:
            return self._counted(work)
        except EngineUnavailableError as error:
            if isinstance(error, OverloadedError) or error.code == "circuit-open" or time.monotonic() + _PAUSE_S >= deadline:
                raise
        time.sleep(_PAUSE_S)
        return self._counted(work)

    def once(self, work: Callable[[], T], deadline: float) -> T:
        """Try once, for callers that try again by themselves; see :class:`chronolens.engine_client.Guard`."""
        return self._counted(work)

    @property
    def state(self) -> str:
        """``closed`` (all is well), ``open`` or ``half-open`` (the next request is a trial)."""
        with self._lock:
            if self._failures < self._open_after:
                return "closed"
            return "open" if time.monotonic() < self._closed_again_at else "half-open"

    def _counted(self, work: Callable[[], T]) -> T:
        trial = self._enter()
        failed: bool | None = None
        try:
            answer = work()
            failed = False
        except (OverloadedError, EngineCrashedError):
            raise
        except (EngineUnavailableError, DeadlineExceededError):
            failed = True
            raise
        except ChronolensError:
            failed = False
            raise
        finally:
            self._leave(trial, failed)
        return answer

    def _enter(self) -> bool:
        """Return whether this request is the one that tries an open circuit."""
        with self._lock:
            if self._failures < self._open_after:
                return False
            if time.monotonic() < self._closed_again_at or self._trying:
                raise EngineUnavailableError("the models have failed several times in a row and get time to recover", code="circuit-open")
            self._trying = True
            return True

    def _leave(self, trial: bool, failed: bool | None) -> None:
        with self._lock:
            if trial:
                self._trying = False
            if failed is None:
                return
            self._failures = self._failures + 1 if failed else 0
            if failed and self._failures >= self._open_after:
                self._closed_again_at = time.monotonic() + self._open_s
