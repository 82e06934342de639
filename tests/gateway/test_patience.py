"""What a service does while its engine is busy, loading, full or dying: requests are told soon, jobs wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.engines.test_engine_client import INFO

from chronolens.engine_wire import Call, pack_answer, pack_error
from chronolens.errors import (
    ChronolensError,
    DeadlineExceededError,
    EngineCrashedError,
    EngineUnavailableError,
    FatalCallError,
    OptionsError,
    OverloadedError,
    WeightsError,
)
from chronolens_gateway import workflow
from chronolens_gateway.backends import base
from chronolens_gateway.backends.base import Backend
from chronolens_gateway.storage import JobRemovedError, JobStorage, new_job_id
from chronolens_gateway.workflow import Context, _Run


class Engine:
    """A transport whose engine does what it is told."""

    name = "fake"

    def __init__(self, answer: Callable[[Call], bytes]) -> None:
        self.answer = answer
        self.asked = 0

    def send(self, call: Call, body: bytes, timeout_s: float) -> bytes:
        self.asked += 1
        return self.answer(call)

    def sources(self) -> list[str]:
        return [""]

    def healthy(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def described(call: Call) -> bytes:
    return pack_answer(call.id, {}, {"models": [INFO]})


def test_models_are_told_once_known_and_asked_for_behind_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(described)
    backend = Backend(engine)
    assert [info.name for info in backend.models()] == ["m"]
    backend.models()
    assert engine.asked == 1
    monkeypatch.setattr(base, "_FRESH_S", 0.0)
    gate = threading.Event()

    def slowly(call: Call) -> bytes:
        gate.wait(20)
        return described(call)

    engine.answer = slowly
    began = time.monotonic()
    for _ in range(20):
        assert [info.name for info in backend.models()] == ["m"]
    assert time.monotonic() - began < 5
    while engine.asked < 2 and time.monotonic() - began < 15:  # it is asked behind the callers
        time.sleep(0.01)
    for _ in range(20):
        backend.models()
    assert engine.asked == 2  # one asks, the others go on with what is known
    gate.set()


def test_a_loading_engine_does_not_keep_the_threads_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_FIRST_WAIT_S", 0.2)
    gate = threading.Event()

    def slowly(call: Call) -> bytes:
        gate.wait(20)
        return described(call)

    engine = Engine(slowly)
    backend = Backend(engine)
    began = time.monotonic()

    def refused() -> bool:
        with pytest.raises(EngineUnavailableError):
            backend.models()
        return True

    with ThreadPoolExecutor(40) as pool:
        assert all(pool.map(lambda _: refused(), range(40)))
    assert time.monotonic() - began < 10
    assert engine.asked == 1
    gate.set()
    monkeypatch.setattr(base, "_FIRST_WAIT_S", 20.0)
    assert [info.name for info in backend.models()] == ["m"]


def test_what_the_engine_says_of_its_models_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(Engine(lambda call: pack_error(call.id, WeightsError("damaged"))))
    with pytest.raises(WeightsError, match="damaged"):
        backend.models()


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


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Run:
    """A job that is being run, whose pauses are short."""
    storage = JobStorage(tmp_path)
    storage.prepare()
    job_id = new_job_id()
    storage.files(job_id).mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(workflow, "_LOOK_S", 0.001)
    monkeypatch.setattr(workflow, "_FIRST_PAUSE_S", 0.002)
    monkeypatch.setattr(workflow, "_LONGEST_PAUSE_S", 0.005)
    monkeypatch.setattr(storage, "exists", lambda _id: True)
    return _Run(Context(storage, Backend(Engine(described)), patience_s=0.3), job_id)


OPEN = EngineUnavailableError("open", code="circuit-open")
FULL, DOWN, LATE, CRASHED = (
    OverloadedError("full"),
    EngineUnavailableError("down"),
    DeadlineExceededError("late"),
    EngineCrashedError("died"),
)


@pytest.mark.parametrize("error", [DOWN, LATE, CRASHED])
def test_a_job_tries_three_times(run: _Run, error: ChronolensError) -> None:
    work = Work(error, error)
    assert run._patiently(work) == "answer"
    assert work.tries == 3
    work = Work(error, error, error)
    with pytest.raises(type(error)):
        run._patiently(work)
    assert work.tries == 3


@pytest.mark.parametrize("error", [OPEN, FULL])
def test_a_job_waits_for_an_engine_that_takes_nothing_in(run: _Run, error: ChronolensError) -> None:
    work = Work(*[error] * 10)
    assert run._patiently(work) == "answer"
    assert work.tries == 11
    with pytest.raises(type(error)):
        run._patiently(Work(*[error] * 100_000))


@pytest.mark.parametrize("error", [FatalCallError("it kills"), OptionsError("wrong")])
def test_a_job_takes_a_verdict_for_an_answer(run: _Run, error: ChronolensError) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        run._patiently(work)
    assert work.tries == 1


def test_a_job_that_is_removed_waits_no_longer(run: _Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run._storage, "exists", lambda _id: False)
    with pytest.raises(JobRemovedError):
        run._patiently(Work(DOWN))


def test_a_prediction_takes_the_pools_verdict_for_an_answer(run: _Run) -> None:
    engine = Engine(lambda call: pack_error(call.id, FatalCallError("it kills")))
    with pytest.raises(FatalCallError):
        Backend(engine).breaker(lambda: base.EngineClient(engine).models(), time.monotonic() + 60)
    assert engine.asked == 1
