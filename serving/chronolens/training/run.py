"""``train``: the whole way from options to weights in the store."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from chronolens.clips import ClipSpec
from chronolens.models.weights import WeightsRecord, save_weights
from chronolens.training.evaluate import evaluate
from chronolens.training.loop import Trainer, clip_spec, open_sources
from chronolens.training.options import TrainOptions
from chronolens.training.sources import ARROW_PREFIX, open_source
from chronolens.training.state import TrainState

LICENCE = "Apache-2.0"
SYNTHETIC_WARNING = "trained on synthetic clips only; not for decisions about real video"


def train(options: TrainOptions) -> WeightsRecord | None:
    """Train a network, measure it on the test split and write weights and record into ``options.store``.

    Returns:
        The record, with figures in ``metrics``; None when the run was ended early by ``stop_after``.

    Raises:
        OptionsError: the data set cannot be opened.
    """
    # rather fail now than after training
    open_source(options.data, "test", spec=ClipSpec(options.frames, 1, 1), seed=options.seed, count=1)
    train_source, val_source = open_sources(options)
    trainer = Trainer(options, train_source, val_source)
    state = trainer.run()
    if state.epoch < options.epochs:
        return None
    model = halved(state.average.model)
    spec = clip_spec(options, state.size)
    figures = evaluate(
        model,
        spec,
        train_source.classes,
        data=options.data,
        seed=options.seed,
        limit=options.test,
        reversed=True,
        frozen=True,
        workers=options.workers,
    )
    record = _record(options, state, list(train_source.classes), figures)
    return record if options.store is None else save_weights(model, record, options.store)


def halved(model: nn.Module) -> nn.Module:
    """Round the matrices to float16 and back, as the weights file does, so that the figures are those of the shipped weights."""
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim >= 2:
                value.copy_(value.half().float())
    return model


def _record(options: TrainOptions, state: TrainState, classes: list[str], figures: dict[str, Any]) -> WeightsRecord:
    kept = ("f1", "n", "accuracy", "reversed_f1", "reversed_accuracy", "reversed_opposite", "frozen_f1", "split", "seed")
    metrics = {key: round(value, 4) if isinstance(value := figures[key], float) else value for key in kept if figures.get(key) is not None}
    metrics |= {"training_clips": state.clips, "training_hours": round(state.seconds / 3600, 3)}
    config: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(_config(state.average.model)).items()
    }
    synthetic = options.data.removeprefix(ARROW_PREFIX) == "synthetic"
    start = f" --start-from {options.start_from}" if options.start_from else ""
    return WeightsRecord(
        name=options.name,
        architecture=options.architecture,
        config=config,
        clip=clip_spec(options, state.size),
        classes=tuple(classes),
        data_set=options.data if synthetic else "files",
        licence=LICENCE if synthetic else "not stated",
        source=f"chronolens train --architecture {options.architecture} --data {options.data}{start} --seed {options.seed}",
        metrics=metrics,
        warnings=(SYNTHETIC_WARNING,) if synthetic else (),
    )


def _config(model: nn.Module) -> Any:
    return model.config
