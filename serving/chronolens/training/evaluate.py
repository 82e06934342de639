"""How good a network is on a split: macro F1, accuracy, and what it says about clips played backwards or standing still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from chronolens.clips import ClipSpec
from chronolens.data.source import ClipSource
from chronolens.data.synthetic import OPPOSITES
from chronolens.data.time_arrow import ARROW
from chronolens.errors import OptionsError
from chronolens.training.feed import ClipDataset, batches, prepare
from chronolens.training.sources import open_source

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """True and predicted class of each clip, (n,) int64; predictions for reversed and for frozen clips when asked for."""

    truth: Labels
    forwards: Labels
    backwards: Labels | None = None
    still: Labels | None = None


def evaluate(
    model: nn.Module,
    spec: ClipSpec,
    classes: Sequence[str],
    *,
    data: str = "synthetic",
    split: str = "test",
    seed: int = 0,
    limit: int = 480,
    reversed: bool = False,
    frozen: bool = False,
    precision: str = "float32",
    workers: int = 0,
) -> dict[str, Any]:
    """Measure a network on the first ``limit`` clips of a split.

    Args:
        model: (N, 3, T, H, W) -> (N, len(classes)) logits.
        spec: preparation of clips.
        classes: labels in index order; they must be those of the data.
        data: ``synthetic``, a folder of class folders or a CSV file.
        split: ``train``, ``val`` or ``test``.
        seed: of the synthetic clips or of the division of a folder; test clips of any seed are unseen.
        limit: number of clips; the synthetic split is balanced for multiples of 16.
        reversed: also play the clips backwards.
        frozen: also show clips in which every frame equals frame 0.
        precision: ``float32`` or ``bf16``.
        workers: processes that load clips.

    Returns:
        ``f1`` (macro), ``n``, ``accuracy``, ``classes``, ``confusion`` (rows: truth); when reversed ``reversed_f1`` (backwards against
        the original label, all classes, as the paper reports it) and, over the classes that have an opposite, ``reversed_n``,
        ``reversed_accuracy`` (backwards against the original label) and ``reversed_opposite`` (against the opposite one); when frozen
        ``frozen_f1``.

    Raises:
        OptionsError: the classes of the data are others than the network's, or the data set cannot be opened.
    """
    source = open_source(data, split, spec=spec, seed=seed, count=limit)
    if list(source.classes) != list(classes):
        raise OptionsError("the data set's classes are not those of the model", pointer="/data", allowed=classes)
    found = predict_source(model, spec, source, limit, reversed=reversed, frozen=frozen, precision=precision, workers=workers)
    result = scores(found, len(classes))
    if found.backwards is not None:
        result["reversed_f1"] = macro_f1(confusion(found.truth, found.backwards, len(classes)))
        result |= backwards_scores(found, classes, OPPOSITES | ARROW)
    if found.still is not None:
        result["frozen_f1"] = macro_f1(confusion(found.truth, found.still, len(classes)))
    return {**result, "classes": list(classes), "data": data, "split": split, "seed": seed}


@torch.inference_mode()
def predict_source(
    model: nn.Module,
    spec: ClipSpec,
    source: ClipSource,
    limit: int,
    *,
    reversed: bool = False,
    frozen: bool = False,
    precision: str = "float32",
    workers: int = 0,
    batch: int = 16,
) -> Predictions:
    """Return what a network in evaluation mode says about the first clips of a source."""
    training = model.training
    model.eval()
    dataset = ClipDataset(source, list(range(min(limit, len(source)))), (spec.height, spec.width))
    truth: list[npt.NDArray[np.int64]] = []
    found: dict[str, list[npt.NDArray[np.int64]]] = {"forwards": [], "backwards": [], "still": []}
    for clips, targets in batches(dataset, batch, workers):
        truth.append(targets.numpy())
        views = {"forwards": clips}
        if reversed:
            views["backwards"] = clips.flip(1)
        if frozen:
            views["still"] = clips[:, :1].expand_as(clips)
        for name, view in views.items():
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                found[name].append(model(prepare(view, spec)).argmax(1).numpy())
    model.train(training)
    joined = {name: np.concatenate(parts) if parts else None for name, parts in found.items()}
    if joined["forwards"] is None:
        raise ValueError("the split has no clips")
    return Predictions(np.concatenate(truth), joined["forwards"], joined["backwards"], joined["still"])


def confusion(truth: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Return how often each class (row) was taken for each class (column)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth, predicted), 1)
    return counts


def macro_f1(counts: npt.NDArray[np.int64]) -> float:
    """Return the mean F1 over the classes that occur in the truth; a class never predicted has F1 0."""
    hits = np.diag(counts)
    total = counts.sum(0) + counts.sum(1)
    present = counts.sum(1) > 0
    return float(np.mean(2 * hits[present] / total[present]))


def scores(found: Predictions, classes: int) -> dict[str, Any]:
    """Return ``f1``, ``n``, ``accuracy`` and ``confusion`` of forward predictions."""
    counts = confusion(found.truth, found.forwards, classes)
    accuracy = float(np.mean(found.truth == found.forwards))
    return {"f1": macro_f1(counts), "n": len(found.truth), "accuracy": accuracy, "confusion": counts.tolist()}


def backwards_scores(found: Predictions, classes: Sequence[str], opposites: Mapping[str, str]) -> dict[str, Any]:
    """Return how reversed clips were read, over the classes that have an opposite; None when no clip has one."""
    if found.backwards is None:
        raise ValueError("no predictions for reversed clips")
    index = {label: number for number, label in enumerate(classes)}
    other = np.array([index.get(opposites.get(label, ""), -1) for label in classes])
    paired = other[found.truth] >= 0
    count = int(paired.sum())
    result: dict[str, Any] = {"reversed_n": count, "reversed_accuracy": None, "reversed_opposite": None}
    if count:
        truth, said = found.truth[paired], found.backwards[paired]
        result["reversed_accuracy"] = float(np.mean(said == truth))
        result["reversed_opposite"] = float(np.mean(said == other[truth]))
    return result
