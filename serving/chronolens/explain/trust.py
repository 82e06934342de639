"""Is a learned mask better than a window placed by chance?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from chronolens.explain.objective import operator_matrix, perturbed_scores, window_masks
from chronolens.explain.protocol import VideoModel, require_finite
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
) -> Chance:
    """Rank the thresholded mask's score among those of all contiguous windows of the same length.

    ``p = (1 + #{windows whose score is at least as low}) / (1 + windows)``; the mask's own window, if it is one, is not counted. An empty
    or a full mask has nothing to be compared with: p is None. Costs one forward pass for the mask and one for each window.

    Args:
        model: any video model.
        clip: (1, C, T, H, W) prepared clip.
        target: class index.
        mask: T values in [0, 1]; those above 0.5 count as on.
        operator: ``freeze`` or ``reverse``.
        pair, threshold: of the reverse operator.

    Raises:
        UnknownClassError: the model has no such class.
        NonFiniteResultError: the network returned NaN or infinity.
    """
    frames = clip.shape[2]
    own = (torch.as_tensor(mask, dtype=torch.float64).reshape(1, -1) > ON).double()
    if own.shape[1] != frames:
        raise ValueError(f"a mask of {own.shape[1]} values does not fit {frames} frames")
    length = int(own.sum())
    masks = window_masks([(first, first + length) for first in range(frames - length + 1)], frames)
    masks = masks[(masks != own).any(dim=1)]
    if length == 0 or not len(masks):
        return {"p_value": None, "windows": 0}
    matrices = operator_matrix(operator, torch.cat([own, masks]), pair, threshold)
    scores = torch.tensor(perturbed_scores(model, clip, matrices, target), dtype=torch.float64)
    require_finite(scores, "scores")
    as_low = int((scores[1:] <= scores[0] + TIE).sum())
    return {"p_value": (1 + as_low) / (1 + len(masks)), "windows": len(masks)}
