"""The worker pool with workers that die, hang and eat on command."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chronolens.engine_wire import Call, unpack_answer
from chronolens.errors import DeadlineExceededError, EngineUnavailableError, FatalCallError, OptionsError, OverloadedError
from chronolens.pool import process
from chronolens.pool.pool import Pool, PoolOptions
from chronolens.pool.process import memory_share

FAKE = Path(__file__).with_name("fake_worker.py")
GENEROUS_S = 30.0
Start = Callable[..., Pool]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a pool of fake workers and closes it after the test."""
    pools: list[Pool] = []

    def begin(slow_s: float = 0.0, **options: Any) -> Pool:
        command = [sys.executable, str(FAKE), "--folder", str(tmp_path), "--slow-s", str(slow_s)]
        pools.append(Pool(PoolOptions(command, **{"memory_bytes": 300 * 1024 * 1024, **options})))
        until(pools[-1].ready)
        return pools[-1]

    yield begin
    for pool in pools:
        pool.close()


def until(held: Callable[[], object]) -> None:
    deadline = time.monotonic() + GENEROUS_S
    while not held():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def call(model: str, number: int = 0, *, urgent: bool = False, seconds: float | None = None) -> Call:
    arguments = {"number": number, **({"gradcam": None} if urgent else {})}
    expires = None if seconds is None else time.time() + seconds
    return Call("look" if urgent else "learn", model, None, arguments, expires_at=expires)


def answered(pool: Pool, one: Call) -> dict[str, Any]:
    return unpack_answer(one.id, pool.submit(one.pack()).result(GENEROUS_S))[1]


def test_a_call_is_answered_by_a_worker(start: Start) -> None:
    assert answered(start(), call("m", 7)) == {"company": 1, "worker": 0, "number": 7}


def test_what_waits_shares_a_batch_of_its_own_model_and_lane(start: Start) -> None:
    pool = start(slow_s=0.5, max_batch=3)
    calls = [call("slow"), *(call("m", number) for number in range(4)), call("other"), call("m", urgent=True)]
    waiting = []
    for one in calls:
        waiting.append(pool.submit(one.pack()))
        if one is calls[0]:
            until(lambda: not pool.stats()["queues"])  # the slow one is being worked on
    found = [unpack_answer(one.id, future.result(GENEROUS_S))[1]["company"] for one, future in zip(calls, waiting, strict=True)]
    assert found == [1, 3, 3, 3, 1, 1, 1]
    assert (pool.stats()["batches"], pool.stats()["calls"]) == (5, 7)


def test_predictions_go_before_masks_that_came_earlier(start: Start, tmp_path: Path) -> None:
    pool = start(slow_s=0.5, max_batch=1)
    calls = [call("slow", 0), call("m", 1), call("m", 2), call("m", 3, urgent=True), call("m", 4, urgent=True)]
    waiting = []
    for one in calls:
        waiting.append(pool.submit(one.pack()))
        if one is calls[0]:
            until(lambda: not pool.stats()["queues"])
    for future in waiting:
        future.result(GENEROUS_S)
    assert (tmp_path / "order").read_text().split() == ["0", "3", "4", "1", "2"]


def test_the_model_that_waited_longest_goes_first_within_a_lane(start: Start, tmp_path: Path) -> None:
    pool = start(slow_s=0.5, max_batch=2)
    calls = [call("slow", 0), call("b", 1), call("a", 2), call("b", 3)]
    waiting = []
    for one in calls:
        waiting.append(pool.submit(one.pack()))
        if one is calls[0]:
            until(lambda: not pool.stats()["queues"])
    for future in waiting:
        future.result(GENEROUS_S)
    assert (tmp_path / "order").read_text().split() == ["0", "1", "3", "2"]


def test_a_call_that_kills_two_workers_is_refused_and_the_pool_goes_on(start: Start) -> None:
    pool = start()
    with pytest.raises(FatalCallError) as caught:
        answered(pool, call("die"))
    assert caught.value.code == "engine-crashed"
    assert answered(pool, call("m"))["number"] == 0
    until(lambda: pool.stats()["restarts"] == 2)


def test_a_call_whose_worker_died_once_is_answered_by_the_next(start: Start) -> None:
    pool = start()
    assert answered(pool, call("die-once", 5))["number"] == 5
    assert pool.stats()["restarts"] == 1


def test_the_company_of_a_deadly_call_is_answered(start: Start) -> None:
    pool = start(slow_s=0.5)
    slow = pool.submit(call("slow").pack())
    until(lambda: not pool.stats()["queues"])
    calls = [call("die-in-company", number) for number in range(3)]  # each dies with the others, none alone
    waiting = [pool.submit(one.pack()) for one in calls]
    slow.result(GENEROUS_S)
    found = [unpack_answer(one.id, future.result(GENEROUS_S))[1] for one, future in zip(calls, waiting, strict=True)]
    assert found == [{"company": 1, "worker": 0, "number": number} for number in range(3)]


def test_a_worker_that_hangs_is_killed_and_its_call_refused_at_once(start: Start) -> None:
    pool = start(hang_s=0.5)
    with pytest.raises(FatalCallError) as caught:
        answered(pool, call("hang"))
    assert caught.value.code == "engine-hung"
    assert answered(pool, call("m"))["number"] == 0
    assert pool.stats()["restarts"] == 1


def test_a_worker_that_stands_still_while_it_is_given_a_large_clip_is_killed(start: Start) -> None:
    pool = start(hang_s=0.5)
    os.kill(pool.stats()["workers"][0]["pid"], signal.SIGSTOP)
    large = replace(call("m"), frames=np.zeros((16, 224, 224, 3), np.uint8))  # more than a socket takes unread
    with pytest.raises(FatalCallError) as caught:
        answered(pool, large)
    assert caught.value.code == "engine-hung"
    assert answered(pool, call("m"))["number"] == 0


@pytest.mark.parametrize("hello", ["", "not JSON", "[]"])
def test_a_worker_that_does_not_start_is_started_again(tmp_path: Path, hello: str) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys\nfrom multiprocessing.connection import Connection\n"
        f"open({str(tmp_path / 'starts')!r}, 'a').write('x')\n"
        f"Connection(int(sys.argv[sys.argv.index('--fd') + 1])).send_bytes({hello.encode()!r}) if {bool(hello)} else None\n"
    )
    pool = Pool(PoolOptions([sys.executable, str(script)]))
    until(lambda: len((tmp_path / "starts").read_text()) >= 3 if (tmp_path / "starts").exists() else False)
    assert pool.stats()["restarts"] >= 2
    pool.close()


def test_a_machine_without_file_descriptors_only_delays_the_restart(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = start()
    kept, refused = process._started, []

    def failing(command: Any) -> Any:
        if len(refused) < 2:
            refused.append(1)
            raise OSError(24, "Too many open files")
        return kept(command)

    monkeypatch.setattr(process, "_started", failing)
    with pytest.raises(FatalCallError):
        answered(pool, call("die"))
    assert answered(pool, call("m"))["number"] == 0
    assert len(refused) == 2


def test_closing_does_not_wait_for_a_worker_that_starts(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import time\ntime.sleep(60)\n")
    pool = Pool(PoolOptions([sys.executable, str(script)], start_s=60.0))
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 20


def test_a_worker_that_takes_too_much_memory_is_killed(start: Start) -> None:
    pool = start()
    with pytest.raises(FatalCallError) as caught:
        answered(pool, call("eat"))
    assert caught.value.code == "engine-out-of-memory"
    assert answered(pool, call("m"))["number"] == 0


def test_a_worker_killed_while_idle_comes_back(start: Start) -> None:
    pool = start()
    pid = pool.stats()["workers"][0]["pid"]
    os.kill(pid, signal.SIGKILL)
    assert answered(pool, call("m"))["number"] == 0
    assert pool.stats()["workers"][0]["pid"] != pid


def test_passes_never_fall_over_a_restart(start: Start) -> None:
    pool = start()
    for _ in range(3):
        answered(pool, call("m"))
    with pytest.raises(FatalCallError):
        answered(pool, call("die"))
    answered(pool, call("m"))
    assert pool.stats()["passes"] == [{"model": "m", "purpose": "predict", "direction": "forward", "passes": 4}]


def test_one_call_too_many_is_refused(start: Start) -> None:
    pool = start(slow_s=1.0, max_waiting=2)
    pool.submit(call("slow").pack())
    until(lambda: not pool.stats()["queues"])
    pool.submit(call("m").pack())
    pool.submit(call("m").pack())
    with pytest.raises(OverloadedError) as caught:
        pool.submit(call("m").pack())
    assert caught.value.limit == 2


def test_a_call_that_nobody_waits_for_is_not_worked_on(start: Start, tmp_path: Path) -> None:
    pool = start(slow_s=0.5)
    slow = pool.submit(call("slow", 0).pack())
    until(lambda: not pool.stats()["queues"])
    given_up = pool.submit(call("m", 1).pack())
    last = pool.submit(call("m", 2).pack())
    assert given_up.cancel()
    slow.result(GENEROUS_S)
    last.result(GENEROUS_S)
    assert (tmp_path / "order").read_text().split() == ["0", "2"]


def test_a_worker_that_dies_of_a_late_call_is_answered_with_the_deadline(start: Start) -> None:
    with pytest.raises(DeadlineExceededError):
        answered(start(hang_s=0.4), call("hang", seconds=0.2))


def test_several_workers_share_the_queue(start: Start) -> None:
    pool = start(slow_s=0.5, workers=2, max_batch=1)
    until(lambda: len(pool.stats()["workers"]) == 2)
    calls = [call("slow", number) for number in range(2)]
    waiting = [pool.submit(one.pack()) for one in calls]
    found = {unpack_answer(one.id, future.result(GENEROUS_S))[1]["worker"] for one, future in zip(calls, waiting, strict=True)}
    assert found == {0, 1}


def test_closing_gives_up_what_waits_and_leaves_no_process(start: Start) -> None:
    pool = start(slow_s=20)
    held = call("slow")
    working, queued = pool.submit(held.pack()), pool.submit(call("m").pack())
    until(lambda: pool.stats()["queues"] and pool.stats()["queues"][0]["model"] == "m")
    pid = pool.stats()["workers"][0]["pid"]
    pool.close()
    with pytest.raises(CancelledError):
        queued.result(0)
    with pytest.raises(EngineUnavailableError, match="stopping"):
        unpack_answer(held.id, working.result(0))
    assert not Path(f"/proc/{pid}").exists()


def test_bytes_that_are_no_call_never_reach_a_worker(start: Start) -> None:
    pool = start()
    for body in (b"", b"x" * 100, b"\xff" * 8 + b"{}"):
        with pytest.raises(OptionsError):
            pool.submit(body)
    assert pool.stats()["restarts"] == 0


def test_the_default_memory_limit_shares_the_machine() -> None:
    assert 0 < memory_share(2) * 2 <= memory_share(1) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
