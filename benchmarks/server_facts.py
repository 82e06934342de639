"""What the server behind a gateway tells of itself: its version, and how many calls shared its batches."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from chronolens_gateway.backends.local import LocalTransport
from chronolens_gateway.backends.triton_wires import http_client
from chronolens_gateway.servers import torchserve, triton
from chronolens_gateway.settings import Settings

_BATCHES = "chronolens_batch_calls"


class Counts(NamedTuple):
    """Calls that an engine has answered and the batches in which it did, since it started."""

    calls: int
    batches: int


def told(settings: Settings) -> str:
    """Return what runs the networks, with its version."""
    if settings.engine == "local":
        return f"PyTorch {version('torch')}"
    if settings.engine == "onnx":
        return f"ONNX Runtime {version('onnxruntime')}"
    if settings.engine == "torchserve":
        java = torchserve.command(settings.server_folder, settings.server_folder)[0]
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
        return f"TorchServe {version('torchserve')}, {said.splitlines()[0]}"
    return f"Triton {_triton(settings, 'v2')['version']}, tritonclient {version('tritonclient')}"


def counts(settings: Settings, model: str) -> Counts:
    """Return what the engine has counted until now."""
    if settings.engine in ("local", "onnx"):
        with closing(LocalTransport(settings.socket)) as pool:
            stats = pool.stats()
        return Counts(stats["calls"], stats["batches"])
    if settings.engine == "torchserve":
        return _torchserve(settings.server_folder)
    (found,) = _triton(settings, f"v2/models/{model}{triton.EXPLAIN}/stats")["model_stats"]
    return Counts(int(found["inference_count"]), int(found["execution_count"]))


def _torchserve(folder: Path) -> Counts:
    addresses, keys = (json.loads((folder / name).read_bytes()) for name in (torchserve.ADDRESSES, torchserve.KEYS))
    key = {"Authorization": f"Bearer {keys['inference']['key']}"}
    text = httpx.get(f"{addresses['metrics']}/metrics", headers=key, trust_env=False).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    totals = {name: sum(int(one.value) for one in samples if one.name == f"{_BATCHES}_{name}") for name in ("sum", "count")}
    return Counts(totals["sum"], totals["count"])


def _triton(settings: Settings, path: str) -> dict[str, Any]:
    address = json.loads((settings.server_folder / triton.ADDRESSES).read_bytes())["http"]
    with http_client(address) as client:
        found: dict[str, Any] = client.get(f"/{path}").raise_for_status().json()
    return found
