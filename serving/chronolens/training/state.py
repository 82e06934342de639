"""What a training run carries from step to step, and its checkpoints.

A checkpoint is written after each epoch; a run that goes on from it takes the same steps as one that was never stopped, to the last bit.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chronolens.errors import OptionsError, UnknownModelError
from chronolens.models.base import VideoNetwork
from chronolens.models.clstm import CLSTM
from chronolens.models.weights import find_record, load_model
from chronolens.store import default_store
from chronolens.training.architectures import MEMORY_FORMATS, adopt, build, transplant
from chronolens.training.averaging import Average
from chronolens.training.options import TrainOptions

FREE = ("num_classes", "height", "width", "dropout")
"""Options of an architecture in which weights to start from may differ."""


@dataclass
class TrainState:
    """Network, optimiser, average and history of one run; ``epoch`` counts finished epochs."""

    model: VideoNetwork
    average: Average
    optimiser: torch.optim.Optimizer
    size: int
    epoch: int = 0
    clips: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def start(options: TrainOptions, labels: Sequence[str]) -> TrainState:
    """Return a fresh state for the first phase; the weights depend on the seed and on what the run starts from.

    Raises:
        UnknownModelError, WeightsError: there are no such weights to start from.
        OptionsError: they are of another architecture or clip length.
    """
    torch.manual_seed(options.seed)
    state = _assemble(options, len(labels), options.phases[0].size)
    if options.start_from is not None:
        donor, classes = _donor(options, options.start_from)
        for model in (state.model, state.average.model):
            adopt(donor, model, same_classes=classes == tuple(labels))
    return state


def _donor(options: TrainOptions, name: str) -> tuple[VideoNetwork, tuple[str, ...]]:
    store = default_store()
    try:
        record = find_record(store, name)
    except UnknownModelError as error:
        error.pointer = "/start_from"
        raise
    own = build(options.architecture, 1, frames=options.frames, size=options.phases[0].size, dropout=0.0)
    shape = {key: value for key, value in dataclasses.asdict(own.config).items() if key not in FREE}  # type: ignore[call-overload]
    if record.architecture != options.architecture or {key: record.config.get(key) for key in shape} != shape:
        raise OptionsError(f"{name} is a {record.architecture} of another shape than the network to train", pointer="/start_from")
    return load_model(record, store), record.classes


def move_to_size(state: TrainState, options: TrainOptions, classes: int, size: int) -> TrainState:
    """Return the state with its network rebuilt for another frame size; the optimiser starts afresh."""
    moved = _assemble(options, classes, size)
    transplant(state.model, moved.model)
    transplant(state.average.model, moved.average.model)
    moved.average.updates = state.average.updates
    moved.epoch, moved.clips, moved.seconds, moved.history = state.epoch, state.clips, state.seconds, state.history
    return moved


def _assemble(options: TrainOptions, classes: int, size: int) -> TrainState:
    model = build(options.architecture, classes, frames=options.frames, size=size, dropout=options.dropout)
    model = model.to(memory_format=MEMORY_FORMATS[options.architecture])  # type: ignore[call-overload]
    return TrainState(model, Average(model, options.ema), _optimiser(model, options), size)


def _optimiser(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """AdamW; biases and BatchNorm are not decayed, and each group carries the ``scale`` of its learning rate.

    The C-LSTM's classifier has a weight for every time and place; all of them moving together by the full rate would make the logits
    jump, so its rate is divided by their number.
    """
    scale = 1.0
    head: set[int] = set()
    if isinstance(model, CLSTM):
        head = {id(model.endFC.weight)}
        scale = model.config.hidden / model.endFC.in_features
    matrices = [value for value in model.parameters() if value.ndim >= 2 and id(value) not in head]
    vectors = [value for value in model.parameters() if value.ndim < 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": options.decay, "scale": 1.0},
        {"params": vectors, "weight_decay": 0.0, "scale": 1.0},
    ]
    if isinstance(model, CLSTM):
        groups.append({"params": [model.endFC.weight], "weight_decay": options.decay, "scale": scale})
    return torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.99))


def save_checkpoint(state: TrainState, path: Path, options: TrainOptions) -> None:
    """Write the state; a kill in the middle leaves the old file."""
    body = {
        "run": _identity(options),
        "model": state.model.state_dict(),
        "average": state.average.model.state_dict(),
        "updates": state.average.updates,
        "optimiser": state.optimiser.state_dict(),
        "size": state.size,
        "epoch": state.epoch,
        "clips": state.clips,
        "seconds": state.seconds,
        "history": state.history,
        "random": torch.get_rng_state(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    torch.save(body, partial)
    os.replace(partial, path)


def _identity(options: TrainOptions) -> list[str | int]:
    return [options.architecture, options.data, options.frames, options.seed, options.start_from or ""]


def load_checkpoint(path: Path, options: TrainOptions, classes: int) -> TrainState:
    """Return the state of a checkpoint and set PyTorch's random numbers to where it was.

    Only plain tensors and numbers are read (``weights_only``), never code.

    Raises:
        OptionsError: the checkpoint belongs to a run with another architecture, data set, clip length or seed.
    """
    body = torch.load(path, weights_only=True)
    if body.get("run", _identity(options)) != _identity(options):
        raise OptionsError("the checkpoint in the work folder belongs to another run; give another folder or name", pointer="/work")
    state = _assemble(options, classes, body["size"])
    state.model.load_state_dict(body["model"])
    state.average.model.load_state_dict(body["average"])
    state.average.updates = body["updates"]
    state.optimiser.load_state_dict(body["optimiser"])
    state.epoch, state.clips, state.seconds, state.history = body["epoch"], body["clips"], body["seconds"], body["history"]
    torch.set_rng_state(body["random"])
    return state
