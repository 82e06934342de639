"""The torch-free side of every engine: the pipeline's engine, reached through a transport."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import ValidationError

from chronolens.clips import Frames
from chronolens.engine_wire import Call, Facts, Operation, garbage, unpack_answer
from chronolens.explain.words import Operator
from chronolens.options import GradCamOptions, MaskOptions
from chronolens.schemas import ModelInfo
from chronolens.wire import Arrays

SLICE_TIMEOUT_S = 120.0
"""Longest wait for one call: slices of a fraction of a second, or one step, which may queue behind others."""
_LOOK = frozenset({"target", "known", "blobs", "cells", "pathways", "passes", "seconds", "device", "dtype"})
_LEARN = frozenset({"state", "done", "progress", "total", "seconds", "values"})
_SCORE = frozenset({"done", "waiting", "known", "passes", "seconds"})
_SCORED = frozenset({"soft", "thresholded", "drop", "chance", "perturbation"})

T = TypeVar("T")


class Transport(Protocol):
    """Carries calls to one kind of engine and answers back. Methods block and may be called from any thread."""

    name: str

    def send(self, call: Call, body: bytes, timeout_s: float) -> bytes:
        """Return the answer to a packed call.

        Raises:
            EngineUnavailableError: nobody answers; EngineCrashedError when the engine died while it held the call; OverloadedError when it
                takes no more in.
            DeadlineExceededError: no answer within ``timeout_s``.
        """

    def sources(self) -> list[str]:
        """Return the names to ask ``describe`` of; an empty one stands for all that the engine holds.

        Raises:
            EngineUnavailableError: nobody answers.
        """


class Guard(Protocol):
    """Decides how often a request to an engine is tried, and whether at all."""

    def __call__(self, work: Callable[[], T], deadline: float) -> T:
        """Return what ``work`` returns, until the monotonic time ``deadline``."""


def once(work: Callable[[], T], deadline: float) -> T:
    """Try once: the guard of whoever has none."""
    return work()


class EngineClient:
    """One engine, as :class:`chronolens.pipeline.Engine`. Answers are checked: what does not fit the question is never handed on.

    Args:
        transport: the way to it.
        weights: digest that the model asked for must have; None when any will do.
        timeout_s: longest wait for one answer.
        guard: retries and circuit breaker.

    Raises (every method):
        EngineUnavailableError, DeadlineExceededError: as :meth:`Transport.send`; ``engine-garbage`` when the answer makes no sense.
        ChronolensError: the same class that the engine raised.
    """

    def __init__(
        self, transport: Transport, *, weights: str | None = None, timeout_s: float = SLICE_TIMEOUT_S, guard: Guard = once
    ) -> None:
        self._transport = transport
        self._weights = weights
        self._timeout_s = timeout_s
        self._guard = guard

    def models(self) -> list[ModelInfo]:
        """Return all models that the engine holds."""
        return [info for source in self._transport.sources() for info in self.describe(source)]

    def describe(self, model: str) -> list[ModelInfo]:
        """Return one model of the engine, all when ``model`` is empty; ``backend`` names the kind of engine."""
        found: list[ModelInfo] = []

        def check(_arrays: Arrays, facts: Facts) -> None:
            found[:] = [ModelInfo.model_validate({**entry, "backend": self._transport.name}) for entry in facts["models"]]
            if model and [info.name for info in found] != [model]:
                raise garbage("another model was described")

        self._call("describe", model, None, {}, check)
        return found

    def look(self, model: str, frames: Frames, *, target: int | None, gradcam: GradCamOptions | None) -> tuple[Arrays, Facts]:
        """See :meth:`chronolens.pipeline.Engine.look`."""

        def check(arrays: Arrays, facts: Facts) -> None:
            _require(facts, _LOOK)
            scores, index = arrays["scores"], facts["target"]
            if scores.ndim != 1 or not _distribution(scores):
                raise garbage("the scores are no distribution over classes")
            if not isinstance(index, int) or not 0 <= index < len(scores) or (target is not None and index != target):
                raise garbage("another class was explained")
            maps = {name.removeprefix("map/"): array for name, array in arrays.items() if name.startswith("map/")}
            if (
                maps.keys() != facts["cells"].keys()
                or maps.keys() != facts["pathways"].keys()
                or bool(maps) != (gradcam is not None)
                or any(array.ndim != 3 for array in maps.values())
            ):
                raise garbage("the heat maps are not those asked for")

        wanted = None if gradcam is None else gradcam.model_dump(mode="json")
        return self._call("look", model, frames, {"target": target, "gradcam": wanted}, check)

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
        """See :meth:`chronolens.pipeline.Engine.learn`."""

        def check(_arrays: Arrays, facts: Facts) -> None:
            _require(facts, _LEARN)
            masks = [facts["values"], *([facts["learned"]["values"]] if facts["done"] else [])]
            if not all(_mask(values, len(frames)) for values in masks):
                raise garbage("the mask does not fit the clip")

        limits = {"max_steps": max_steps, "budget_s": budget_s, "known": list(known), "state": state}
        arguments = {"target": target, "operator": operator, "mask": options.model_dump(mode="json"), **limits}
        return self._call("learn", model, frames, arguments, check)[1]

    def score(
        self,
        model: str,
        frames: Frames,
        target: int,
        masks: dict[Operator, list[float]],
        options: MaskOptions,
        known: Sequence[Sequence[Any]] = (),
        *,
        budget_s: float = 60.0,
    ) -> Facts:
        """See :meth:`chronolens.pipeline.Engine.score`."""

        def check(_arrays: Arrays, facts: Facts) -> None:
            _require(facts, _SCORE | (_SCORED if facts.get("done") else frozenset()))

        arguments = {"target": target, "masks": masks, "mask": options.model_dump(mode="json"), "known": list(known), "budget_s": budget_s}
        return self._call("score", model, frames, arguments, check)[1]

    def _call(
        self, operation: Operation, model: str, frames: Frames | None, arguments: Facts, check: Callable[[Arrays, Facts], None]
    ) -> tuple[Arrays, Facts]:
        deadline = time.monotonic() + self._timeout_s

        def work() -> tuple[Arrays, Facts]:
            left = deadline - time.monotonic()
            call = Call(operation, model, frames, arguments, self._weights, time.time() + left)
            arrays, facts = unpack_answer(call.id, self._transport.send(call, call.pack(), left))
            try:
                check(arrays, facts)
            except (KeyError, TypeError, AttributeError, ValidationError) as error:
                raise garbage("it lacks what was asked for") from error
            return arrays, facts

        return self._guard(work, deadline)


def _require(facts: Facts, fields: frozenset[str]) -> None:
    if not fields <= facts.keys():
        raise garbage("it lacks what was asked for")


def _distribution(scores: np.ndarray[Any, Any]) -> bool:
    """Tell whether scores may be a softmax; values that are not finite are the network's, and the pipeline speaks of them."""
    if not np.isfinite(scores).all():
        return True
    return bool((scores >= 0).all() and abs(float(scores.sum()) - 1) < 1e-3)


def _mask(values: Any, frames: int) -> bool:
    if not isinstance(values, list) or len(values) != frames:
        return False
    return all(isinstance(value, float | int) and 0 <= value <= 1 for value in values)
