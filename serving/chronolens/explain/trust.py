"""Is a learned mask better than a window placed by chance?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from chronolens.explain.evaluation import score_rows
from chronolens.explain.known import Known, Row
from chronolens.explain.protocol import Passes, VideoModel, require_finite
from chronolens.explain.words import ON, RUN_THRESHOLD, Operator, PairRule

TIE = 1e-6
"""Scores closer than this are equal: it is the noise between two batches of a network in single precision."""


class Chance(TypedDict):
    """p_value in (0, 1], None without windows, and the number of windows that the mask was compared with."""

    p_value: float | None
    windows: int


def better_than_chance(
    model: VideoModel,
    clip: Tensor,
    target: int,
    mask: Sequence[float],
    operator: Operator,
    *,
    pair: PairRule = "earlier",
    threshold: float = RUN_THRESHOLD,
    known: Known | None = None,
) -> tuple[Chance, Passes]:
    """Rank the thresholded mask's score among those of all contiguous windows of the same length.

    ``p = (1 + #{windows whose score is at least as low}) / (1 + windows)``; the mask's own window, if it is one, is not counted. An empty
    or a full mask has nothing to be compared with: p is None. Costs one forward pass for the mask and for each window that is not
    known; after the exhaustive search none for windows.

    Args:
        model: any video model.
        clip: (1, C, T, H, W) prepared clip.
        target: class index.
        mask: T values in [0, 1]; those above 0.5 count as on.
        operator: ``freeze`` or ``reverse``.
        pair, threshold: of the reverse operator.
        known: scores that need no pass; those found here are added.

    Raises:
        UnknownClassError: the model has no such class.
        NonFiniteResultError: the network returned NaN or infinity.
    """
    if len(mask) != clip.shape[2]:
        raise ValueError(f"a mask of {len(mask)} values does not fit {clip.shape[2]} frames")
    rows = rank_rows(mask, operator, pair, threshold)
    if not rows:
        return {"p_value": None, "windows": 0}, Passes()
    found, passes = score_rows(model, clip, target, rows, Known() if known is None else known)
    scores = torch.tensor(found, dtype=torch.float64)
    require_finite(scores, "scores")
    as_low = int((scores[1:] <= scores[0] + TIE).sum())
    return {"p_value": (1 + as_low) / len(rows), "windows": len(rows) - 1}, passes


def rank_rows(mask: Sequence[float], operator: Operator, pair: PairRule, threshold: float) -> list[Row]:
    """Return the thresholded mask and then all other windows of its length; nothing when there is none."""
    frames, own = len(mask), tuple(float(value > ON) for value in mask)
    length = int(sum(own))
    windows = [tuple(float(first <= t < first + length) for t in range(frames)) for first in range(frames - length + 1)]
    others = [window for window in windows if window != own]
    return [Row(operator, values, pair, threshold) for values in (own, *others)] if length and others else []
