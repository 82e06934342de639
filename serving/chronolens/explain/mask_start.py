"""Where the optimiser of a temporal mask starts: the published central masks, a search over windows, all windows, or chance."""

from __future__ import annotations

import math

import torch

from chronolens.explain.mask_state import MaskState, penalties, record
from chronolens.explain.objective import ROWS, operator_matrix, perturbed_scores, window_masks
from chronolens.explain.perturbation import freeze_matrix
from chronolens.explain.presets import MaskSettings
from chronolens.explain.protocol import Passes, VideoModel

KEPT_EFFECT = 0.9
GRID = 5
"""Positions of a window's ends in the first round of the search: ten windows, whatever the number of frames."""
ONE_END = ((-1, 0), (1, 0), (0, -1), (0, 1))
BOTH_ENDS = ((-1, -1), (1, 1), (-1, 1), (1, -1))
RANDOM_SHARE, RANDOM_LOGIT = 0.3, 2.5
NONE = (0, 0)


def plan(settings: MaskSettings, state: MaskState) -> None:
    """Write the first candidates into a fresh state, or its start at once when there is nothing to score."""
    frames = len(state.logits)
    first = 1 if settings.operator == "freeze" else 0  # freezing frame 0 changes nothing
    if settings.init == "random":
        _random(settings, state)
    elif settings.init == "exhaustive":
        shortest = _shortest(settings)
        state.windows = [NONE, *((a, b) for a in range(first, frames) for b in range(a + shortest, frames + 1))]
    elif settings.init == "window":
        ends = sorted({round(first + k * (frames - first) / (GRID - 1)) for k in range(GRID)})
        state.windows = [NONE, *((a, b) for a in ends for b in ends if b - a >= _shortest(settings))]
        state.radius = max(1, round((frames - first) / (GRID - 1) / 2))
    else:
        state.windows = [NONE, (0, frames), *((i, frames - i) for i in range(1, frames // 2))]
    central = _is_central(settings)
    if state.phase == "start" and settings.init != "exhaustive" and len(state.windows) < 2 + central:
        state.windows = []
        _begin_steps(settings, state, (0, frames) if central else NONE)


def score_next(model: VideoModel, clip: torch.Tensor, target: int, settings: MaskSettings, state: MaskState) -> None:
    """Score the next few candidates in one forward pass and, when enough is known, set the start."""
    frames = len(state.logits)
    scored = len(state.scores)
    windows = state.windows[scored : scored + ROWS]
    on, off = _levels(settings)
    matrices = operator_matrix(settings.operator, window_masks(windows, frames, on, off), settings.pair, settings.threshold)
    if _is_central(settings) and scored <= 1 < scored + len(windows):
        # the published yardstick is the clip with every frame equal to the first, whichever operator is learned
        matrices[1 - scored] = freeze_matrix(torch.ones(1, frames, dtype=matrices.dtype))[0]
    scores = perturbed_scores(model, clip, matrices, target)
    state.scores.extend(score if math.isfinite(score) else None for score in scores)
    state.passes += Passes(forward=len(windows))
    if _is_central(settings):
        _central(settings, state)
    elif len(state.scores) == len(state.windows):
        _search(settings, state)


def expected_passes(settings: MaskSettings, state: MaskState) -> int:
    """Return about how many candidates will have been scored in the end."""
    rounds = state.radius.bit_length() if settings.init == "window" else 0
    return len(state.windows) + len(_moves(settings)) * rounds


def _search(settings: MaskSettings, state: MaskState) -> None:
    """Refine around the best window until the radius is used up, then start from the best.

    The empty mask competes too, as the best mask for a clip whose score does not depend on time; but Adam starts from a window. The
    exhaustive search has nothing to refine; without steps to follow its best window is the result, the best of all.
    """
    totals = _totals(settings, state)
    a, b = state.windows[min(range(min(1, len(totals) - 1), len(totals)), key=totals.__getitem__)]
    while state.radius:
        r, low = state.radius, 1 if settings.operator == "freeze" else 0
        around = [(a + left * r, b + right * r) for left, right in _moves(settings)]
        state.radius //= 2
        fresh = [w for w in around if w[0] >= low and w[1] <= len(state.logits) and w[1] - w[0] >= _shortest(settings)]
        fresh = [w for w in fresh if w not in state.windows]
        if fresh:
            state.windows.extend(fresh)
            return
    for index in (0, state.windows.index((a, b))):
        score = state.scores[index]
        if score is not None:
            record(state, settings, _logits(settings, len(state.logits), state.windows[index]), score)
    _begin_steps(settings, state, (a, b))
    if settings.init == "exhaustive" and settings.steps == 0:
        state.phase, state.converged = "done", None not in state.scores


def _moves(settings: MaskSettings) -> tuple[tuple[int, int], ...]:
    """Return how the ends of a window move in a refinement; a reversal depends on its centre, which one end alone would shift."""
    return ONE_END if settings.operator == "freeze" else ONE_END + BOTH_ENDS


def _totals(settings: MaskSettings, state: MaskState) -> list[float]:
    masks = window_masks(state.windows, len(state.logits), *_levels(settings))
    l1, tv = penalties(masks, settings)
    fixed = (l1 + tv).tolist()
    return [math.inf if score is None else cost + score for cost, score in zip(fixed, state.scores, strict=True)]


def _central(settings: MaskSettings, state: MaskState) -> None:
    """Set the start at the first central mask with less than 90 % of the full effect: to it (authors) or to the one before (paper).

    References: the series switches i = 1 ... T/2 - 1 frames off at both ends; the paper wants the smallest mask that still keeps the
    effect, the code keeps the first that does not.
    """
    if len(state.scores) < 2:
        return
    for index in range(2, len(state.scores)):
        if _effect(state.scores[0], state.scores[1], state.scores[index]) < KEPT_EFFECT:
            _begin_steps(settings, state, state.windows[index if settings.init == "authors-central" else index - 1])
            return
    if len(state.scores) == len(state.windows):
        _begin_steps(settings, state, state.windows[-1])


def _effect(original: float | None, full: float | None, score: float | None) -> float:
    """Return ``(original - score) / (original - full)``; NaN, which never stops the series, where it is undefined."""
    if original is None or full is None or score is None or original == full:
        return math.nan
    return (original - score) / (original - full)


def _random(settings: MaskSettings, state: MaskState) -> None:
    generator = torch.Generator().manual_seed(settings.seed)
    draws = torch.rand(len(state.logits), generator=generator, dtype=torch.float64).tolist()
    state.logits = [RANDOM_LOGIT if draw < RANDOM_SHARE else -RANDOM_LOGIT for draw in draws]
    state.phase = "steps"


def _begin_steps(settings: MaskSettings, state: MaskState, window: tuple[int, int]) -> None:
    state.logits = _logits(settings, len(state.logits), window)
    state.phase = "steps"


def _logits(settings: MaskSettings, frames: int, window: tuple[int, int]) -> list[float]:
    size = settings.start_logit
    return [size if window[0] <= frame < window[1] else -size for frame in range(frames)]


def _levels(settings: MaskSettings) -> tuple[float, float]:
    """Return the mask values of on and off: those of the start itself for windows, 1 and 0 for the published series."""
    if _is_central(settings):
        return 1.0, 0.0
    on, off = torch.sigmoid(torch.tensor([settings.start_logit, -settings.start_logit], dtype=torch.float64)).tolist()
    return on, off


def _is_central(settings: MaskSettings) -> bool:
    return settings.init in ("central", "authors-central")


def _shortest(settings: MaskSettings) -> int:
    return 1 if settings.operator == "freeze" else 2  # reversing one frame changes nothing
