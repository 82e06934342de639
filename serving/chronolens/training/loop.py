"""Training: epochs over a source, checkpoints, and at the end the weights with their figures in the record."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from chronolens.clips import ClipSpec
from chronolens.data.source import CachedSource, ClipSource
from chronolens.data.time_arrow import ArrowSource
from chronolens.explain.capture import capture
from chronolens.training.architectures import MEMORY_FORMATS
from chronolens.training.evaluate import predict_source, scores
from chronolens.training.feed import Cells, ClipDataset, batches, epoch_numbers, prepare
from chronolens.training.localise import localisation_loss
from chronolens.training.norm import recalibrate, use_running
from chronolens.training.options import Phase, TrainOptions
from chronolens.training.sources import open_source
from chronolens.training.state import TrainState, load_checkpoint, move_to_size, save_checkpoint, start

RECALIBRATION_CLIPS = 256


def clip_spec(options: TrainOptions, size: int) -> ClipSpec:
    """Return the preparation of clips that training uses: values in [-1, 1]."""
    return ClipSpec(options.frames, size, size, scale=2 / 255, mean=(1.0, 1.0, 1.0))


class Trainer:
    """One run from start (or checkpoint) to finished weights.

    Args:
        options: see there.
        train, val: sources of clips; opened from ``options.data`` by :func:`chronolens.training.run.train`.
    """

    def __init__(self, options: TrainOptions, train: ClipSource, val: ClipSource) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.options, self.train_source, self.val_source = options, train, val
        self.classes = len(train.classes)
        self.checkpoint = options.work / f"{options.name}.checkpoint"
        self.log = options.work / f"{options.name}.log.jsonl"

    def run(self) -> TrainState:
        """Train to the end of the schedule, or to ``stop_after``; return the state."""
        options = self.options
        if options.resume and self.checkpoint.is_file():
            state = load_checkpoint(self.checkpoint, options, self.classes)
        else:
            state = start(options, self.train_source.classes)
        last = options.epochs if options.stop_after is None else min(options.stop_after, options.epochs)
        with self._progress() as progress:
            while state.epoch < last:
                state = self._epoch(state, progress)
                save_checkpoint(state, self.checkpoint, options)
        return state

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, disable=not self.options.show_progress)

    def _epoch(self, state: TrainState, progress: Progress) -> TrainState:
        options, phase = self.options, self.options.phase_of(state.epoch)
        if phase.size != state.size:
            state = move_to_size(state, options, self.classes, phase.size)
        began = time.monotonic()
        numbers = epoch_numbers(len(self.train_source), options.clips, state.epoch, options.seed)
        cells = self._cells(state) if phase.localise else ()
        dataset = ClipDataset(self.train_source, numbers, (phase.size, phase.size), (options.seed, 1, state.epoch), cells)
        steps = len(numbers) // options.batch
        task = progress.add_task(f"epoch {state.epoch + 1}/{options.epochs} at {phase.size}", total=steps)
        state.model.train()
        if phase.running_norm:
            if state.epoch and not options.phase_of(state.epoch - 1).running_norm:
                self.recalibrate(state.model, state.size)
            use_running(state.model)
        total, right = 0.0, 0
        for step, (clips, targets, *covered) in enumerate(batches(dataset, options.batch, options.workers, drop_last=True)):
            self._set_rate(state, step / steps)
            loss, logits = self._step(state, clips, targets, covered, phase.localise)
            total += loss
            right += int((logits.argmax(1) == targets).sum())
            progress.update(
                task, advance=1, description=f"epoch {state.epoch + 1}/{options.epochs} at {phase.size}, loss {total / (step + 1):.3f}"
            )
        state.epoch += 1
        state.clips += steps * options.batch
        self._report(state, phase, {"loss": total / steps, "train_accuracy": right / (steps * options.batch)}, began)
        return state

    def _cells(self, state: TrainState) -> list[Cells]:
        """Return where the cells of the default maps lie, and their shapes."""
        model, frames, size = state.average.model, self.options.frames, state.size
        with torch.no_grad(), capture(model, model.default_layers) as taps:
            model(torch.zeros(1, 3, frames, size, size))
            shapes = {layer: taps[layer].shape[2:] for layer in model.default_layers}
        return [(model.cell_grid(layer, frames, size, size), (shape[0], shape[1], shape[2])) for layer, shape in shapes.items()]

    def _set_rate(self, state: TrainState, part: float) -> None:
        """Linear warm-up over the first 4 % of the schedule, then a half cosine to 1 %; time counts in epochs."""
        done = (state.epoch + part) / self.options.epochs
        factor = done / 0.04 if done < 0.04 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - 0.04) / 0.96))
        for group in state.optimiser.param_groups:
            group["lr"] = self.options.rate * max(factor, 0.01) * group.get("scale", 1.0)

    def _step(
        self, state: TrainState, clips: Tensor, targets: Tensor, covered: Sequence[Tensor] = (), localise: float = 0.0
    ) -> tuple[float, Tensor]:
        options = self.options
        tapped = state.model.default_layers if covered else ()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"), capture(state.model, tapped) as taps:
            logits = state.model(self._prepare(clips, state.size))
            features = {layer: taps[layer] for layer in tapped}
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=options.smoothing)
        for layer, cells in zip(tapped, covered, strict=True):
            loss = loss + localise / len(tapped) * localisation_loss(state.model, layer, features[layer], targets, cells)
        state.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), options.clip_norm)
        state.optimiser.step()
        state.average.update(state.model)
        return float(loss.detach()), logits.detach()

    def _prepare(self, clips: Tensor, size: int) -> Tensor:
        prepared = prepare(clips, clip_spec(self.options, size))
        return prepared.contiguous(memory_format=MEMORY_FORMATS[self.options.architecture])

    def _report(self, state: TrainState, phase: Phase, figures: dict[str, Any], began: float) -> None:
        """Measure on the validation split, note it in the history and in the log."""
        if not phase.running_norm:
            self.recalibrate(state.average.model, state.size)
        spec = clip_spec(self.options, state.size)
        found = predict_source(state.average.model, spec, self.val_source, self.options.validate, precision=self.options.precision)
        figures |= {"epoch": state.epoch, "size": state.size, "val_accuracy": scores(found, self.classes)["accuracy"]}
        figures |= {"val_f1": scores(found, self.classes)["f1"], "clips": state.clips}
        state.seconds += time.monotonic() - began
        figures["seconds"] = round(state.seconds, 1)
        state.history.append(figures)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")

    def recalibrate(self, model: nn.Module, size: int) -> None:
        """Measure the BatchNorm statistics of a network on unchanged training clips, spread over the source: files lie class by class."""
        total = len(self.train_source)
        count = min(RECALIBRATION_CLIPS, total)
        dataset = ClipDataset(self.train_source, [number * total // count for number in range(count)], (size, size))

        def clips() -> Iterator[Tensor]:
            for clip, _ in batches(dataset, self.options.batch, 0):
                yield self._prepare(clip, size)

        with torch.autocast("cpu", torch.bfloat16, enabled=self.options.precision == "bf16"):
            recalibrate(model, clips())


def open_sources(options: TrainOptions) -> tuple[ClipSource, ClipSource]:
    """Return the cached training and validation sources of a run."""
    size = options.drawn
    shape = (options.frames, size, size)
    cache, spec = options.work / "cache", ClipSpec(*shape)
    train = open_source(options.data, "train", spec=spec, seed=options.seed, count=options.pool)
    val = open_source(options.data, "val", spec=spec, seed=options.seed, count=options.validate)
    return _cached(train, cache, shape), _cached(val, cache, shape)


def _cached(source: ClipSource, folder: Path, shape: tuple[int, int, int]) -> ClipSource:
    """Return the source with its clips kept on disk; of clips that are shown in both directions only one."""
    if isinstance(source, ArrowSource):
        return ArrowSource(CachedSource(source.inner, folder, shape))
    return CachedSource(source, folder, shape)
