"""Temporal masks against the interval in which something moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chronolens.data.motion_truth import Steps


def overlap(mask: Sequence[bool] | Steps, truth: Sequence[bool] | Steps) -> float:
    """Return the temporal intersection over union of two sets of frames; 0 when both are empty."""
    first, second = np.asarray(mask, dtype=np.bool_), np.asarray(truth, dtype=np.bool_)
    union = int((first | second).sum())
    return float((first & second).sum()) / union if union else 0.0


def window_overlaps(length: int, truth: Sequence[bool] | Steps) -> npt.NDArray[np.float64]:
    """Return the overlap with the truth of every contiguous window of this length, frame 0 left out as long as there is room.

    A mask of length 0 has one alternative, itself.
    """
    target = np.asarray(truth, dtype=np.bool_)
    frames = len(target)
    first = min(1, frames - length)
    windows = [np.arange(frames) - start for start in range(first, frames - length + 1)]
    return np.array([overlap((window >= 0) & (window < length), target) for window in windows])


def scattered_overlaps(length: int, truth: Sequence[bool] | Steps, draws: int = 200, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return the overlap with the truth of random sets of ``length`` frames, frame 0 left out as long as there is room."""
    target = np.asarray(truth, dtype=np.bool_)
    frames = len(target)
    first = min(1, frames - length)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        mask = np.zeros(frames, dtype=np.bool_)
        mask[first + rng.permutation(frames - first)[:length]] = True
        found.append(overlap(mask, target))
    return np.array(found)
