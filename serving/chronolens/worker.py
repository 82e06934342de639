"""The process that holds the networks: batches of packed calls in, answers out, over an inherited socket.

Started by :mod:`chronolens.pool` (``python -m chronolens.worker --fd N``). One batch computes at a time, so that thread count and
therefore results stay the same under load. It says hello once its models are loaded and each has answered the golden clip.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from chronolens.answering import answer_all
from chronolens.engine import Engine
from chronolens.errors import ChronolensError
from chronolens.golden import golden_frames
from chronolens.onnx_engine import OnnxEngine
from chronolens.options import GradCamOptions
from chronolens.store import default_store


def serve(engine: Engine, pipe: Connection) -> None:
    """Answer batches until the other side closes."""
    while True:
        try:
            count = int.from_bytes(pipe.recv_bytes(4), "big")
            bodies = [pipe.recv_bytes() for _ in range(count)]
        except EOFError:
            return
        answers = answer_all(engine, bodies)
        pipe.send_bytes(json.dumps({"passes": engine.passes()}).encode())
        for answer in answers:
            pipe.send_bytes(answer.body)


def device_of(index: int) -> str:
    """Return the device of the worker of this number: the graphics cards in turn, the CPU where there is none."""
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{index % cards}" if cards else "cpu"


def main() -> None:
    """Load the models and serve."""
    parser = argparse.ArgumentParser(prog="chronolens.worker")
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of the inherited socket")
    parser.add_argument("--index", type=int, default=0, help="number of this worker, which chooses its graphics card")
    parser.add_argument("--store", type=Path, default=None, help="folder with weights.toml")
    parser.add_argument("--onnx", type=Path, default=None, help="folder of ONNX artefacts, to be run in place of the store's networks")
    parser.add_argument("--models", nargs="+", help="which of the ONNX artefacts; all when left out")
    options = parser.parse_args()
    store = options.store or default_store()
    try:
        engine = OnnxEngine(options.onnx, options.models, card=options.index) if options.onnx else Engine(store, device_of(options.index))
        served = engine.models()
        for info in served:  # the first answer takes longer than the others, and a model that gives no numbers must not be served
            gradcam = GradCamOptions() if "gradcam" in info.methods else None
            engine.look(info.name, golden_frames(engine.load(info.name).record.clip), target=None, gradcam=gradcam)
    except ChronolensError as error:
        raise SystemExit(f"the models cannot be served: {error.detail}") from error
    if not served:
        raise SystemExit(f"{options.onnx or store} has no models; set CHRONOLENS_MODEL_STORE to a folder with weights.toml")
    pipe = Connection(options.fd)
    pipe.send_bytes(
        json.dumps(
            {"models": [info.name for info in served], "devices": sorted({engine.load(info.name).device for info in served})}
        ).encode()
    )
    serve(engine, pipe)


if __name__ == "__main__":
    main()
