"""Scoring perturbed clips: several masks and clips in one pass, with gradients only where they are wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chronolens.explain.known import Known, Row
from chronolens.explain.objective import class_scores, operator_matrix, perturbed_scores, reordered_scores
from chronolens.explain.perturbation import apply
from chronolens.explain.protocol import Passes, VideoModel


@dataclass(frozen=True)
class Work:
    """A row and the clip (1, C, T, H, W) and class it is scored for."""

    clip: Tensor
    target: int
    row: Row


class Evaluation:
    """One forward pass over some rows, and the slopes of their scores when somebody asks. Call it inside ``gradients`` and ``frozen``.

    Args:
        model: any video model.
        work: rows of clips of one shape.
        differentiable: keep what a backward pass needs.

    Raises:
        UnknownClassError: the model has no such class.
    """

    def __init__(self, model: VideoModel, work: Sequence[Work], *, differentiable: bool) -> None:
        self._masks = torch.tensor([item.row.values for item in work], dtype=torch.float64, requires_grad=differentiable)
        with torch.set_grad_enabled(differentiable):
            self._scores = self._forward(model, work)
        self.scores: list[float] = self._scores.detach().tolist()

    def _forward(self, model: VideoModel, work: Sequence[Work]) -> Tensor:
        matrices = torch.cat([_matrix(item.row, self._masks[index : index + 1]) for index, item in enumerate(work)])
        targets = torch.tensor([item.target for item in work])
        first = work[0].clip
        if all(item.clip is first for item in work):
            if not self._masks.requires_grad:
                quick = reordered_scores(model, first, matrices, targets)
                if quick is not None:
                    return quick.cpu()
            return class_scores(model, apply(matrices, first), targets).cpu()
        clips = [apply(matrices[index : index + 1], item.clip) for index, item in enumerate(work)]
        return class_scores(model, torch.cat(clips), targets).cpu()

    def slopes(self, rows: Sequence[int]) -> list[list[float]]:
        """Return the derivative of each of some rows' scores by its T mask values: one input gradient each. Can be asked once."""
        chosen = self._scores[list(rows)].sum()  # rows are independent, so one sum gives every mask its own slope
        (slopes,) = torch.autograd.grad(chosen, self._masks)
        return [slopes[row].tolist() for row in rows]


def unknown(rows: Iterable[Row], known: Known) -> list[Row]:
    """Return one row for each perturbation whose score is not known."""
    return list({row.key(): row for row in rows if known.get(row) is None}.values())


def score_rows(model: VideoModel, clip: Tensor, target: int, rows: Sequence[Row], known: Known) -> tuple[list[float], Passes]:
    """Score one clip (1, C, T, H, W) under some perturbations, without gradients and without asking again for what is known.

    Returns:
        One softmax probability for each row, which may be NaN when the network's is, and what it cost. ``known`` learns the finite ones.
    """
    fresh = unknown(rows, known)
    here = Known()
    if fresh:
        masks = (torch.tensor([row.values], dtype=torch.float64) for row in fresh)
        matrices = torch.cat([_matrix(row, mask) for row, mask in zip(fresh, masks, strict=True)])
        for row, score in zip(fresh, perturbed_scores(model, clip, matrices, target), strict=True):
            here.add(row, score)
            if math.isfinite(score):
                known.add(row, score)
    scores = [known.get(row) for row in rows]
    found = [here.get(row) if score is None else score for row, score in zip(rows, scores, strict=True)]
    return [math.nan if score is None else score for score in found], Passes(forward=len(fresh))


def _matrix(row: Row, mask: Tensor) -> Tensor:
    return operator_matrix(row.operator, mask, row.pair, row.threshold)
