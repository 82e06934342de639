"""The objective of a temporal mask, ``L = l1 * sum(m) + l2 * TV(m) + F_c(p)``, and the scores of perturbed clips."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from chronolens.errors import OptionsError
from chronolens.explain.perturbation import apply, freeze_matrix, reverse_matrix
from chronolens.explain.protocol import VideoModel, class_indices, frozen
from chronolens.explain.words import OPERATORS, RUN_THRESHOLD, Operator, PairRule

ROWS = 4
"""Clips per forward pass when many masks are scored: bounds the memory, and fixes the batch shape so that results can be repeated."""


def operator_matrix(operator: Operator, masks: Tensor, pair: PairRule = "earlier", threshold: float = RUN_THRESHOLD) -> Tensor:
    """Return the matrices (B, T, T) of an operator for masks (B, T); see :mod:`chronolens.explain.perturbation`."""
    if operator not in OPERATORS:
        raise OptionsError(f"Unknown operator {str(operator)[:40]!r}.", pointer="/methods", allowed=OPERATORS)
    return freeze_matrix(masks) if operator == "freeze" else reverse_matrix(masks, threshold, pair)


def total_variation(masks: Tensor, beta: float = 3.0) -> Tensor:
    """Return ``sum over interior u of |m_{u-1} - m_u|^beta + |m_{u+1} - m_u|^beta``.

    Differences between two interior frames count twice, the first and the last difference once. The sum itself is taken: the authors'
    code takes its root and raises it again, which is the same number but has no gradient at a flat mask.

    Args:
        masks: (..., T).
        beta: exponent >= 1.

    Returns:
        (...); zero when T < 3.

    Source: Mänttäri et al. 2020; the authors' ``calc_TVNorm``.
    """
    steps = (masks[..., 1:] - masks[..., :-1]).abs() ** beta
    return steps[..., :-1].sum(dim=-1) + steps[..., 1:].sum(dim=-1)


def class_scores(model: VideoModel, clips: Tensor, target: int | Tensor) -> Tensor:
    """Return the softmax probability (B,) float64 of a class for clips (B, C, T, H, W), with gradients where they are on.

    ``target`` is one class for all clips or (B,) classes.

    Raises:
        UnknownClassError: the model has no such class.
    """
    return _probabilities(model(clips), target)


def reordered_scores(model: VideoModel, clip: Tensor, matrices: Tensor, target: int | Tensor) -> Tensor | None:
    """Return what :func:`class_scores` would, without gradients, the quick way where there is one; None where there is none.

    A mask of zeros and ones only reorders frames. A network that reads them one after another, and says so by an attribute
    ``reads_in_order``, has a method ``logits_of_orders`` that need not read again what two orders begin with.
    """
    if not getattr(model, "reads_in_order", False) or not bool(((matrices == 0) | (matrices == 1)).all()):
        return None
    with torch.no_grad():
        return _probabilities(model.logits_of_orders(clip, matrices.argmax(dim=2)), target)  # type: ignore[attr-defined]


def _probabilities(logits: Tensor, target: int | Tensor) -> Tensor:
    indices = class_indices(logits, target)
    return torch.softmax(logits.double(), dim=1).gather(1, indices[:, None])[:, 0]


def perturbed_scores(model: VideoModel, clip: Tensor, matrices: Tensor, target: int) -> list[float]:
    """Score one clip under many perturbations, without gradients.

    Args:
        model: any video model.
        clip: (1, C, T, H, W).
        matrices: (B, T, T).
        target: class index.

    Returns:
        B softmax probabilities; may hold NaN when the network does.
    """
    scores: list[float] = []
    with frozen(model), torch.no_grad():
        for rows in _chunks(matrices):
            found = reordered_scores(model, clip, rows, target)
            scores.extend((class_scores(model, apply(rows, clip), target) if found is None else found).tolist())
    return scores


def window_masks(windows: list[tuple[int, int]], frames: int, on: float = 1.0, off: float = 0.0) -> Tensor:
    """Return masks (B, T) float64 that are ``on`` for first <= t < stop of each window and ``off`` elsewhere."""
    step = torch.arange(frames)
    bounds = torch.tensor(windows, dtype=torch.int64).reshape(-1, 2)
    inside = (step >= bounds[:, :1]) & (step < bounds[:, 1:])
    return torch.where(inside, torch.tensor(on, dtype=torch.float64), torch.tensor(off, dtype=torch.float64))


def _chunks(matrices: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(matrices), ROWS):
        yield matrices[start : start + ROWS]
