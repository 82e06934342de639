"""The same service on every engine, each started as an operator would, and a table of what each of them kept."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import EXAMPLES
from tests.gateway.conftest import MODEL, Server, clip, command_of, descendants, store  # noqa: F401 the fixtures are used here too

from chronolens.engine_client import EngineClient
from chronolens.schemas import ModelInfo
from chronolens_gateway.backends.base import ServerTransport
from chronolens_gateway.backends.choose import open_transport
from chronolens_gateway.settings import Settings

ENGINES = ("local", "onnx", "torchserve", "triton-http", "triton-grpc")
COMPUTES = {
    "local": "chronolens.worker",
    "onnx": "chronolens.worker",
    "torchserve": "model_service_worker",
    "triton": "python_backend_stub",
}
SERVES = {"local": "chronolens.pool.server", "onnx": "chronolens.pool.server", "torchserve": "ModelServer", "triton": "bin/tritonserver"}
OWN = "tiny-own"
"""The own model of examples/own_model.py, which every engine serves beside the one of the store."""
PREDICT_TIMEOUT_S = 4.0
GENEROUS_S = 90.0
_outcomes: dict[str, dict[str, str]] = defaultdict(dict)


class Service:
    """One gateway with its runner and its engine.

    Attributes:
        engine: its name.
        server: the running gateway.
        transport: a way of our own to its engine.
    """

    def __init__(self, engine: str, server: Server) -> None:
        self.engine = engine
        self.server = server
        kind = engine.partition("-")[0]
        self._computes, self._serves = COMPUTES[kind], SERVES[kind]
        self.transport: ServerTransport = open_transport(Settings(data_dir=server.data_dir, engine=engine))  # type: ignore[arg-type]
        self.gradients = engine != "onnx"
        self.preset = "default" if self.gradients else "exhaustive"

    def client(self, **options: Any) -> EngineClient:
        return EngineClient(self.transport, **options)

    def info(self, model: str = MODEL) -> ModelInfo:
        source = model if model in self.transport.sources() else ""
        return next(info for info in self.client().describe(source) if info.name == model)

    def predict(self, video: Path, model: str = MODEL) -> httpx.Response:
        answer: httpx.Response = self.server.post("/v1/predictions", video, {"model": model, "top_k": 4})
        return answer

    def computing(self, model: str = MODEL) -> int:
        """Return the process that holds the network; waits while there is none."""
        return self._process(self._computes, lambda pid: holds(pid, model))

    def serving(self) -> int:
        """Return the process that takes the calls."""
        return self._process(self._serves, lambda _pid: True)

    def _process(self, name: str, wanted: Callable[[int], bool]) -> int:
        found: list[int] = []

        def there() -> bool:
            pids = descendants(self.server.process.pid)  # type: ignore[union-attr]
            commands = {pid: command_of(pid) for pid in pids}
            # leashes name what they hold
            alike = [pid for pid, command in commands.items() if name in " ".join(command) and "chronolens.leash" not in command]
            found[:] = [pid for pid in alike if wanted(pid)]
            return bool(found)

        until(there)
        return found[0]

    def wait_ready(self) -> None:
        until(lambda: self.server.http.get("/readyz").status_code == httpx.codes.OK)


def holds(pid: int, model: str) -> bool:
    """Tell whether a computing process holds this model; TorchServe and Triton have one for each model, Triton two."""
    command = command_of(pid)
    if COMPUTES["triton"] in " ".join(command):
        return any(f"{model}-explain" in word for word in command)
    if COMPUTES["torchserve"] not in " ".join(command):
        return True
    with contextlib.suppress(OSError):
        variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
        folders = next((one.removeprefix("PYTHONPATH=") for one in variables if one.startswith("PYTHONPATH=")), "").split(os.pathsep)
        records = [Path(folder, "weights.toml") for folder in folders if folder]
        return any(path.is_file() and f"[{model}]" in path.read_text() for path in records)
    return False


def until(held: Callable[[], object], patience_s: float = GENEROUS_S) -> None:
    deadline = time.monotonic() + patience_s
    while not held():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Let a process stand still for the length of a ``with`` block, as one that hangs does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="session", params=ENGINES)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Service]:  # noqa: F811
    """The service on one engine after the other."""
    engine = request.param
    settings = {
        "CHRONOLENS_ENGINE": engine,
        "CHRONOLENS_PREDICT_TIMEOUT_S": str(PREDICT_TIMEOUT_S),
        "CHRONOLENS_PLUGINS": "own_model:build",
        "PYTHONPATH": str(EXAMPLES),
    }
    running = Server(tmp_path_factory.mktemp(engine) / "data", store, **settings).start()
    one = Service(engine, running)
    yield one
    one.transport.close()
    if running.process is not None and running.process.poll() is None:
        running.stop()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """Note what became of each question on each engine."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if "service" in parameters and (report.when == "call" or report.failed):
        own = " (own model)" if parameters.get("model") == OWN else ""
        name = item.name.partition("[")[0].removeprefix("test_").replace("_", " ") + own
        earlier = _outcomes[name].get(parameters["service"], "passed")
        _outcomes[name][parameters["service"]] = report.outcome if earlier == "passed" else earlier


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table."""
    if not _outcomes:
        return
    width = max(len(name) for name in _outcomes)
    terminalreporter.section("contract")
    terminalreporter.write_line("  ".join([" " * width, *(engine.ljust(11) for engine in ENGINES)]))
    for name, found in _outcomes.items():
        terminalreporter.write_line("  ".join([name.ljust(width), *(found.get(engine, "-").ljust(11) for engine in ENGINES)]))
