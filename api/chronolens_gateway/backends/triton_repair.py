"""What a Triton server needs done to it from outside: a model whose process died, and a queue that fell asleep."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chronolens.engine_wire import Call
from chronolens.errors import EngineUnavailableError
from chronolens_gateway.backends.triton_wires import BrokenError, LateError, RefusedError, UnreachableError, Wire

PAUSE_S = 5.0
"""Least time between two repairs of a model."""
SETTLE_S = 0.003
"""From an answer until the model that gave it counts as free."""
_LONG_S = 0.05
_NUDGES = 3
_LONGEST_S = 60.0
_PROBE_S = 5.0
_log = logging.getLogger("chronolens_gateway.triton")


class Repair:
    """Unloads and loads models whose process is dead, which is the only thing that brings them back.

    Args:
        wire: gives the way to the server.
        lock: file that keeps the processes of one machine from repairing at the same time; None when there are none.
    """

    def __init__(self, wire: Callable[[], Wire], lock: Path | None) -> None:
        self._wire = wire
        self._lock = lock
        self._busy = threading.Lock()
        self._not_before: dict[str, float] = {}
        self._free_at: dict[str, float] = {}
        self._threads = ThreadPoolExecutor(4, "triton-repair")

    def begin(self, model: str) -> None:
        """Repair a model in the background, unless that was done a moment ago or is being done."""
        with self._busy:
            now = time.monotonic()
            if now < self._not_before.get(model, now):
                return
            self._not_before[model] = now + _LONGEST_S
            self._submit(self._repair, model)

    def settle(self, model: str) -> None:
        """Wait until the model has become free after its last answer to this process; see :meth:`nudge`."""
        pause = self._free_at.get(model, 0.0) - time.monotonic()
        if pause > 0:
            time.sleep(pause)

    def nudge(self, model: str, waiting: Callable[[], int], seconds: float) -> None:
        """Wake the model's queue after an answer, for whoever waits in it.

        The dynamic batcher of a model with priorities is not told when the model becomes free: a call that came while it was busy is
        handed out when the next one comes, or when the batcher looks again, half a second later. The model becomes free shortly after its
        answer has left.

        Args:
            waiting: tells how many calls of this process wait for the model.
            seconds: that the call took; after a long one, calls of other processes may wait.
        """
        self._free_at[model] = time.monotonic() + SETTLE_S
        if waiting() > 0:
            self._submit(self._nudge, model, waiting)
        elif seconds > _LONG_S:
            self._submit(self._nudge_for_others, model, waiting)

    def close(self) -> None:
        """Wait for what is under way; nothing is begun any more."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # it has been closed
            self._threads.submit(work, *arguments)

    def _nudge(self, model: str, waiting: Callable[[], int]) -> None:
        for _ in range(_NUDGES):  # a call that came while the first one was answered waits as well
            time.sleep(SETTLE_S)
            self._poke(model)
            if not waiting():
                return

    def _nudge_for_others(self, model: str, waiting: Callable[[], int]) -> None:
        time.sleep(_LONG_S)
        if not waiting():  # a call that this process has sent meanwhile has woken the queue
            self._nudge(model, waiting)

    def _poke(self, model: str) -> None:
        with contextlib.suppress(RefusedError, BrokenError, UnreachableError, LateError, EngineUnavailableError):
            self._wire().infer(model, Call("describe", model).pack(), 1, _PROBE_S)

    def _repair(self, model: str) -> None:
        started = time.monotonic()
        try:
            with _alone(self._lock):
                if self._dead(model):
                    self._reload(model)
                    _log.warning("%s was dead, and is loaded again after %.1f s", model, time.monotonic() - started)
        except (RefusedError, BrokenError, UnreachableError, LateError, EngineUnavailableError) as error:
            _log.warning("%s could not be loaded again: %s", model, error)
        finally:
            with self._busy:
                self._not_before[model] = time.monotonic() + PAUSE_S

    def _dead(self, model: str) -> bool:
        """Look again, now that nobody else repairs."""
        try:
            self._wire().infer(model, Call("describe", model).pack(), 1, _PROBE_S)
        except RefusedError:
            return True
        except LateError:
            return False
        return False

    def _reload(self, model: str) -> None:
        wire = self._wire()
        with contextlib.suppress(RefusedError):  # there is nothing to unload
            wire.unload(model)
        wire.load(model)  # at once: of a dead process the server says READY until half a minute after it was unloaded


@contextlib.contextmanager
def _alone(path: Path | None) -> Iterator[None]:
    """Hold the lock of a file."""
    if path is None:
        yield
        return
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
