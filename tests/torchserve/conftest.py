"""Real archives of tiny networks, TorchServe's own loader, and one real TorchServe, started as an operator would."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from chronolens.export.run import export
from chronolens.video.encode import write_h264
from chronolens_gateway.backends.torchserve import TorchServeTransport
from chronolens_gateway.servers.torchserve import METRICS

START_S = 60.0
MODELS = ("tiny-clstm", "tiny-i3d")


@pytest.fixture(scope="session")
def archive_store(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with an archive of each of its networks; its path has a space in it, as paths may."""
    store = tmp_path_factory.mktemp("torch serve") / "store"
    shutil.copytree(tiny_store, store, ignore=shutil.ignore_patterns("exports"))
    for name in MODELS:
        export("mar", name, store)
    return store


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames of 64 x 48 at 12 frames a second: a white square moves over a brightening ground."""
    frames = [np.full((48, 64, 3), 5 * number, np.uint8) for number in range(40)]
    for number, frame in enumerate(frames):
        frame[10:20, number : number + 10] = 255
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_h264(path, frames, [number / 12 for number in range(40)])
    return path


@dataclass(frozen=True)
class Said:
    """What a worker answered to one request."""

    status: int
    media_type: str
    body: bytes


class Worker:
    """A handler that TorchServe's loader has loaded from an archive."""

    def __init__(self, service: Any, metrics: Any) -> None:
        self.service = service
        self.metrics = metrics

    def predict(self, *requests: dict[str, Any]) -> list[Said]:
        """Send one batch through TorchServe's service, as it comes over the worker's socket, and read what goes back."""
        batch = []
        for number, request in enumerate(requests):
            parameters = [
                {"name": name, "value": bytearray(value), "contentType": "application/octet-stream"}
                for name, value in request["parts"].items()
            ]
            headers = [{"name": b"explain", "value": b"True" if request.get("explain") else b"False"}]
            batch.append({"requestId": f"request-{number}".encode(), "headers": headers, "parameters": parameters})
        return _read(bytes(self.service.predict(batch)))


def _read(message: bytes) -> list[Said]:
    place = 0

    def number() -> int:
        nonlocal place
        (value,) = struct.unpack_from("!i", message, place)
        place += 4
        return int(value)

    def text() -> bytes:
        nonlocal place
        length = number()
        place += length
        return message[place - length : place]

    assert number() == 200, message[:200]
    text()
    found = []
    while (length := number()) != -1:
        place += length
        media_type, status = text().decode(), number()
        text()
        for _ in range(number()):
            text(), text()
        found.append(Said(status, media_type, text()))
    return found


@pytest.fixture(scope="session")
def load_archive(archive_store: Path) -> Iterator[Callable[[str, Path], Worker]]:
    """Load an archive the way TorchServe's worker does: unpack it, put it on the path, let the loader find the handler by its base name."""
    added: list[str] = []

    def load(name: str, folder: Path, archive: Path | None = None) -> Worker:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader = importlib.import_module("ts.model_loader")
            caches = importlib.import_module("ts.metrics.metric_cache_yaml_impl")
            metrics = caches.MetricsCacheYamlImpl(str(METRICS))
        metrics.initialize_cache()
        metrics.model_name = name
        with zipfile.ZipFile(archive or archive_store / "exports" / name / "mar" / f"{name}.mar") as packed:
            packed.extractall(folder)
        added.append(str(folder))
        sys.path.insert(0, str(folder))
        sys.modules.pop("torchserve_handler", None)
        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
        try:
            service = loader.TsModelLoader().load(name, str(folder), manifest["model"]["handler"], None, 8, None, True, metrics)
        finally:
            ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # this process need not end with its parent, as a worker does
        service.set_cl_socket(None)
        return Worker(service, metrics)

    yield load
    for folder in added:
        sys.path.remove(folder)
    sys.modules.pop("torchserve_handler", None)


@pytest.fixture(scope="session")
def worker(load_archive: Callable[[str, Path], Worker], tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """The worker of tiny-clstm."""
    return load_archive("tiny-clstm", tmp_path_factory.mktemp("unpacked"))


class Server:
    """One TorchServe."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        self.store = store
        self.log = folder.parent / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.transport = TorchServeTransport(folder, MODELS)

    def start(self) -> Server:
        """Start it and wait until every model answers."""
        command = [sys.executable, "-m", "chronolens_gateway.servers.torchserve", "--folder", str(self.folder), "--store", str(self.store)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
        self.wait()
        return self

    def wait(self) -> None:
        """Wait until every model answers."""
        deadline = time.monotonic() + START_S
        while not self.transport.healthy():
            assert self.process is not None
            assert self.process.poll() is None, f"TorchServe ended:\n{self.said()}"
            assert time.monotonic() < deadline, f"TorchServe did not get ready:\n{self.said()}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it as a supervisor does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text()[-4000:]

    def facts(self, name: str) -> Any:
        """Return a file of its run folder."""
        return json.loads((self.folder / name).read_text())

    def post(self, path: str, **request: Any) -> httpx.Response:
        """Send a request with the inference key."""
        key = self.facts("key_file.json")["inference"]["key"]
        headers = {"Authorization": f"Bearer {key}", **request.pop("headers", {})}
        return httpx.post(self.facts("torchserve.json")["inference"] + path, headers=headers, timeout=60, **request)


@pytest.fixture(scope="session")
def server(archive_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running TorchServe with both models."""
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.fail("these tests run a real TorchServe and need Java 17 (Debian: openjdk-17-jre-headless)")
    running = Server(tmp_path_factory.mktemp("torch serve run") / "run", archive_store).start()
    yield running
    running.transport.close()
    running.stop()
