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


def reversed_steps(moving: Sequence[bool] | Steps) -> Steps:
    """Return the frames that must be reversed for every step of the motion to run backwards: both ends of each step.

    Reversing frames a to b turns round the steps into a + 1 to b, one fewer than there are frames.
    """
    steps = np.array(moving, dtype=np.bool_)
    steps[:-1] |= steps[1:]
    return steps


def window_overlaps(length: int, truth: Sequence[bool] | Steps, first: int = 1) -> npt.NDArray[np.float64]:
    """Return the overlap with the truth of every contiguous window of this length; for length 0 they are all 0.

    Args:
        length: frames of a window, 0 to T.
        truth: (T,) frames.
        first: where windows may begin as long as there is room: 1 for freezing, to which frame 0 cannot matter, 0 for reversing.
    """
    target = np.asarray(truth, dtype=np.bool_)
    frames = len(target)
    at = np.arange(frames)
    windows = [(at >= start) & (at < start + length) for start in range(min(first, frames - length), frames - length + 1)]
    return np.array([overlap(window, target) for window in windows])


def scattered_overlaps(
    length: int, truth: Sequence[bool] | Steps, first: int = 1, draws: int = 200, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return the overlap with the truth of random sets of ``length`` frames, taken from ``first`` on as long as there is room."""
    target = np.asarray(truth, dtype=np.bool_)
    frames = len(target)
    begin = min(first, frames - length)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        mask = np.zeros(frames, dtype=np.bool_)
        mask[begin + rng.permutation(frames - begin)[:length]] = True
        found.append(overlap(mask, target))
    return np.array(found)


def swapped_overlaps(masks: Sequence[Sequence[bool]], truths: Sequence[Steps]) -> list[npt.NDArray[np.float64]]:
    """Return for each clip the overlaps of its truth with the masks of all clips: what masks reach that do not look at their clip."""
    return [np.array([overlap(mask, truth) for mask in masks]) for truth in truths]


def best_constant(truths: Sequence[Steps]) -> tuple[tuple[int, int], float]:
    """Return the window (first, stop) that, held against every clip alike, overlaps most on average, and that average."""
    frames = len(truths[0])
    at = np.arange(frames)
    windows = [(first, stop) for first in range(frames) for stop in range(first + 1, frames + 1)]
    means = [float(np.mean([overlap((at >= first) & (at < stop), truth) for truth in truths])) for first, stop in windows]
    best = int(np.argmax(means))
    return windows[best], means[best]
