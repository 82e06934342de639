"""Retries and the circuit breaker, with a clock of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from chronolens.errors import DeadlineExceededError, EngineCrashedError, EngineUnavailableError, OptionsError, OverloadedError
from chronolens_gateway.backends import guard
from chronolens_gateway.backends.guard import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(guard, "time", made)
    return made


class Work:
    """Raises its errors one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tries = 0

    def __call__(self) -> str:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


DOWN, LATE, FULL = EngineUnavailableError("down"), DeadlineExceededError("late"), OverloadedError("full")
CRASHED, WRONG = EngineCrashedError("crashed"), OptionsError("wrong")


def failing(breaker: Breaker, work: Callable[[], Any], deadline: float = 9e9) -> str:
    try:
        breaker(work, deadline)
    except Exception as error:
        return str(getattr(error, "code", error))
    return "answered"


@pytest.mark.parametrize(("error", "tries"), [(DOWN, 2), (CRASHED, 2), (FULL, 1), (LATE, 1), (WRONG, 1), (ValueError("bug"), 1)])
def test_only_what_another_try_can_mend_is_tried_again(clock: Clock, error: Exception, tries: int) -> None:
    work = Work(error)
    found = failing(Breaker(), work)
    assert (work.tries, found == "answered") == (tries, tries == 2)


def test_no_second_try_when_there_is_no_time_for_it(clock: Clock) -> None:
    work = Work(DOWN)
    assert failing(Breaker(), work, clock.now + 0.1) == "engine-unavailable"
    assert work.tries == 1


def test_it_opens_after_failures_in_a_row_and_asks_nobody_meanwhile(clock: Clock) -> None:
    breaker = Breaker(open_after=3, open_s=5)
    assert failing(breaker, Work(DOWN, DOWN)) == "engine-unavailable"
    assert breaker.state == "closed"
    assert failing(breaker, Work(LATE)) == "deadline-exceeded"
    assert breaker.state == "open"
    work = Work()
    assert failing(breaker, work) == "circuit-open"
    assert work.tries == 0


def test_one_request_tries_it_after_a_while(clock: Clock) -> None:
    breaker = Breaker(open_after=1, open_s=5)
    failing(breaker, Work(LATE))
    clock.now += 5
    assert breaker.state == "half-open"
    inside, seen = threading.Event(), []

    def trial() -> str:
        seen.append(failing(breaker, Work()))  # a second one meanwhile
        inside.set()
        return "answer"

    assert breaker(trial, 9e9) == "answer"
    assert inside.is_set()
    assert seen == ["circuit-open"]
    assert breaker.state == "closed"
    failing(breaker, Work(LATE))
    clock.now += 5
    assert failing(breaker, Work(LATE)) == "deadline-exceeded"
    assert breaker.state == "open"
    clock.now += 5
    assert failing(breaker, Work()) == "answered"


def test_a_success_or_a_refusal_starts_the_count_again(clock: Clock) -> None:
    breaker = Breaker(open_after=2)
    for between in (Work(), Work(WRONG)):
        failing(breaker, Work(LATE))
        failing(breaker, between)
        assert breaker.state == "closed"
    failing(breaker, Work(LATE))
    failing(breaker, Work(LATE))
    assert breaker.state == "open"


@pytest.mark.parametrize("error", [CRASHED, FULL])
def test_poisonous_clips_and_a_full_queue_shut_nobody_out(clock: Clock, error: Exception) -> None:
    breaker = Breaker(open_after=2)
    for _ in range(10):
        failing(breaker, Work(error, error))
    assert breaker.state == "closed"


def test_a_bug_in_a_trial_leaves_the_next_request_a_trial(clock: Clock) -> None:
    breaker = Breaker(open_after=1, open_s=5)
    failing(breaker, Work(LATE))
    clock.now += 5
    assert failing(breaker, Work(ValueError("bug"))) == "bug"
    assert failing(breaker, Work()) == "answered"
