"""Starting: what cannot work is one clear line and an exit status, and disturbs nobody."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.conftest import descendants

from chronolens_gateway.errors import problem_of


def start(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chronolens_gateway", "--port", "0"]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False)


def test_a_second_service_in_one_data_folder_does_not_start(server: Any) -> None:
    done = start(CHRONOLENS_DATA_DIR=str(server.data_dir))
    assert done.returncode == 2
    assert "another service uses this data folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.http.get("/readyz").status_code == 200


@pytest.mark.parametrize("wrong", [{"CHRONOLENS_DECODE_SLOTS": "0"}, {"CHRONOLENS_DATA_DIR": "/proc/none"}])
def test_settings_that_cannot_work_are_one_message(wrong: dict[str, str], tmp_path: Path) -> None:
    done = start(**{"CHRONOLENS_DATA_DIR": str(tmp_path), **wrong})
    assert done.returncode == 2
    assert done.stderr.startswith("chronolens cannot start:")
    assert "Traceback" not in done.stderr


def test_a_signal_to_the_command_stops_the_whole_service(tmp_path: Path, store: Path) -> None:
    command = [sys.executable, "-c", "from chronolens.cli import main; main()", "serve", "--port", "0"]
    environment = {**os.environ, "CHRONOLENS_DATA_DIR": str(tmp_path / "data"), "CHRONOLENS_MODEL_STORE": str(store)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        line = process.stdout.readline() if process.stdout else ""
        assert line.startswith("chronolens is ready at http://127.0.0.1:")
        children = descendants(process.pid)
        assert len(children) >= 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_an_engine_without_models_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chronolens.worker", "--fd", "0", "--store", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "has no models" in done.stderr


def test_a_full_disk_is_a_503() -> None:
    problem = problem_of(OSError(errno.ENOSPC, "No space left on device", "/secret/place"), instance="/", request_id="r")
    assert (problem.status, problem.code, problem.retry_after) == (503, "store-unavailable", 2)
    assert "secret" not in problem.detail
