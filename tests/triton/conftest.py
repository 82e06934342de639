"""A real tritonserver, started by the launcher, with the tiny C-LSTM."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from chronolens.clips import ClipSpec
from chronolens.engine import Engine
from chronolens.golden import golden_frames
from chronolens_gateway.backends.triton import TritonTransport
from chronolens_gateway.backends.triton_wires import http_client
from chronolens_gateway.servers.triton import find_server

NAME = "tiny-clstm"
START_S = 90.0


@contextmanager
def launched(folder, store, exports, *, ends=True):
    """Start a server in a process group of its own; the environment is that of a developer without settings."""
    find_server()
    arguments = ["--folder", str(folder), "--store", str(store), "--exports", str(exports), "--models", NAME]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    leash = [sys.executable, "-m", "chronolens.leash", str(os.getpid())]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        line = [*leash, sys.executable, "-m", "chronolens_gateway.servers.triton", *arguments]
        process = subprocess.Popen(line, stderr=log, stdout=log, env=environment)
    try:
        _wait_until_ready(process, folder)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process, folder):
    ends_at = time.monotonic() + START_S
    while time.monotonic() < ends_at:
        assert process.poll() is None, (folder / "log").read_text(errors="replace")[-3000:]
        try:
            where = json.loads((folder / "triton.json").read_text())
            with socket.socket(socket.AF_UNIX) as probe:  # httpcore leaves its own open when nobody listens
                probe.connect(where["http"].removeprefix("unix:"))
            with http_client(where["http"]) as client:
                if client.get("/v2/health/ready", timeout=1).status_code == 200:
                    return
        except (OSError, httpx.HTTPError):
            pass
        time.sleep(0.1)
    raise AssertionError((folder / "log").read_text(errors="replace")[-3000:])


@pytest.fixture(scope="session")
def exports(tiny_store, tmp_path_factory):
    """Folder with the model repository of the tiny C-LSTM."""
    from chronolens.export.run import export

    folder = tmp_path_factory.mktemp("exports")
    export("triton", NAME, tiny_store, folder / NAME / "triton")
    return folder


@pytest.fixture(scope="session")
def run_folder(tiny_store, exports, tmp_path_factory):
    """Run folder of a server that is there for all tests."""
    folder = tmp_path_factory.mktemp("triton")
    with launched(folder, tiny_store, exports):
        yield folder


@pytest.fixture(params=["http", "grpc"])
def transport(run_folder, request):
    found = TritonTransport(run_folder / "triton.json", request.param)
    yield found
    found.close()


@pytest.fixture(scope="session")
def engine(tiny_store):
    """The same models in this process."""
    return Engine(tiny_store, "cpu")


@pytest.fixture(scope="session")
def frames(tiny_store):
    return golden_frames(ClipSpec(8, 32, 32), 5)


def regions(folder: Path) -> list[Path]:
    """Return the shared memory of a server."""
    return list(Path("/dev/shm").glob(f"chronolens_{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}_*"))


def stubs(folder: Path, model: str) -> list[int]:
    """Return the processes that run a model of a server."""
    found, name = [], os.fsencode(f"{model}_0_0")
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"python_backend_stub" in line[0] and os.fsencode(str(folder)) in line[0] and name in line:
            found.append(int(place.name))
    return found
