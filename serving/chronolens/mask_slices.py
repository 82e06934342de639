"""Learning masks slice by slice: state in, some steps, state out, several masks at once."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from chronolens.clips import Frames
from chronolens.errors import OptionsError
from chronolens.explain import temporal_mask
from chronolens.explain.known import Known, Row
from chronolens.explain.many import Slice, advance_many
from chronolens.explain.mask_start import scored
from chronolens.explain.mask_state import LearnedMask, MaskState
from chronolens.explain.presets import MaskSettings
from chronolens.explain.protocol import Passes, VideoModel
from chronolens.explain.words import Operator
from chronolens.options import MaskOptions, mask_settings

Facts = dict[str, Any]


@dataclass(frozen=True)
class LearnRequest:
    """One slice of one mask, see :meth:`chronolens.pipeline.Engine.learn`."""

    frames: Frames
    target: int
    operator: Operator
    mask: MaskOptions
    state: Facts | None
    max_steps: int
    budget_s: float
    known: Sequence[Sequence[Any]] = ()


class MaskSlice:
    """A slice that is about to be learned.

    Args:
        request: what was asked for.
        clip: its frames, prepared (1, C, T, H, W).
        judge: network of its model, in the precision that is reported.
        learner: the same in the precision that masks are learned in, whose name is ``precision``.
        weights: digest of its weights.

    Raises:
        OptionsError: the state is that of another mask, or damaged.
    """

    def __init__(self, request: LearnRequest, clip: Tensor, judge: VideoModel, learner: VideoModel, precision: str, weights: str) -> None:
        self.settings = mask_settings(request.mask, request.operator)
        # the search over all windows proves its optimum, and a proof holds for the network that is reported on
        self.exact = self.settings.init == "exhaustive" or learner is judge
        self.network = judge if self.exact else learner
        self.dtype = "float32" if self.exact else precision
        self._seconds = 0.0 if request.state is None else _seconds(request.state)
        self._judge = judge
        self._subject = _subject(request, self.settings, weights)
        before = _resumed(request.state, self.dtype, self._subject)
        if before is None:
            before = temporal_mask.begin(self.settings, len(request.frames), Known.from_json(request.known))
        self.part = Slice(clip, request.target, self.settings, before, request.max_steps)

    def answer(self, after: MaskState, seconds: float) -> tuple[Facts, Passes]:
        """Return the facts of :meth:`chronolens.pipeline.Engine.learn` and the passes of this slice, which took ``seconds``."""
        mask = temporal_mask.finished(after, self.settings)
        if after.done and not self.exact and not after.complete:
            mask = temporal_mask.rescored(self._judge, self.part.clip, self.part.target, self.settings, mask, after.known)
        seconds += self._seconds
        done, total = temporal_mask.progress(after, self.settings)
        facts: Facts = {
            "state": {"mask": after.to_json(), "seconds": seconds, "dtype": self.dtype, "of": self._subject},
            "done": after.done,
            "progress": done,
            "total": total,
            "seconds": seconds,
            "values": after.values,
        }
        if after.done:
            facts["learned"] = self._learned(mask, after, seconds)
        return facts, mask.passes - self.part.state.passes

    def _learned(self, mask: LearnedMask, after: MaskState, seconds: float) -> Facts:
        counts = {"passes": mask.passes.total, "pass_counts": mask.passes.to_json()}
        found = scored(self.settings, after) if self.exact or self.settings.central else Known()
        if mask.objective.score is not None:
            found.add(Row(self.settings.operator, mask.values, self.settings.pair, self.settings.threshold), mask.objective.score)
        return {**mask.to_json(), **counts, "seconds": seconds, "dtype": self.dtype, "known": found.to_json()}


def advance_slices(slices: Sequence[MaskSlice], judge: VideoModel, budget_s: float) -> list[MaskState | Exception]:
    """Advance masks in shared passes for at most ``budget_s`` seconds, each at least by one step.

    One alone is bit-equal however it is cut into slices; in company only the batch differs, so objectives agree within 1e-3.
    """
    started = time.perf_counter()
    asked = itertools.count()

    def late() -> bool:
        """Asked before each step; the first one is always done, so that every slice moves on."""
        return next(asked) > 0 and time.perf_counter() - started >= budget_s

    if len(slices) == 1:
        part = slices[0].part
        rest: Facts = {"max_steps": part.max_steps, "should_stop": late, "judge": judge}
        return [temporal_mask.advance(slices[0].network, part.clip, part.target, part.options, part.state, **rest)]
    return advance_many(slices[0].network, [one.part for one in slices], judge=judge, should_stop=late)


def _subject(request: LearnRequest, settings: MaskSettings, weights: str) -> str:
    """Return a digest of what a mask is learned for: a state that went on for something else would bring wrong scores along."""
    facts = json.dumps([request.target, settings.to_json(), weights], sort_keys=True).encode()
    return hashlib.sha256(facts + np.ascontiguousarray(request.frames).tobytes()).hexdigest()


def _seconds(state: Facts) -> float:
    seconds = state.get("seconds")
    if not isinstance(seconds, float | int) or isinstance(seconds, bool):
        raise OptionsError("the state of the mask is damaged", code="malformed-body")
    return float(seconds)


def _resumed(state: Facts | None, dtype: str, subject: str) -> MaskState | None:
    """Return the mask of a state; None when there is none that can go on: before the first slice, or after one of another precision (the
    engine was started anew with another) or of another version of this package.

    Raises:
        OptionsError: it is the state of another mask, or damaged.
    """
    if state is None or state.get("dtype") != dtype or "of" not in state:
        return None
    if state["of"] != subject:
        raise OptionsError("the state is that of another mask", code="malformed-body")
    try:
        return MaskState.from_json(state["mask"])
    except ValueError:
        return None
    except (KeyError, TypeError, AttributeError) as error:
        raise OptionsError("the state of the mask is damaged", code="malformed-body") from error
