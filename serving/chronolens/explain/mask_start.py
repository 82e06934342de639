"""Where the optimiser of a temporal mask starts: the published central masks, a search over windows, all windows, or chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from chronolens.explain.adam import Adam
from chronolens.explain.evaluation import unknown
from chronolens.explain.known import Known, Row
from chronolens.explain.mask_state import MaskState, Optimum, penalties, record, sigmoid
from chronolens.explain.objective import ROWS, window_masks
from chronolens.explain.presets import MaskSettings
from chronolens.explain.protocol import Passes
from chronolens.explain.trust_region import Region
from chronolens.explain.window_search import Window, all_windows, first_windows, next_windows

KEPT_EFFECT = 0.9
START_LOGIT = 5.0
"""Size of the logits that Adam starts from: on = +, off = -. The published value."""
START = 0.95
"""Mask value inside the window from which the trust region descends. At exactly 1 frames are equal, and slopes there mislead."""
RANDOM_SHARE, RANDOM_LOGIT = 0.3, 2.5
RIVAL = 0.4
"""A second window is a start too when its objective is at most this much worse than the best one's and it holds mostly other frames."""
SHARED = 0.5
NONE = (0, 0)


def plan(settings: MaskSettings, state: MaskState) -> None:
    """Write the first candidates into a fresh state, or its start at once when there is nothing to score."""
    frames = len(state.point)
    if settings.init == "random":
        generator = torch.Generator().manual_seed(settings.seed)
        draws = torch.rand(frames, generator=generator, dtype=torch.float64).tolist()
        _begin_steps(settings, state, [[RANDOM_LOGIT if draw < RANDOM_SHARE else -RANDOM_LOGIT for draw in draws]])
    elif settings.init == "exhaustive":
        state.windows = [NONE, *_family(settings, frames)]
    elif settings.init == "window":
        state.windows = [NONE, *first_windows(_family(settings, frames), frames)]
    elif frames < 4:  # no series
        _begin_steps(settings, state, [_logits(frames, (0, frames))])
    else:
        state.windows = [NONE, (0, frames), *((i, frames - i) for i in range(1, frames // 2))]
    if state.phase == "start":
        _take(settings, state, Known())


def candidates(settings: MaskSettings, state: MaskState, rows: int = ROWS) -> list[Row]:
    """Return the perturbations to score next, in the order in which :func:`tell` wants their scores; never none in the phase ``start``."""
    frames, first = len(state.point), len(state.scores)
    if settings.central:  # the series stops at the first mask that loses the effect: one at a time, none too many
        rows = max(1, 3 - first)
    asked = [_row(settings, frames, index, state.windows[index]) for index in range(first, min(first + rows, len(state.windows)))]
    return unknown(asked, state.known)


def tell(settings: MaskSettings, state: MaskState, rows: Sequence[Row], scores: Sequence[float]) -> None:
    """Take the scores of candidates and, when enough is known, set the start."""
    state.passes += Passes(forward=len(rows))
    _take(settings, state, Known(zip(rows, scores, strict=True)))


def scored(settings: MaskSettings, state: MaskState) -> Known:
    """Return what was found out about the candidates, for whoever asks for the same perturbations again."""
    rows = [_row(settings, len(state.point), index, window) for index, window in enumerate(state.windows[: len(state.scores)])]
    return Known((row, score) for row, score in zip(rows, state.scores, strict=True) if score is not None)


def optimum(settings: MaskSettings, state: MaskState) -> Optimum | None:
    """Return the proof of an exhaustive search that has ended."""
    if settings.init != "exhaustive" or len(state.scores) < len(state.windows):
        return None
    totals = sorted(total for total in _totals(settings, state) if math.isfinite(total))
    best, second = [*totals[:2], None, None][:2]
    return Optimum("contiguous windows", len(state.windows), len(totals), best, second)


def _take(settings: MaskSettings, state: MaskState, fresh: Known) -> None:
    """Give the waiting candidates the scores that are known, and decide what follows when none waits any more."""
    while state.phase == "start":
        if len(state.scores) == len(state.windows):
            _search(settings, state)
            continue
        index = len(state.scores)
        row = _row(settings, len(state.point), index, state.windows[index])
        score = fresh.get(row)
        score = state.known.get(row) if score is None else score
        if score is None:
            return
        state.scores.append(score if math.isfinite(score) else None)
        if settings.central:
            _central(settings, state)
        else:
            record(state, settings, row.values, score)


def _search(settings: MaskSettings, state: MaskState) -> None:
    """Ask for more windows or, when there is nothing more to ask, start from the best.

    The empty mask competes too, as the best mask for a clip whose score does not depend on time; but the optimiser starts from a window.
    """
    frames, totals = len(state.point), _totals(settings, state)
    if settings.init == "window":
        family = _family(settings, frames)
        costs = np.array(_costs(settings, frames, family))
        seen = {window: 1.0 if score is None else score for window, score in zip(state.windows, state.scores, strict=True)}
        seen.pop(NONE)
        fresh = next_windows(family, costs, seen, frames, ROWS)
        if fresh:
            state.windows.extend(fresh)
            return
    order = sorted(range(1, len(totals)), key=totals.__getitem__) or [0]
    if settings.steps == 0:
        state.phase, state.converged = "done", None not in state.scores
        return
    best = state.windows[order[0]]
    limit = totals[order[0]] + RIVAL
    rivals = [index for index in order[1:] if totals[index] <= limit and _shared(state.windows[index], best) < SHARED][:1]
    _begin_steps(settings, state, [_logits(frames, state.windows[index]) for index in (order[0], *rivals)])


def _central(settings: MaskSettings, state: MaskState) -> None:
    """Set the start at the first central mask with less than 90 % of the full effect: to it (authors) or to the one before (paper).

    References: the series switches i = 1 ... T/2 - 1 frames off at both ends; the paper wants the smallest mask that still keeps the
    effect, the code keeps the first that does not, and the last one in any case: then its score is not asked for.
    """
    seen, last = len(state.scores), len(state.windows) - 1
    authors = settings.init == "authors-central"
    chosen = None
    if seen > 2 and _effect(state.scores[0], state.scores[1], state.scores[-1]) < KEPT_EFFECT:
        chosen = seen - 1 if authors else seen - 2
    elif seen > last or (authors and seen == last >= 2):
        chosen = last
    if chosen is not None:
        _begin_steps(settings, state, [_logits(len(state.point), state.windows[chosen])])


def _effect(original: float | None, full: float | None, score: float | None) -> float:
    """Return ``(original - score) / (original - full)``; NaN, which never stops the series, where it is undefined."""
    if original is None or full is None or score is None or original == full:
        return math.nan
    return (original - score) / (original - full)


def _begin_steps(settings: MaskSettings, state: MaskState, starts: list[list[float]]) -> None:
    """Set up the optimiser at the first of some starts, given as logits. Adam knows one start only."""
    state.phase = "steps"
    if settings.optimiser == "adam":
        state.adam = Adam.at(starts[0])
        state.point = sigmoid(starts[0])
        return
    inside = START if settings.operator == "freeze" or settings.threshold < START else 1.0
    masks = [sigmoid(logits) if settings.init == "random" else [inside * (logit > 0) for logit in logits] for logits in starts]
    state.region = Region(masks[0], min(settings.learning_rate, 1.0))
    state.point, state.rivals = masks[0], masks[1:]


def _family(settings: MaskSettings, frames: int) -> list[Window]:
    """Return every window that can change the clip: freezing frame 0 changes nothing, nor does reversing one frame."""
    return all_windows(frames, 1, 1) if settings.operator == "freeze" else all_windows(frames, 0, 2)


def _row(settings: MaskSettings, frames: int, index: int, window: Window) -> Row:
    # the published yardstick is the clip with every frame equal to the first, whichever operator is learned
    operator = "freeze" if settings.central and index == 1 else settings.operator
    return Row(operator, tuple(_mask(frames, window)), settings.pair, settings.threshold)


def _mask(frames: int, window: Window) -> list[float]:
    return [1.0 if window[0] <= frame < window[1] else 0.0 for frame in range(frames)]


def _logits(frames: int, window: Window) -> list[float]:
    return [START_LOGIT if window[0] <= frame < window[1] else -START_LOGIT for frame in range(frames)]


def _totals(settings: MaskSettings, state: MaskState) -> list[float]:
    costs = _costs(settings, len(state.point), state.windows)
    return [math.inf if score is None else cost + score for cost, score in zip(costs, state.scores, strict=True)]


def _costs(settings: MaskSettings, frames: int, windows: list[Window]) -> list[float]:
    l1, tv = penalties(window_masks(windows, frames), settings)
    costs: list[float] = (l1 + tv).tolist()
    return costs


def _shared(one: Window, other: Window) -> float:
    """Return the frames of both as a share of the frames of either."""
    both = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return both / max(1, (one[1] - one[0]) + (other[1] - other[0]) - both)
