"""What the kinds for model servers share: handlers, what a served model has to answer, and asking it the way its callers do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from chronolens.clips import Frames
from chronolens.engine_wire import Call, unpack_answer
from chronolens.errors import ExportError
from chronolens.export.kind import Answer, Ask, Probe, Subject
from chronolens.export.recipe import handlers
from chronolens.golden import golden_frames
from chronolens.model_server.server import ModelServer
from chronolens.models.weights import write_record
from chronolens.options import GradCamOptions
from chronolens.video.prepare import prepare
from chronolens.wire import Arrays

GOLDEN_SEED = 0


def handler_file(name: str) -> Path:
    """Return a handler, such as ``triton/model.py``."""
    return handlers() / name


def put_model(subject: Subject, folder: Path) -> None:
    """Make a folder the model store of one model: its record and its weights file, or the name of the plugin that brings the network."""
    record = subject.record
    if record.file:
        (folder / record.file).write_bytes((subject.store / record.file).read_bytes())
    elif not record.plugin:
        raise ExportError("A model that was given in Python has no function by whose name a server's process could build it.")
    write_record(record, folder)


def golden_text(subject: Subject) -> str:
    """Return what :data:`chronolens.model_server.server.GOLDEN` holds: a seed and the scores of the float32 network."""
    clip = torch.from_numpy(prepare(golden_frames(subject.record.clip, GOLDEN_SEED), subject.record.clip))
    with torch.no_grad():
        scores = torch.softmax(subject.network(clip)[0].double(), dim=0)
    return json.dumps({"seed": GOLDEN_SEED, "scores": scores.tolist()}) + "\n"


def asking(server: ModelServer) -> Ask:
    """Return what asks a model server by packed calls; those of a probe share passes."""

    def ask(probe: Probe) -> Answer:
        calls = [_call(server, frames, int(target)) for frames, target in zip(probe.frames, probe.target, strict=True)]
        answers = server.answer([call.pack() for call in calls])
        arrays = [unpack_answer(call.id, answer.body)[0] for call, answer in zip(calls, answers, strict=True)]
        layers = [name.removeprefix("map/") for name in arrays[0] if name.startswith("map/")]
        return Answer(_logits(server, probe, arrays), {layer: _stacked(arrays, f"map/{layer}") for layer in layers})

    return ask


def _call(server: ModelServer, frames: Frames, target: int) -> Call:
    arguments = {"target": None if target < 0 else target, "gradcam": GradCamOptions().model_dump(mode="json")}
    return Call("look", server.info.name, frames, arguments)


def _logits(server: ModelServer, probe: Probe, arrays: list[Arrays]) -> torch.Tensor:
    """Return the logits behind the scores that were answered: scores tell them up to one number a clip, which the loaded network gives."""
    scores = _stacked(arrays, "scores")
    with torch.no_grad():
        logits: torch.Tensor = server.engine.load(server.info.name).network(probe.clip).double()
    return (scores.log() + logits.logsumexp(dim=1, keepdim=True)).float()


def _stacked(arrays: list[Arrays], name: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([one[name] for one in arrays]))
