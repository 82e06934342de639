"""Worker processes behind one queue. A worker that dies takes nothing with it: what it held is tried again alone, once."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from chronolens.engine_wire import head_of, pack_error
from chronolens.errors import DeadlineExceededError, EngineCrashedError, EngineUnavailableError, FatalCallError
from chronolens.pool.process import WorkerProcess, memory_share
from chronolens.pool.queue import CallQueue, Item

MOST_CRASHES = 2
"""Workers that may die of one call before the call is to blame."""
_IDLE_S = 0.5
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolOptions:
    """How a pool is run.

    Args:
        command: that starts a worker; each gets ``--index N`` and ``--fd N`` added.
        workers: processes; one a GPU, or one a machine without.
        max_batch: calls that share passes.
        max_waiting: calls that may wait; one more is refused.
        hang_s: a worker silent for longer is killed.
        start_s: longest start of a worker.
        memory_bytes: most resident memory of a worker; four fifths of the machine's, shared, when None.
    """

    command: Sequence[str]
    workers: int = 1
    max_batch: int = 8
    max_waiting: int = 256
    hang_s: float = 100.0
    start_s: float = 120.0
    memory_bytes: int | None = None


class Pool:
    """Worker processes and what waits for them. Workers start at once, each kept alive by a thread of its own."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._queue = CallQueue(options.max_waiting, options.max_batch)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._passes: dict[int, Counter[tuple[str, str, str]]] = {}
        self._ended: Counter[tuple[str, str, str]] = Counter()
        self._counts: Counter[str] = Counter()
        self._ready: dict[int, WorkerProcess] = {}
        self._threads = [threading.Thread(target=self._keep, args=(index,), name=f"worker-{index}") for index in range(options.workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, body: bytes) -> Future[bytes]:
        """Let a packed call wait for its turn and return its answer's future; cancelling it gives up the turn.

        Raises:
            OptionsError: the bytes are no call.
            OverloadedError: too many wait already.
        """
        item = Item(head_of(body), body)
        self._queue.put(item)
        return item.answer

    def ready(self) -> bool:
        """Return whether a worker is there to work."""
        return bool(self._ready)

    def stats(self) -> dict[str, Any]:
        """Return what operators want to know: workers, queues, restarts, batches and calls, and passes since the pool began."""
        with self._lock:
            passes = sum(self._passes.values(), self._ended)
            workers = [{"index": index, "pid": worker.pid, "memory_bytes": worker.memory()} for index, worker in self._ready.items()]
            counts = dict(self._counts)
        return {
            "workers": workers,
            "queues": [dict(zip(("model", "lane", "calls", "oldest_s"), entry, strict=True)) for entry in self._queue.waiting()],
            "restarts": counts.get("restarts", 0),
            "batches": counts.get("batches", 0),
            "calls": counts.get("calls", 0),
            "passes": [
                {"model": model, "purpose": purpose, "direction": direction, "passes": count}
                for (model, purpose, direction), count in sorted(passes.items())
            ],
        }

    def close(self) -> None:
        """Stop all workers; what waits is given up."""
        self._stopping.set()
        self._queue.close()
        for thread in self._threads:
            thread.join()

    def _keep(self, index: int) -> None:
        """Start a worker, feed it until it dies, and begin anew; after starts that led nowhere later and later."""
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                worked = self._work(index)
            except Exception:  # this thread is all that keeps the worker alive, so nothing may end it
                _log.exception("worker %d", index)
                worked = False
            if worked:
                pause = _FIRST_PAUSE_S
            if not self._stopping.wait(pause):
                with self._lock:
                    self._counts["restarts"] += 1
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _work(self, index: int) -> bool:
        """Let one worker live; return whether it came to work."""
        options = self._options
        limit = options.memory_bytes or memory_share(options.workers)
        command = [*options.command, "--index", str(index)]
        try:
            worker = WorkerProcess(command, memory_bytes=limit, start_s=options.start_s, abandoned=self._stopping.is_set)
        except EngineUnavailableError as error:
            _log.error("worker %d did not start: %s", index, error.detail)
            return False
        try:
            return self._feed(index, worker)
        finally:
            with self._lock:
                self._ready.pop(index, None)
                self._ended.update(self._passes.pop(index, {}))
            worker.close()

    def _feed(self, index: int, worker: WorkerProcess) -> bool:
        """Give batches to a worker until it dies or the pool stops; return whether there was one."""
        with self._lock:
            self._ready[index] = worker
        worked = False
        while worker.alive() and not self._stopping.is_set():
            batch = self._queue.take(_IDLE_S)
            if batch:
                worked = True
                self._serve(index, worker, batch)
        return worked

    def _serve(self, index: int, worker: WorkerProcess, batch: list[Item]) -> None:
        """Let a worker answer a batch. When it dies of it the calls wait again, alone, or are refused."""
        try:
            answers, passes = worker.ask([item.body for item in batch], self._options.hang_s)
            counted = Counter({(entry["model"], entry["purpose"], entry["direction"]): int(entry["passes"]) for entry in passes})
        except EngineUnavailableError as error:
            for item in reversed(batch):
                self._again(item, error, alone=len(batch) == 1)
            return
        except Exception:
            for item in batch:
                _settle(item, pack_error(item.head.id, EngineUnavailableError("the pool failed on this request")))
            raise
        with self._lock:
            self._passes[index] = counted
            self._counts["batches"] += 1
            self._counts["calls"] += len(batch)
        for item, answer in zip(batch, answers, strict=True):
            _settle(item, answer)

    def _again(self, item: Item, error: EngineUnavailableError, *, alone: bool) -> None:
        """Let a call whose worker died wait again, unless it is to blame or nobody waits for it.

        One that hung has had all the time there is; one that died in company may well be innocent.
        """
        item.crashes += 1
        late = item.head.expires_at is not None and time.time() >= item.head.expires_at
        if late:
            _settle(item, pack_error(item.head.id, DeadlineExceededError("the models did not answer in time")))
        elif not isinstance(error, EngineCrashedError):
            _settle(item, pack_error(item.head.id, error))
        elif item.crashes >= MOST_CRASHES or (alone and error.code == "engine-hung"):
            _settle(item, pack_error(item.head.id, FatalCallError(error.detail, code=error.code)))
        else:
            self._queue.put_back(item)


def _settle(item: Item, answer: bytes) -> None:
    """Answer a call, unless its caller has gone meanwhile."""
    if item.answer.set_running_or_notify_cancel():
        item.answer.set_result(answer)
