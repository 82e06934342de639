"""Processes of a real tritonserver are killed."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from chronolens.engine_client import EngineClient
from chronolens.errors import EngineUnavailableError
from chronolens.options import MaskOptions
from chronolens_gateway.backends.triton import TritonTransport
from chronolens_gateway.servers.triton import find_server

from .conftest import NAME, launched, regions, stubs


def wait_for(condition, seconds):
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, "it did not happen in time"
        time.sleep(0.1)


def test_dead_stub_is_noticed_and_repaired(transport, run_folder, frames):
    client = EngineClient(transport)
    assert transport.healthy()
    (old,) = stubs(run_folder, f"{NAME}-explain")
    os.kill(old, signal.SIGKILL)
    with pytest.raises(EngineUnavailableError):
        client.look(NAME, frames, target=None, gradcam=None)
    assert not transport.healthy()
    wait_for(transport.healthy, 40)
    assert client.look(NAME, frames, target=None, gradcam=None)[0]["scores"].shape == (4,)
    assert stubs(run_folder, f"{NAME}-explain") != [old]


def test_probe_alone_repairs(transport, run_folder):
    (old,) = stubs(run_folder, f"{NAME}-explain")
    os.kill(old, signal.SIGKILL)
    assert not transport.healthy()
    wait_for(transport.healthy, 40)


def test_killed_server_leaves_no_process_and_comes_back(tiny_store, exports, frames, tmp_path):
    transport = TritonTransport(tmp_path / "run" / "triton.json", "grpc")
    client = EngineClient(transport)
    with launched(tmp_path / "run", tiny_store, exports) as server:
        assert stubs(tmp_path / "run", NAME)
        raised = []

        def learn():
            try:
                while True:
                    client.learn(NAME, frames, 1, "freeze", MaskOptions(preset="paper"), None, max_steps=25, budget_s=15.0)
            except EngineUnavailableError as error:
                raised.append(error)

        busy = threading.Thread(target=learn)
        busy.start()
        time.sleep(0.5)
        server.kill()
        server.wait()
        busy.join(10)
        assert raised
        wait_for(lambda: not stubs(tmp_path / "run", NAME) + stubs(tmp_path / "run", f"{NAME}-explain"), 10)
        assert not transport.healthy()
    with launched(tmp_path / "run", tiny_store, exports):
        assert transport.healthy()
        assert client.look(NAME, frames, target=None, gradcam=None)[0]["scores"].shape == (4,)
    transport.close()


def test_killed_server_ends_its_launcher_and_leaves_no_memory(tiny_store, exports, tmp_path):
    with launched(tmp_path / "run", tiny_store, exports) as launcher:
        (server,) = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert regions(tmp_path / "run")
        os.kill(int(server), signal.SIGKILL)
        assert launcher.wait(5) == 128 + signal.SIGKILL
        assert not regions(tmp_path / "run")


def test_busy_server_is_gone_before_the_supervisor_loses_patience(tiny_store, exports, frames, tmp_path):
    transport = TritonTransport(tmp_path / "run" / "triton.json", "grpc")
    client = EngineClient(transport)

    def learn():
        with contextlib.suppress(EngineUnavailableError):
            while True:
                client.learn(NAME, frames, 1, "freeze", MaskOptions(preset="paper"), None, max_steps=25, budget_s=15.0)

    with launched(tmp_path / "run", tiny_store, exports) as launcher:
        busy = threading.Thread(target=learn)
        busy.start()
        time.sleep(0.5)
        launcher.terminate()
        launcher.wait(4.9)
        assert not regions(tmp_path / "run")
        busy.join(10)
    wait_for(lambda: not stubs(tmp_path / "run", NAME) + stubs(tmp_path / "run", f"{NAME}-explain"), 5)
    transport.close()


def test_missing_server_names_the_make_target(monkeypatch, tmp_path):
    monkeypatch.setenv("CHRONOLENS_TRITON_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="make triton-server"):
        find_server()


def test_named_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CHRONOLENS_TRITONSERVER", "/nowhere/tritonserver")
    with pytest.raises(SystemExit, match="not installed"):
        find_server(Path("/nowhere/either"))
