"""What works in this Python, found out by using it: ``python -m chronolens.probe {torch,records,onnx,decode,packages}``.

The last line of standard output is JSON; when it does not work, ``error`` in it says why, and the traceback is on standard error. A
process of its own, because ``chronolens doctor`` must survive what it looks for: packages that cannot be imported, libraries that crash,
drivers that hang.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Facts = dict[str, Any]
# An ONNX graph that returns its input, float32 of shape (1,): written by hand, so that ONNX Runtime can be asked without the package onnx.
_TINY = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"Z\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


def torch_facts(store: Path) -> Facts:
    """Return ``version``, ``devices``, ``threads``, the ``precision`` of masks, and what is wrong with the store.

    That is ``records``, None when they can be read, and ``models``, by name None or what is wrong with the weights.

    Args:
        store: model store; its weights are loaded as the engine loads them.
    """
    import torch

    from chronolens.models.precision import chosen_precision

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": [_card(index) for index in range(cards)] or [_processor()],
        "cards": cards,
        "threads": torch.get_num_threads(),
        "precision": chosen_precision(torch.device("cuda:0" if cards else "cpu")),
        **_models(store),
    }


def record_facts(store: Path) -> Facts:
    """Return ``records``, the digest of the record of each model of the store and of plugins, which are imported for it."""
    from chronolens.catalogue import Catalogue

    return {"records": Catalogue(store).digests()}


def onnx_facts() -> Facts:
    """Return ``version``, the providers that ONNX Runtime ``lists`` and the one that a session really ``gets``."""
    import onnxruntime

    from chronolens.models.onnx_network import OnnxNetwork

    # Through the engine's own class, after PyTorch: which libraries of CUDA are found depends on what has been loaded before.
    network = OnnxNetwork(_TINY, [])
    return {"version": onnxruntime.__version__, "lists": onnxruntime.get_available_providers(), "gets": network.provider}


def decode_facts() -> Facts:
    """Return ``frames``, the number of frames that came through the sandbox out of a clip that is written for the purpose."""
    import numpy as np

    from chronolens.video.decode import decode_clip
    from chronolens.video.encode import write_h264

    with tempfile.TemporaryDirectory(prefix="chronolens-") as folder:
        clip = Path(folder, "clip.mp4")
        write_h264(clip, np.zeros((16, 48, 64, 3), np.uint8), np.arange(16) / 10)
        return {"frames": len(decode_clip(clip, 8).frames)}


def package_facts(modules: list[str]) -> Facts:
    """Return for the module of each ``MODULE=DISTRIBUTION`` its ``version``, or the ``error`` of importing it."""
    return {module: _imported(module, distribution) for module, distribution in (one.split("=") for one in modules)}


def _imported(module: str, distribution: str) -> dict[str, str]:
    try:
        importlib.import_module(module)
        return {"version": importlib.metadata.version(distribution)}
    except Exception as error:  # a broken package raises whatever it likes
        return {"error": _words(error)}


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


def _card(index: int) -> Facts:
    import torch

    facts = torch.cuda.get_device_properties(index)
    return {"device": f"cuda:{index}", "name": facts.name, "memory_bytes": facts.total_memory}


def _processor() -> Facts:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {"device": "cpu", "name": name}


def _models(store: Path) -> Facts:
    from chronolens.catalogue import Catalogue
    from chronolens.errors import PluginError, WeightsError

    found: dict[str, str | None] = {}
    try:
        catalogue = Catalogue(store)
    except PluginError:
        catalogue = Catalogue(store, own=())  # what is wrong with them is the answer of :func:`record_facts`
    except (WeightsError, OSError) as error:
        return {"records": error.detail if isinstance(error, WeightsError) else _words(error), "models": found}
    for name in catalogue.names():
        try:
            catalogue.open(name)
            found[name] = None
        except Exception as error:  # a wrong record raises whatever the architecture does with it
            found[name] = error.detail if isinstance(error, WeightsError) else _words(error)
    return {"records": None, "models": found}


def main() -> None:
    """Answer one question."""
    parser = argparse.ArgumentParser(prog="chronolens.probe", description=__doc__)
    asked = parser.add_subparsers(dest="subject", required=True)
    asked.add_parser("torch").add_argument("--store", type=Path, required=True)
    asked.add_parser("records").add_argument("--store", type=Path, required=True)
    asked.add_parser("onnx")
    asked.add_parser("decode")
    asked.add_parser("packages").add_argument("modules", nargs="+", metavar="MODULE=DISTRIBUTION")
    options = parser.parse_args()
    ask: dict[str, Callable[[], Facts]] = {
        "torch": lambda: torch_facts(options.store),
        "records": lambda: record_facts(options.store),
        "onnx": onnx_facts,
        "decode": decode_facts,
        "packages": lambda: package_facts(options.modules),
    }
    try:
        found = ask[options.subject]()
    except Exception as error:  # what is asked about may be broken in any way
        traceback.print_exc()
        found = {"error": _words(error)}
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    sys.exit("error" in found)


if __name__ == "__main__":
    main()
