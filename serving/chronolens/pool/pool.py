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
from chronolens.errors import DeadlineExceededError, EngineCrashedError, EngineUnavailableError
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
    hang_s: float = 120.0
    start_s: float = 120.0
    memory_bytes: int | None = None


class Pool:
    """Worker processes and what waits for them. Workers start at once, each kept alive by a thread of its own."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._queue = CallQueue(options.max_waiting, options.max_batch)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._passes: dict[tuple[int, int], list[dict[str, Any]]] = {}
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
            passes: Counter[tuple[str, str, str]] = Counter()
            for counted in self._passes.values():
                for entry in counted:
                    passes[entry["model"], entry["purpose"], entry["direction"]] += entry["passes"]
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
        """Start a worker, feed it until it dies, and begin anew, sooner the longer it lived."""
        pause = _FIRST_PAUSE_S
        starts = 0
        while not self._stopping.is_set():
            starts += 1
            worker = self._started(index)
            if worker is not None:
                served = self._feed(index, starts, worker)
                pause = _FIRST_PAUSE_S if served else pause
            if not self._stopping.wait(pause):
                with self._lock:
                    self._counts["restarts"] += 1
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _started(self, index: int) -> WorkerProcess | None:
        options = self._options
        limit = options.memory_bytes or memory_share(options.workers)
        try:
            return WorkerProcess([*options.command, "--index", str(index)], memory_bytes=limit, start_s=options.start_s)
        except EngineUnavailableError as error:
            _log.error("worker %d did not start: %s", index, error.detail)
            return None

    def _feed(self, index: int, start: int, worker: WorkerProcess) -> int:
        """Give batches to a worker until it dies or the pool stops; return how many it answered."""
        self._ready[index] = worker
        answered = 0
        try:
            while not self._stopping.is_set():
                if not worker.alive():
                    _log.warning("worker %d ended while idle", index)
                    break
                batch = self._queue.take(_IDLE_S)
                if batch:
                    self._serve(index, start, worker, batch)
                    answered += 1
        except EngineUnavailableError as error:
            _log.warning("worker %d: %s", index, error.detail)
        finally:
            del self._ready[index]
            worker.close()
        return answered

    def _serve(self, index: int, start: int, worker: WorkerProcess, batch: list[Item]) -> None:
        """Let a worker answer a batch.

        Raises:
            EngineUnavailableError: it died; the calls wait again, alone, or are refused.
        """
        try:
            answers, facts = worker.ask([item.body for item in batch], self._options.hang_s, self._stopping.is_set)
        except EngineUnavailableError as error:
            for item in reversed(batch):
                self._again(item, error, alone=len(batch) == 1)
            raise
        with self._lock:
            self._passes[index, start] = facts["passes"]
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
        elif item.crashes >= MOST_CRASHES or (alone and error.code == "engine-hung") or not isinstance(error, EngineCrashedError):
            _settle(item, pack_error(item.head.id, error))
        else:
            self._queue.put_back(item)


def _settle(item: Item, answer: bytes) -> None:
    """Answer a call, unless its caller has gone meanwhile."""
    if item.answer.set_running_or_notify_cancel():
        item.answer.set_result(answer)
