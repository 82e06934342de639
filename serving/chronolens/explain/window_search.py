"""Which contiguous window of frames lowers the objective most? A Bayesian search: some are scored, a Gaussian process guesses the rest.

The process models the log-odds of the class over the two ends of a window: a probability is flat wherever the class is certain, its
log-odds are not. Penalties are known exactly and need no model. The next windows are those with the largest expected improvement
(Jones et al. 1998), taken within 1.5 standard deviations of the guess, which ends the search earlier than the whole bell would. Windows of
one batch are chosen one after the other, each as if the ones before had come out as expected. The search ends when nothing promises to gain
``WORTHWHILE`` any more. On the recorded scores of all 120 windows
that it was tuned on, it found the best one with a sixth of them (``docs/adr``, number 5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Window = tuple[int, int]
FIRST = 8
"""Windows scored before the process is asked, spread over all positions of both ends."""
MOST = 28
REACH = 3.0 / 16.0
"""Length over which the log-odds of two windows are alike, as a share of the clip; Matern kernel of order 3/2."""
NOISE = 1e-4
WORTHWHILE = 1e-4
CERTAIN = 1e-4
"""Probabilities nearer to 0 or 1 are taken as this near: their objective is the same, their log-odds would only stretch the scale."""
_NODES = np.array([-1.5, -0.75, 0.0, 0.75, 1.5])
_SHARES = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


def all_windows(frames: int, first: int, shortest: int) -> list[Window]:
    """Return every window ``first <= a``, ``a + shortest <= b <= frames``."""
    return [(a, b) for a in range(first, frames) for b in range(a + shortest, frames + 1)]


def first_windows(windows: Sequence[Window], frames: int) -> list[Window]:
    """Return the middle half of the clip and then, one after another, the window farthest from those before it."""
    if not windows:
        return []
    ends = np.asarray(windows, dtype=np.float64)
    chosen = [int(np.abs(ends - [frames / 4, frames * 3 / 4]).sum(axis=1).argmin())]
    while len(chosen) < min(FIRST, len(windows)):
        chosen.append(int(_distances(ends, ends[chosen]).min(axis=1).argmax()))
    return [windows[index] for index in chosen]


def next_windows(windows: Sequence[Window], costs: Vector, scores: dict[Window, float], frames: int, count: int) -> list[Window]:
    """Return the windows to score next, none when the search has ended.

    Args:
        windows: all candidates.
        costs: their penalties.
        scores: class probabilities that are known; windows whose score was not finite are given as 1.
        frames: T.
        count: most windows to return.
    """
    count = min(count, MOST - len(scores), len(windows) - len(scores))
    if count < 1 or not scores:
        return []
    ends = np.asarray(windows, dtype=np.float64)
    seen = [index for index, window in enumerate(windows) if window in scores]
    best = min(costs[index] + scores[windows[index]] for index in seen)
    logits = np.array([_log_odds(scores[windows[index]]) for index in seen])
    centre, spread = float(logits.mean()), float(logits.std()) + 1e-3
    values, chosen = (logits - centre) / spread, []
    for _ in range(count):
        mean, deviation = _posterior(ends, seen, values, REACH * frames)
        guesses = 1.0 / (1.0 + np.exp(-(mean[:, None] + deviation[:, None] * _NODES) * spread - centre)) + costs[:, None]
        gains = (np.maximum(best - guesses, 0.0) * _SHARES).sum(axis=1)
        gains[seen] = -1.0
        index = int(gains.argmax())
        if gains[index] <= WORTHWHILE:
            break
        chosen.append(windows[index])
        seen, values = [*seen, index], np.append(values, mean[index])
    return chosen


def _posterior(ends: Vector, seen: list[int], values: Vector, reach: float) -> tuple[Vector, Vector]:
    """Return mean and standard deviation of the process at every window, by its ends (W, 2)."""
    across = _matern(_distances(ends, ends[seen]) / reach)
    inverse = np.linalg.inv(across[seen] + NOISE * np.eye(len(seen)))
    weights = across @ inverse
    return weights @ values, np.sqrt(np.maximum(1.0 - (weights * across).sum(axis=1), 1e-12))


def _distances(one: Vector, other: Vector) -> Vector:
    apart: Vector = np.sqrt(((one[:, None] - other[None]) ** 2).sum(axis=-1))
    return apart


def _matern(distance: Vector) -> Vector:
    scaled = math.sqrt(3.0) * distance
    likeness: Vector = (1.0 + scaled) * np.exp(-scaled)
    return likeness


def _log_odds(probability: float) -> float:
    inside = min(max(probability, CERTAIN), 1.0 - CERTAIN)
    return math.log(inside / (1.0 - inside))
