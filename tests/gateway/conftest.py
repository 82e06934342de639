"""A real service for the tests: gateway, runner and engine worker as processes, an untrained tiny network, a made-up clip."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from chronolens.clips import ClipSpec
from chronolens.video.encode import write_h264

START_S = 60.0
MODEL = "clstm-tiny"


class Server:
    """One gateway process with its children."""

    def __init__(self, data_dir: Path, store: Path, **environment: str) -> None:
        settings = {"CHRONOLENS_DATA_DIR": str(data_dir), "CHRONOLENS_MODEL_STORE": str(store), "OMP_NUM_THREADS": "1"}
        self._environment = {**os.environ, **settings, **environment}
        self.data_dir = data_dir
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self.process: subprocess.Popen[str] | None = None
        self.url = ""
        self.http = httpx.Client()

    def start(self) -> Server:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "chronolens_gateway", "--port", "0"]
            self.process = subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.url = line.strip().rpartition(" ")[2]
        assert self.url.startswith("http://127.0.0.1:"), self.log.read_text()
        self.http.close()
        self.http = httpx.Client(base_url=self.url, timeout=60)
        return self

    def stop(self) -> int:
        assert self.process is not None
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(20)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(20)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def child(self, module: str) -> int:
        """Return the process id of a child by its module name; waits while it restarts."""
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for pid in descendants(self.process.pid):
                command = command_of(pid)
                if module in command and "chronolens.leash" not in command:
                    return pid
            time.sleep(0.05)
        raise AssertionError(f"no child {module}")

    def submit(self, clip: Path, **options: Any) -> str:
        answer = self.post("/v1/explanations", clip, {"model": MODEL, **options})
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    def post(self, path: str, clip: Path, options: dict[str, Any], **headers: str) -> httpx.Response:
        with clip.open("rb") as file:
            return self.http.post(path, files={"clip": ("c", file)}, data={"options": json.dumps(options)}, headers=headers)

    def wait(self, job_id: str, until: Callable[[dict[str, Any]], bool] | None = None, patience_s: float = 60.0) -> dict[str, Any]:
        """Return the job once it has ended, or once ``until`` holds."""
        deadline = time.monotonic() + patience_s
        while True:
            job: dict[str, Any] = self.http.get(f"/v1/explanations/{job_id}").json()
            ended = job["status"] in ("succeeded", "failed", "cancelled")
            if ended if until is None else until(job):
                return job
            assert time.monotonic() < deadline, (job, self.log.read_text()[-3000:])
            time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with one untrained C-LSTM of 16 x 32 x 32."""
    import torch

    from chronolens.models.registry import build_model
    from chronolens.models.weights import WeightsRecord, save_weights

    folder = tmp_path_factory.mktemp("store")
    torch.manual_seed(0)
    config: dict[str, Any] = {"num_classes": 4, "frames": 16, "height": 32, "width": 32, "hidden": 4, "strides": (2, 2)}
    spec = ClipSpec(16, 32, 32, scale=2 / 255, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))
    classes = ("up", "down", "left", "right")
    record = WeightsRecord(MODEL, "clstm", config, spec, classes, "none", "Apache-2.0", "random", warnings=("untrained",))
    save_weights(build_model("clstm", **config), record, folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of 64 x 48 at 12 frames a second: a white square moves over a brightening ground."""
    frames = [np.full((48, 64, 3), 5 * number, np.uint8) for number in range(40)]
    for number, frame in enumerate(frames):
        frame[10:20, number : number + 10] = 255
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_h264(path, frames, [number / 12 for number in range(40)])
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Server]:
    """The service that most tests share."""
    running = Server(tmp_path_factory.mktemp("service") / "data", store).start()
    yield running
    if running.process is not None and running.process.poll() is None:
        assert running.stop() == 0


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Server]:
    """A service for the tests that kill parts of it."""
    running = Server(tmp_path_factory.mktemp("own") / "data", store).start()
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop()


@pytest.fixture(scope="session")
def finished(server: Server, clip: Path) -> dict[str, Any]:
    """A succeeded job with every method and artefact."""
    job = server.wait(server.submit(clip, true_class="down", mask={"steps": 5}))
    assert job["status"] == "succeeded", job
    return job
