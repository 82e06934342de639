"""Processes are killed in the middle of a job; the job ends all the same, and nothing outlives the gateway."""

from __future__ import annotations

import base64
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

LONG: dict[str, Any] = {"methods": ["freeze"], "mask": {"preset": "paper", "steps": 150}, "artefacts": ["arrays.npz"]}
ENGINE, RUNNER = "chronolens.worker", "chronolens_gateway.runner"


def _learning(job: dict[str, Any]) -> bool:
    return (job["progress"] or {}).get("phase") == "freeze" and 25 <= job["progress"]["done"] < 100


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_dead(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(_alive(pid) for pid in pids)


@pytest.fixture(scope="module")
def undisturbed(own_server: Any, clip: Path) -> list[float]:
    """The mask of the same job when nobody is killed."""
    values: list[float] = own_server.wait(own_server.submit(clip, **LONG))["result"]["masks"]["freeze"]["values"]
    return values


@pytest.mark.parametrize("module", [ENGINE, RUNNER])
def test_killed_child_in_mid_job(own_server: Any, clip: Path, module: str, undisturbed: list[float]) -> None:
    job_id = own_server.submit(clip, **LONG)
    own_server.wait(job_id, _learning)
    pid = own_server.child(module)
    os.kill(pid, signal.SIGKILL)
    job = own_server.wait(job_id)
    assert job["status"] == "succeeded", job
    assert own_server.child(module) != pid
    assert job["attempts"] == (2 if module == RUNNER else 1)
    assert job["result"]["masks"]["freeze"]["values"] == undisturbed  # resumed from checkpoints, bit for bit
    counted = 'chronolens_child_restarts_total{child="runner"} 1.0' if module == RUNNER else "chronolens_worker_restarts_total 1.0"
    assert counted in own_server.http.get("/metrics").text


def test_job_that_gets_nowhere_three_times_fails(own_server: Any, clip: Path) -> None:
    own_server.submit(clip, **LONG)
    poisoned = own_server.submit(clip, methods=["gradcam"], artefacts=[])  # waits behind the first
    attempts = own_server.data_dir / "jobs" / poisoned / "attempts.json"
    attempts.write_text('{"started_at": "2026-01-01T00:00:00+00:00", "queue_s": 0, "starts": 3, "idle": 3, "steps": 1, "steps_before": 1}')
    job = own_server.wait(poisoned)
    assert (job["status"], job["error"]["code"], job["attempts"]) == ("failed", "attempts-exhausted", 4)
    assert job["error"]["instance"] == f"/v1/explanations/{poisoned}"
    listed = own_server.http.get("/v1/explanations", params={"status": "failed"}).json()["jobs"]
    assert [one["id"] for one in listed] == [poisoned]


def test_pickled_rows_are_refused(own_server: Any, clip: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"

    class Plant:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (planted,))

    own_server.submit(clip, **LONG)
    victim = own_server.submit(clip, methods=["gradcam"], artefacts=[])
    text = base64.b64encode(pickle.dumps({"args": (Plant(),), "kwargs": {}})).decode()
    database = sqlite3.connect(own_server.data_dir / "jobs.sqlite", timeout=30)
    with database:
        sql = "UPDATE workflow_status SET inputs = ?, serialization = 'py_pickle' WHERE workflow_uuid = ?"
        assert database.execute(sql, (text, victim)).rowcount == 1
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()
    job = own_server.wait(victim)
    assert job["status"] == "failed", job
    assert not planted.exists()
    assert own_server.wait(own_server.submit(clip, methods=["gradcam"], artefacts=[]))["status"] == "succeeded"


def test_removed_while_it_runs_leaves_nothing(own_server: Any, clip: Path) -> None:
    job_id = own_server.submit(clip, **LONG)
    own_server.wait(job_id, _learning)
    with own_server.http.stream("GET", f"/v1/explanations/{job_id}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        assert own_server.http.delete(f"/v1/explanations/{job_id}").status_code == 204
        rest = "\n".join(lines)
    assert '"status": "cancelled"' in rest
    assert own_server.wait(own_server.submit(clip, methods=["gradcam"], artefacts=[]))["status"] == "succeeded"
    assert not (own_server.data_dir / "jobs" / job_id).exists()
    assert list((own_server.data_dir / "drafts").iterdir()) == []


def test_second_runner_of_a_data_folder_gives_up(own_server: Any) -> None:
    code = "from chronolens_gateway import runner; runner._LOCK_PATIENCE_S = 0.2; runner.main()"
    environment = {"CHRONOLENS_DATA_DIR": str(own_server.data_dir), "PATH": ""}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "another runner uses this data folder" in ended.stderr


def test_killed_gateway_takes_its_children_along_and_the_job_goes_on(own_server: Any, clip: Path, undisturbed: list[float]) -> None:
    job_id = own_server.submit(clip, **LONG)
    waiting = own_server.submit(clip, methods=["gradcam"], artefacts=[])
    own_server.wait(job_id, _learning)
    pids = [own_server.child(ENGINE), own_server.child(RUNNER)]
    own_server.kill()
    assert _wait_dead(pids)
    own_server.start()
    job = own_server.wait(job_id)
    assert job["status"] == "succeeded", job
    assert job["result"]["masks"]["freeze"]["values"] == undisturbed
    assert own_server.wait(waiting)["status"] == "succeeded"


def test_stop_ends_all_children(own_server: Any, clip: Path) -> None:
    own_server.submit(clip, **LONG)
    pids = [own_server.child(ENGINE), own_server.child(RUNNER)]
    assert own_server.stop() == 0
    assert _wait_dead(pids)
