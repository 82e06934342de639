"""Frames in, scores, heat maps and masks out: the one way to the networks. Every server and the command line call it."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chronolens.catalogue import Catalogue
from chronolens.clips import ClipSpec, Frames
from chronolens.errors import ChronolensError, ClipError, NonFiniteResultError, OptionsError, WeightsError
from chronolens.explain import grad_cam
from chronolens.explain.blobs import blob_statistics
from chronolens.explain.capture import unknown_layer, valid_layers
from chronolens.explain.evaluation import score_rows, unknown
from chronolens.explain.known import Known, Row
from chronolens.explain.mask_state import MaskState
from chronolens.explain.objective import ROWS, operator_matrix
from chronolens.explain.presets import PRESETS, MaskSettings
from chronolens.explain.protocol import Passes, VideoModel, class_indices, require_finite
from chronolens.explain.scores import drop, explain_scores, score_table_rows
from chronolens.explain.trust import better_than_chance, rank_rows
from chronolens.explain.words import Operator
from chronolens.mask_slices import LearnRequest, MaskSlice, advance_slices
from chronolens.models.base import VideoNetwork
from chronolens.models.precision import InBfloat16, chosen_precision, in_bfloat16
from chronolens.models.weights import WeightsRecord
from chronolens.options import GradCamOptions, MaskOptions, mask_settings
from chronolens.plugins import OwnModel
from chronolens.render.overlay import lay_on_clip
from chronolens.schemas import ClipSpecInfo, ModelInfo
from chronolens.store import default_store
from chronolens.video.prepare import prepare
from chronolens.wire import Arrays

Facts = dict[str, Any]
METHODS = ["gradcam", "freeze", "reverse"]
MAX_BATCH = 8
"""Clips of one pass when several callers ask at once; more would make the first of them wait."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network ready to be asked.

    Args:
        record: where it comes from.
        network: what scores and maps are computed with.
        learner: its form that masks are learned on.
        layers: that Grad-CAM accepts; none when it cannot be asked for.
        device: where it computes.
        mask_presets: that it can do.
    """

    record: WeightsRecord
    network: VideoNetwork
    learner: VideoModel
    layers: list[str]
    device: str
    mask_presets: list[str] = dataclasses.field(default_factory=lambda: list(PRESETS))

    @property
    def methods(self) -> list[str]:
        """What can be asked of it."""
        return [method for method in METHODS if self.layers or method != "gradcam"]


@dataclasses.dataclass(frozen=True)
class LookRequest:
    """One clip to score and, with ``gradcam``, to map; see :meth:`chronolens.pipeline.Engine.look`."""

    frames: Frames
    target: int | None
    gradcam: GradCamOptions | None


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Perturbed clips to score, see :meth:`chronolens.pipeline.Engine.score`."""

    frames: Frames
    target: int
    masks: dict[Operator, list[float]]
    mask: MaskOptions
    known: Sequence[Sequence[Any]] = ()
    budget_s: float = math.inf


class Engine:
    """The networks of one model store and of plugins, as :class:`chronolens.pipeline.Engine`.

    Models are loaded at their first use and kept. Parameters are frozen, batches of one clip a row. What is reported is computed in
    float32; masks are learned in bfloat16 where the processor multiplies it natively, see :mod:`chronolens.models.precision`.

    Args:
        store: folder with ``weights.toml``; the shipped one when None.
        device: torch device; CUDA when there is one, else the CPU, when None.
        own: models beside the store; those of all plugins that are named or installed when None, see :mod:`chronolens.plugin_names`.
    """

    def __init__(self, store: Path | None = None, device: str | None = None, *, own: Sequence[OwnModel] | None = None) -> None:
        self.store = store or default_store()
        self._own = own
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self.device.type == "cuda":  # what is reported as float32 has 23 bits of mantissa, not the 10 that CUDA uses unasked
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self.precision = chosen_precision(self.device)
        self.max_batch = MAX_BATCH
        self._loaded: dict[str, Loaded] = {}
        self._loading = threading.Lock()
        self._passes: Counter[tuple[str, str, str]] = Counter()
        self._counting = threading.Lock()

    def passes(self) -> list[Facts]:
        """Return every pass since this engine was made: ``model``, ``purpose``, ``direction`` and how many ``passes``.

        Purposes: ``load``, ``predict``, ``gradcam``, ``freeze``, ``reverse``, ``scores``, ``chance``. Directions: ``forward``,
        ``input_gradient``, ``weight_gradient``. A batch of four clips counts four. The checks of an own model are not counted.
        """
        with self._counting:
            counted = sorted(self._passes.items())
        return [{"model": key[0], "purpose": key[1], "direction": key[2], "passes": count} for key, count in counted]

    def _count(self, model: str, purpose: str, passes: Passes) -> None:
        with self._counting:
            for direction, count in dataclasses.asdict(passes).items():
                self._passes[model, purpose, direction] += count

    def models(self) -> list[ModelInfo]:
        """Return all models, each loaded and therefore proven to fit its record."""
        return [self.describe(name) for name in self._names()]

    def describe(self, name: str) -> ModelInfo:
        """Return the public facts of one model.

        Raises:
            UnknownModelError, WeightsError: no such model, or its weights do not fit.
        """
        loaded = self.load(name)
        record = loaded.record
        return ModelInfo(
            name=name,
            architecture=record.architecture,
            data_set=record.data_set,
            classes=list(record.classes),
            clip=ClipSpecInfo(**dataclasses.asdict(record.clip)),
            methods=loaded.methods,
            mask_presets=loaded.mask_presets,
            layers=loaded.layers,
            default_layers=list(loaded.network.default_layers),
            stages={name: list(modules) for name, modules in loaded.network.stages.items()},
            pathways=list(loaded.network.pathways),
            weights=record.sha256,
            licence=record.licence,
            backend="local",
            state="ready",
            metrics=record.metrics,
            warnings=list(record.warnings),
        )

    def load(self, name: str) -> Loaded:
        """Return one model, loading it when it is not there yet.

        Raises:
            UnknownModelError, WeightsError: no such model, or its weights do not fit.
        """
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = self._open(name)
                self._count(name, "load", Passes(forward=1))
            return self._loaded[name]

    @cached_property
    def _catalogue(self) -> Catalogue:
        return Catalogue(self.store, self._own)

    def _names(self) -> list[str]:
        """Return the names of what can be loaded."""
        return self._catalogue.names()

    def _open(self, name: str) -> Loaded:
        """Load one model, at the cost of one forward pass.

        Raises:
            UnknownModelError, WeightsError: no such model, or it does not fit its record.
        """
        record, network = self._catalogue.open(name, self.device)
        shape = (3, record.clip.frames, record.clip.height, record.clip.width)
        try:
            layers = network.mappable(valid_layers(network, shape))
        except ChronolensError:
            raise
        except Exception as error:  # a record can ask for anything
            raise WeightsError(f"{name} cannot take the clips that its record describes: {str(error)[:200]}") from error
        learner: VideoModel = network
        if self.precision == "bfloat16":  # ours are known to work in it
            learner = InBfloat16(network) if record.file else in_bfloat16(network, shape)
        return Loaded(record, network, learner, layers, str(self.device))

    def require_weights(self, name: str, sha256: str) -> None:
        """Raise WeightsError (``weights-changed``) unless the model has the weights of this digest."""
        if self.load(name).record.sha256 != sha256:
            raise WeightsError("the weights of the model are other ones than those the request was made for", code="weights-changed")

    def look(self, model: str, frames: Frames, *, target: int | None, gradcam: GradCamOptions | None) -> tuple[Arrays, Facts]:
        """Score the clip and map it, see :meth:`chronolens.pipeline.Engine.look`."""
        return self.look_many(model, [LookRequest(frames, target, gradcam)])[0]

    def look_many(self, model: str, requests: Sequence[LookRequest]) -> list[tuple[Arrays, Facts]]:
        """Score and map clips in one pass.

        Args:
            model: name.
            requests: with the same ``gradcam``; targets all None or all given.

        Raises:
            ChronolensError: one of them is at fault, and none is answered.
        """
        started = time.perf_counter()
        loaded = self.load(model)
        spec, gradcam = loaded.record.clip, requests[0].gradcam
        clips = torch.cat([self._prepare(request.frames, spec) for request in requests])
        given = [request.target for request in requests if request.target is not None]
        purpose = "predict" if gradcam is None else "gradcam"
        try:
            logits, maps, passes = self._looked(loaded, clips, torch.tensor(given) if given else None, gradcam)
        except NonFiniteResultError:
            self._count(model, purpose, Passes(forward=len(clips)))
            raise
        self._count(model, purpose, passes)
        scores = logits.double().softmax(1).cpu().numpy()
        indices = class_indices(logits, torch.tensor(given) if given else None).tolist()
        grids = {layer: loaded.network.cell_grid(layer, spec.frames, spec.height, spec.width) for layer in maps}
        each = Passes(passes.forward // len(clips), passes.input_gradient // len(clips))
        answers = []
        for row, index in enumerate(indices):
            arrays: Arrays = {"scores": scores[row], **{f"map/{layer}": values[row] for layer, values in maps.items()}}
            original = Known([(Row("freeze", (0.0,) * spec.frames), float(scores[row, index]))])
            blobs = {
                layer: blob_statistics(lay_on_clip(values[row], grids[layer], spec.height, spec.width), spec.height, spec.width)
                for layer, values in maps.items()
            }
            facts = {
                "target": index,
                "known": original.to_json(),
                "blobs": blobs,
                "cells": {layer: dataclasses.asdict(grid) for layer, grid in grids.items()},
                "pathways": {layer: loaded.network.pathway_of(layer) for layer in maps},
                "passes": each.to_json(),
                "seconds": time.perf_counter() - started,
                "device": loaded.device,
                "dtype": "float32",
            }
            answers.append((arrays, facts))
        return answers

    def learn(
        self,
        model: str,
        frames: Frames,
        target: int,
        operator: Operator,
        options: MaskOptions,
        state: Facts | None,
        *,
        max_steps: int,
        budget_s: float,
        known: Sequence[Sequence[Any]] = (),
    ) -> Facts:
        """Advance one mask, see :meth:`chronolens.pipeline.Engine.learn`."""
        request = LearnRequest(frames, target, operator, options, state, max_steps=max_steps, budget_s=budget_s, known=known)
        facts = self.learn_many(model, [request])[0]
        if isinstance(facts, ChronolensError):
            raise facts
        return facts

    def learn_many(self, model: str, requests: Sequence[LearnRequest]) -> list[Facts | ChronolensError]:
        """Advance masks together, until the shortest of their budgets is over, see :func:`chronolens.mask_slices.advance_slices`.

        Returns:
            Facts, or the error of a mask that failed alone, in order.
        """
        loaded = self.load(model)
        started = time.perf_counter()
        spec, networks = loaded.record.clip, (loaded.network, loaded.learner, self.precision, loaded.record.sha256)
        slices = [MaskSlice(one, self._prepare(one.frames, spec), *networks) for one in requests]
        answers: dict[int, Facts | ChronolensError] = {}
        for network in dict.fromkeys(one.network for one in slices):
            chosen = [index for index, one in enumerate(slices) if one.network is network]
            budget_s = min(requests[index].budget_s for index in chosen)
            states = advance_slices([slices[index] for index in chosen], loaded.network, budget_s)
            for index, after in zip(chosen, states, strict=True):
                if isinstance(after, MaskState):
                    answers[index], passes = slices[index].answer(after, time.perf_counter() - started)
                    self._count(model, requests[index].operator, passes)
                elif isinstance(after, ChronolensError):
                    answers[index] = after
                else:
                    raise after
        return [answers[index] for index in range(len(requests))]

    def score(
        self,
        model: str,
        frames: Frames,
        target: int,
        masks: dict[Operator, list[float]],
        options: MaskOptions,
        known: Sequence[Sequence[Any]] = (),
        *,
        budget_s: float = math.inf,
    ) -> Facts:
        """Score the perturbed clips, see :meth:`chronolens.pipeline.Engine.score`."""
        started = time.perf_counter()
        loaded = self.load(model)
        clip = self._prepare(frames, loaded.record.clip)
        rule = mask_settings(options, "reverse")
        there = Known.from_json(known)
        wanted = {
            "scores": score_table_rows(len(frames), masks.get("freeze"), masks.get("reverse"), rule.pair, rule.threshold).values(),
            "chance": [row for operator, values in masks.items() for row in rank_rows(values, operator, rule.pair, rule.threshold)],
        }
        spent = {purpose: Passes() for purpose in wanted}
        for purpose, rows in wanted.items():
            while (left := unknown(rows, there)) and (time.perf_counter() - started < budget_s or not any(p.total for p in spent.values())):
                scores, passes = score_rows(loaded.network, clip, target, left[:ROWS], there)
                self._count(model, purpose, passes)
                spent[purpose] += passes
                require_finite(torch.tensor(scores), "scores")
        facts: Facts = {
            "done": not any(unknown(rows, there) for rows in wanted.values()),
            "waiting": sum(len(unknown(rows, there)) for rows in wanted.values()),
            "known": there.to_json(),
            "passes": {purpose: passes.to_json() for purpose, passes in spent.items()},
        }
        if facts["done"]:
            facts |= _tables(loaded.network, clip, target, masks, rule, there)
        return {**facts, "seconds": time.perf_counter() - started}

    def _looked(
        self, loaded: Loaded, clips: Tensor, target: Tensor | None, gradcam: GradCamOptions | None
    ) -> tuple[Tensor, Arrays, Passes]:
        """Return logits (N, K), unscaled maps (N, T', H', W') by layer and the cost of a look."""
        if gradcam is None:
            with torch.no_grad():
                logits = loaded.network(clips)
            require_finite(logits, "scores")
            return logits, {}, Passes(forward=len(clips))
        if not loaded.layers:
            detail = "the model names no layers that Grad-CAM could map"
            raise OptionsError(detail, code="method-unavailable", pointer="/methods", allowed=loaded.methods)
        for layer in grad_cam.resolve_layers(loaded.network, gradcam.names):
            if layer not in loaded.layers:
                raise unknown_layer(layer, loaded.layers)
        found = grad_cam.heat_maps(loaded.network, clips, target, layers=gradcam.names, weights=gradcam.weights, of=gradcam.of)
        return found.logits, {layer: values.float().cpu().numpy() for layer, values in found.maps.items()}, found.passes

    def _prepare(self, frames: Frames, spec: ClipSpec) -> Tensor:
        if frames.dtype != np.uint8 or frames.shape != (spec.frames, spec.height, spec.width, 3):
            raise ClipError(f"the model takes {spec.frames} frames of {spec.height} x {spec.width}", code="wrong-clip-shape")
        return torch.from_numpy(prepare(frames, spec)).to(self.device)


def _tables(network: VideoModel, clip: Tensor, target: int, masks: dict[Operator, list[float]], rule: MaskSettings, known: Known) -> Facts:
    """Return scores, drops, ranks and matrices of masks, all of whose perturbations are known."""
    rules: Facts = {"pair": rule.pair, "threshold": rule.threshold}
    found = explain_scores(network, clip, target, masks.get("freeze"), masks.get("reverse"), known=known, **rules)
    soft = found["soft"]
    return {
        "soft": soft,
        "thresholded": found["thresholded"],
        "drop": drop(soft["original"], soft["freeze"], soft["reverse"]),
        "chance": {
            operator: better_than_chance(network, clip, target, values, operator, known=known, **rules)[0]
            for operator, values in masks.items()
        },
        "perturbation": {
            operator: operator_matrix(operator, torch.tensor([values], dtype=torch.float64), rule.pair, rule.threshold)[0].tolist()
            for operator, values in masks.items()
        },
    }
