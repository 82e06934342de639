"""Whole services with a network so small that the way to it is what a request costs: store, clip, one service for each engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import torch
from server_facts import told

from chronolens import pipeline
from chronolens.clips import ClipSpec, Frames
from chronolens.engine import Engine
from chronolens.engine_client import Transport
from chronolens.models import build_model
from chronolens.models.weights import WeightsRecord, save_weights
from chronolens.onnx_engine import OnnxEngine
from chronolens.schemas import ModelInfo
from chronolens.video.decode import decode_clip
from chronolens.video.encode import write_h264
from chronolens.video.prepare import fit_frames
from chronolens_gateway.backends.base import Backend
from chronolens_gateway.backends.choose import open_transport
from chronolens_gateway.servers import torchserve, triton
from chronolens_gateway.settings import Engine as EngineName
from chronolens_gateway.settings import Settings

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
MODEL = "clstm-tiny"
SIZE = (16, 32, 32)
_CLIP = "clip.mp4"
_READY_WITHIN_S = 300.0  # the first start of a model server exports the model for it
_STOP_WITHIN_S = 30.0


@dataclass(frozen=True)
class Service:
    """One running service and every way to its network.

    Args:
        name: of the engine, as in the settings.
        transport: the gateway's way to the engine, opened in this process.
        client: the engine as the gateway sees it, over that transport, behind a circuit breaker of its own.
        bare: the same engine in this process, nothing between.
        http: connections to the gateway, kept alive.
        clip: the video file.
        frames: what the network sees of it, decoded and at its size.
        server: what runs the network, with its version.
        started_s: from the start of the process until it could answer.
    """

    name: EngineName
    settings: Settings
    transport: Transport
    client: pipeline.Engine
    bare: Engine
    http: httpx.Client
    info: ModelInfo
    clip: bytes
    frames: Frames
    server: str
    started_s: float

    def predict(self) -> dict[str, float]:
        """Ask for a prediction over HTTP and return its ``timing_s``."""
        answer = self.http.post("/v1/predictions", files={"clip": (_CLIP, self.clip)}, data={"model": MODEL})
        timing: dict[str, float] = answer.raise_for_status().json()["timing_s"]
        return timing


def unusable(engine: EngineName) -> str | None:
    """Return why an engine cannot be started here, None when it can."""
    wanted = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "triton-http": ("tritonclient",), "triton-grpc": ("tritonclient",)}
    if missing := [name for name in wanted.get(engine, ()) if find_spec(name) is None]:
        return f"{', '.join(missing)} not installed"
    find: dict[str, Callable[[], object]] = {
        "torchserve": lambda: torchserve.command(Path(), Path()),
        "triton-http": triton.find_server,
        "triton-grpc": triton.find_server,
    }
    try:
        find.get(engine, lambda: None)()
    except SystemExit as reason:  # which the launcher gives as its last words
        return str(reason)
    return None


@contextmanager
def services(engines: Sequence[EngineName], folder: Path) -> Iterator[list[Service]]:
    """Run one service for each engine, all at once, until the block ends.

    Args:
        folder: empty; for the model store, the clip and a data folder each.

    Raises:
        SystemExit: one did not become ready; the end of its log is the message.
    """
    write_store(folder / "store")
    write_clip(folder / _CLIP)
    with ExitStack() as running:
        yield [running.enter_context(_service(engine, folder)) for engine in engines]


def write_store(folder: Path) -> None:
    """Write a model store with one untrained C-LSTM."""
    frames, height, width = SIZE
    torch.manual_seed(0)
    config: dict[str, Any] = {"num_classes": 4, "frames": frames, "height": height, "width": width, "hidden": 4, "strides": (2, 2)}
    spec = ClipSpec(*SIZE, scale=2 / 255, mean=(1.0, 1.0, 1.0))
    classes = ("up", "down", "left", "right")
    record = WeightsRecord(MODEL, "clstm", config, spec, classes, "none", "Apache-2.0", "random numbers", warnings=("untrained",))
    save_weights(build_model("clstm", **config), record, folder)


def write_clip(path: Path) -> None:
    """Write 40 frames of 64 x 48 at 12 frames a second: a white square moves over a brightening ground."""
    frames = [np.full((48, 64, 3), 5 * number, np.uint8) for number in range(40)]
    for number, frame in enumerate(frames):
        frame[10:20, number : number + 10] = 255
    write_h264(path, frames, [number / 12 for number in range(40)])


@contextmanager
def _service(engine: EngineName, folder: Path) -> Iterator[Service]:
    settings = Settings(engine=engine, data_dir=folder / engine, model_store=folder / "store")
    began = time.perf_counter()
    with _process(settings) as url, closing(open_transport(settings)) as transport, httpx.Client(base_url=url, timeout=60) as http:
        started_s = time.perf_counter() - began
        backend = Backend(transport)
        (info,) = backend.models()
        bare = OnnxEngine(settings.exports) if engine == "onnx" else Engine(settings.model_store, "cpu")
        decoded = decode_clip(folder / _CLIP, info.clip.frames, rule=info.clip.sampling, interval=info.clip.interval)
        frames = fit_frames(decoded.frames, ClipSpec(**info.clip.model_dump()))
        clip = (folder / _CLIP).read_bytes()
        yield Service(engine, settings, transport, backend.engine(info), bare, http, info, clip, frames, told(settings), started_s)


@contextmanager
def _process(settings: Settings) -> Iterator[str]:
    """Run gateway, runner and engine, one thread for each network, and yield the URL once they can answer."""
    settings.data_dir.mkdir(parents=True)
    leash = (sys.executable, "-m", "chronolens.leash", str(os.getpid()))
    command = (*leash, sys.executable, "-m", "chronolens_gateway", "--port", "0")
    environment = {**os.environ, **settings.environment(), "OMP_NUM_THREADS": "1"}
    with (settings.data_dir / "service.log").open("w+b") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield _url(process, log.name)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _url(process: subprocess.Popen[str], log: str) -> str:
    """Return the address that a service prints once it can answer."""
    deadline = threading.Timer(_READY_WITHIN_S, process.terminate)
    deadline.start()
    line = process.stdout.readline() if process.stdout else ""
    deadline.cancel()
    if not line:
        raise SystemExit(f"the service did not become ready\n{Path(log).read_text(errors='replace')[-4000:]}")
    return line.strip().rpartition(" ")[2]
