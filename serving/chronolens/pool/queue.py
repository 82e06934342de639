"""What waits for the workers: a queue for each model and lane, emptied in batches, urgent lanes first."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from chronolens.engine_wire import LANES, Head
from chronolens.errors import OverloadedError


@dataclass
class Item:
    """One call that waits or is worked on.

    Args:
        head: what the queue knows of it.
        body: the packed call.
        answer: gets the packed answer, or an error.
        crashes: how many workers died while they held it; after the first it travels alone.
        arrived: monotonic seconds.
    """

    head: Head
    body: bytes
    answer: Future[bytes] = field(default_factory=Future)
    crashes: int = 0
    arrived: float = field(default_factory=time.monotonic)


class CallQueue:
    """Calls in the order in which they are to be worked on. Thread-safe.

    Args:
        most: calls that may wait; one more is refused.
        max_batch: calls that are handed out together; they are of one model and one lane.
    """

    def __init__(self, most: int, max_batch: int) -> None:
        self._most = most
        self._max_batch = max_batch
        self._lines: dict[tuple[str, str], deque[Item]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, item: Item) -> None:
        """Let a call wait.

        Raises:
            OverloadedError: too many wait already, or the queue is closed.
        """
        with self._changed:
            if self._closed or sum(len(line) for line in self._lines.values()) >= self._most:
                raise OverloadedError("too many requests wait for the models", limit=self._most)
            self._line(item).append(item)
            self._changed.notify()

    def put_back(self, item: Item) -> None:
        """Let a call whose worker died go first in its line; there is always room for it."""
        with self._changed:
            if self._closed:
                item.answer.cancel()
            else:
                self._line(item).appendleft(item)
                self._changed.notify()

    def take(self, patience_s: float) -> list[Item]:
        """Return the next batch, waiting at most ``patience_s`` for one; an empty list when there is none.

        The most urgent lane goes first, within it the model that has waited longest. Calls that nobody waits for any more are dropped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._lines.values()), patience_s)
            line = self._next()
            if line is None:
                return []
            batch = [line.popleft()]
            while line and len(batch) < self._max_batch and not batch[0].crashes and not line[0].crashes:
                item = line.popleft()
                if not item.answer.cancelled():
                    batch.append(item)
            return batch

    def close(self) -> None:
        """Take nothing in any more and give up what waits."""
        with self._changed:
            self._closed = True
            for line in self._lines.values():
                for item in line:
                    item.answer.cancel()
                line.clear()
            self._changed.notify_all()

    def waiting(self) -> Iterator[tuple[str, str, int, float]]:
        """Yield model, lane, number of waiting calls and the age of the oldest in seconds."""
        now = time.monotonic()
        with self._changed:
            found = [(model, lane, len(line), now - line[0].arrived) for (lane, model), line in self._lines.items() if line]
        yield from found

    def _line(self, item: Item) -> deque[Item]:
        return self._lines.setdefault((item.head.lane, item.head.model), deque())

    def _next(self) -> deque[Item] | None:
        for key, line in list(self._lines.items()):
            while line and line[0].answer.cancelled():
                line.popleft()
            if not line:
                del self._lines[key]  # names come from callers, so empty lines must not pile up
        waiting = sorted(self._lines.items(), key=lambda entry: (LANES.index(entry[0][0]), entry[1][0].arrived))
        return waiting[0][1] if waiting else None
