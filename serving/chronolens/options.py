"""What a caller may ask for, checked strictly; no torch.

Ranges that hold for every model are checked by the types; what depends on the model (class, layer, method) by :func:`check_against`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from chronolens.errors import OptionsError, UnknownClassError, UnknownLayerError
from chronolens.explain.presets import MaskSettings, settings
from chronolens.explain.words import Operator
from chronolens.schemas import ModelInfo

Method = Literal["gradcam", "freeze", "reverse"]
ArtefactName = Literal["panel.mp4", "gradcam.mp4", "layers.mp4", "layers.png", "freeze.mp4", "reverse.mp4", "arrays.npz", "strip.png"]
ARTEFACTS: tuple[ArtefactName, ...] = get_args(ArtefactName)
_NEEDS: dict[str, Method] = {
    "gradcam.mp4": "gradcam",
    "layers.mp4": "gradcam",
    "layers.png": "gradcam",
    "freeze.mp4": "freeze",
    "reverse.mp4": "reverse",
}
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
ClassName = Annotated[int, Field(ge=0, le=100_000)] | Name


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class GradCamOptions(_Strict):
    """Grad-CAM: which layers, one weight per channel and step or per clip, gradient of the logit or of the probability.

    Layers are module names, names of stages, or ``default``; ``all`` stands for every stage.
    """

    layers: Annotated[list[Name], Field(min_length=1, max_length=64)] | Literal["all"] = ["default"]
    weights: Literal["per_frame", "per_clip"] = "per_frame"
    of: Literal["logit", "probability"] = "logit"

    @property
    def names(self) -> list[str]:
        """The layers as a list."""
        return ["all"] if self.layers == "all" else list(self.layers)


class MaskOptions(_Strict):
    """Temporal masks: a preset and what to change of it; None keeps the preset's own value.

    Args:
        preset: ``default`` (ours), ``paper`` (the paper's table), ``authors`` (the authors' PyTorch code) or ``exhaustive`` (the best
            of all contiguous windows, without gradients).
        dataset: which published weights l1 and tv start from: Something-Something or KTH.
        l1, tv, beta: weights and exponent of the objective (>= 0; beta >= 1).
        steps: most optimiser steps a mask, 1..1000; with ``exhaustive``, that many from its best window on.
        learning_rate: of Adam (``paper``, ``authors``), > 0; of ``default`` the largest change of a mask value in the first step (<= 1).
        init: how the first mask is found.
        pair: which value blends a pair of reversed frames.
        threshold: mask value above which a frame belongs to a run of the reverse operator, in [0, 1].
        seed: of everything random.
    """

    preset: Literal["default", "paper", "authors", "exhaustive"] = "default"
    dataset: Literal["ssv2", "kth"] = "ssv2"
    l1: Annotated[float, Field(ge=0, le=100)] | None = None
    tv: Annotated[float, Field(ge=0, le=100)] | None = None
    beta: Annotated[float, Field(ge=1, le=10)] | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = None
    init: Literal["central", "authors-central", "window", "random", "exhaustive"] | None = None
    pair: Literal["earlier", "mean"] | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class PredictionOptions(_Strict):
    """What ``POST /v1/predictions`` takes beside the clip. Times are seconds of the source."""

    model: Name
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    start_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    end_s: Annotated[float, Field(gt=0, le=86_400)] | None = None

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError("end_s must be greater than start_s")
        return self


class ExplanationOptions(PredictionOptions):
    """What ``POST /v1/explanations`` takes beside the clip; ``target`` and ``true_class`` are class indices or labels."""

    target: ClassName | None = None
    true_class: ClassName | None = None
    methods: Annotated[list[Method], Field(min_length=1, max_length=3)] = ["gradcam", "freeze", "reverse"]
    gradcam: GradCamOptions = GradCamOptions()
    mask: MaskOptions = MaskOptions()
    artefacts: Annotated[list[ArtefactName], Field(max_length=len(ARTEFACTS))] | None = None

    @field_validator("methods", "artefacts")
    @classmethod
    def _unique(cls, values: list[str] | None) -> list[str] | None:
        if values is not None and len(set(values)) != len(values):
            raise ValueError("each entry may be named once")
        return values

    @model_validator(mode="after")
    def _artefacts_have_their_method(self) -> Self:
        for name in self.artefacts or []:
            if name in _NEEDS and _NEEDS[name] not in self.methods:
                raise ValueError(f"artefact {name} needs the method {_NEEDS[name]}")
        return self

    def wanted_artefacts(self, maps: int) -> list[ArtefactName]:
        """Return the artefacts to make: those named, else everything that the methods allow.

        Args:
            maps: how many heat maps there are; the grid of layers is made unasked when there are several.
        """
        if self.artefacts is not None:
            return list(self.artefacts)
        able = [name for name in ARTEFACTS if name not in _NEEDS or _NEEDS[name] in self.methods]
        return [name for name in able if maps > 1 or not name.startswith("layers.")]


def mask_settings(options: MaskOptions, operator: Operator) -> MaskSettings:
    """Return the preset of the options with the values that were given instead of its own.

    Raises:
        OptionsError: values that do not go together.
    """
    given = options.model_dump(exclude={"preset", "dataset"}, exclude_none=True)
    return settings(options.preset, operator, dataset=options.dataset, **given)


def class_index(classes: Sequence[str], value: int | str | None, pointer: str) -> int | None:
    """Return the index of a class given by index or label; None stays None.

    Raises:
        UnknownClassError: no such index or label; the message lists what is near.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if value in classes:
            return list(classes).index(value)
        near = difflib.get_close_matches(value, classes, n=20, cutoff=0.3) or list(classes)
        raise UnknownClassError("the model has no class of that label", pointer=pointer, allowed=near)
    if 0 <= value < len(classes):
        return value
    raise UnknownClassError(
        f"the model has {len(classes)} classes, numbered from 0", pointer=pointer, limit=len(classes) - 1, observed=value
    )


def check_against(options: ExplanationOptions, model: ModelInfo) -> None:
    """Check what depends on the model.

    Raises:
        UnknownClassError, UnknownLayerError, OptionsError: with the pointer of the option and what is allowed.
    """
    class_index(model.classes, options.target, "/target")
    class_index(model.classes, options.true_class, "/true_class")
    known = ["default", "all", *model.stages, *model.layers]
    for position, layer in enumerate(options.gradcam.names):
        if layer not in known:
            near = difflib.get_close_matches(layer, known, n=20, cutoff=0.3)
            hint = f"; nearest: {', '.join(near[:3])}" if near else ""
            raise UnknownLayerError(f"the model has no such layer{hint}", pointer=f"/gradcam/layers/{position}", allowed=near or known)
    for position, method in enumerate(options.methods):
        if method not in model.methods:
            raise OptionsError("the model cannot do this", code="method-unavailable", pointer=f"/methods/{position}", allowed=model.methods)
        if method != "gradcam":
            wanted = mask_settings(options.mask, method)
            if "default" not in model.mask_presets and not wanted.forward_only:
                detail = "the engine of this model has no gradients to learn such a mask by"
                raise OptionsError(detail, code="method-unavailable", pointer="/mask/preset", allowed=model.mask_presets)
