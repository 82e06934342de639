"""Several conversations with one engine, of which each asks one call at a time, in shared passes.

Every conversation runs in a thread of its own. A round begins when each of them waits for an answer or is over, so what shares a pass does
not depend on how fast a thread is; the engine is asked in the caller's thread alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from chronolens.answering import Answer
from chronolens.engine_client import Transport
from chronolens.engine_wire import Call
from chronolens.errors import DeadlineExceededError

T = TypeVar("T")
Answering = Callable[[list[bytes]], list[Answer]]


class _Seat:
    """The engine as one conversation sees it, a :class:`chronolens.engine_client.Transport`."""

    def __init__(self, name: str, turn: threading.Condition, ends_at: float) -> None:
        self.name = name
        self.body: bytes | None = None
        self.over = False
        self._turn = turn
        self._ends_at = ends_at
        self._answer: bytes | None = None

    def send(self, call: Call, body: bytes, timeout_s: float) -> bytes:
        """Wait for the next round and return its answer.

        Raises:
            DeadlineExceededError: the conversation has lasted too long.
        """
        if time.monotonic() >= self._ends_at:
            raise DeadlineExceededError("the clip could not be explained in the time that one request is given")
        with self._turn:
            self.body, self._answer = body, None
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._answer is not None)
            assert self._answer is not None
            return self._answer

    def sources(self) -> list[str]:
        """Return nothing to describe: who talks here knows the model."""
        return []

    def close(self) -> None:
        """Say that no further call will come."""
        with self._turn:
            self.over = True
            self._turn.notify_all()

    def answer(self, answer: Answer) -> None:
        """Let the conversation go on; the caller holds the turn."""
        self.body, self._answer = None, answer.body


def converse(
    talks: Sequence[Callable[[Transport], T]],
    answer: Answering,
    *,
    name: str,
    ends_at: float,
    first: Sequence[bytes] = (),
) -> tuple[list[T], list[Answer]]:
    """Hold conversations with one engine until all are over.

    Args:
        talks: each gets its transport and runs in a thread of its own; it must not raise.
        answer: answers packed calls, in order; must not raise. Called in this thread.
        name: of the engine, for the transports.
        ends_at: value of ``time.monotonic()`` from which on no further call is taken.
        first: packed calls without a conversation, answered in the first round.

    Returns:
        What the conversations returned, and the answers to ``first``, both in order.
    """
    if not talks:
        return [], answer(list(first))
    turn = threading.Condition()
    seats = [_Seat(name, turn, ends_at) for _ in talks]

    def hold(talk: Callable[[Transport], T], seat: _Seat) -> T:
        try:
            return talk(seat)
        finally:
            seat.close()

    with ThreadPoolExecutor(len(talks), "conversation") as threads:
        running = [threads.submit(hold, talk, seat) for talk, seat in zip(talks, seats, strict=True)]
        answers = _rounds(seats, turn, answer, list(first))
        return [future.result() for future in running], answers


def _rounds(seats: Sequence[_Seat], turn: threading.Condition, answer: Answering, first: list[bytes]) -> list[Answer]:
    """Answer round after round; return the answers to ``first``, which joins the first one."""
    early: list[Answer] = []
    while True:
        with turn:
            turn.wait_for(lambda: all(seat.over or seat.body is not None for seat in seats))
            asking = [(seat, seat.body) for seat in seats if seat.body is not None]
        if not asking and not first:
            return early
        answers = answer(first + [body for _, body in asking])
        early, first, answers = early or answers[: len(first)], [], answers[len(first) :]
        with turn:
            for (seat, _), one in zip(asking, answers, strict=True):
                seat.answer(one)
            turn.notify_all()
