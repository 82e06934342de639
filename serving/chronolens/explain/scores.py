"""The scores of a clip and of its perturbed versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from chronolens.errors import UnknownClassError
from chronolens.explain.drops import drop
from chronolens.explain.objective import ROWS
from chronolens.explain.perturbation import apply, freeze_matrix, reverse_matrix
from chronolens.explain.protocol import Passes, VideoModel, class_indices, frozen, require_finite
from chronolens.explain.words import ON, RUN_THRESHOLD, PairRule

__all__ = ["ExplainedScores", "ScoreTable", "drop", "explain_scores"]

MaskValues = Sequence[float]


class ScoreTable(TypedDict):
    """Softmax probabilities of the target class, in [0, 1]; None where a method was not asked for.

    original: the clip (OS). freeze: under the freeze mask (FS). reverse: the reverse operator on the *freeze* mask (RS).
    reverse_learned: under the learned reverse mask. fully_frozen: every frame is the first. fully_reversed: the clip backwards.
    true_class: of the true class on the clip as it is (CS).
    """

    original: float
    freeze: float | None
    reverse: float | None
    reverse_learned: float | None
    fully_frozen: float
    fully_reversed: float
    true_class: float | None


class ExplainedScores(TypedDict):
    """Scores under the masks as learned (soft) and with values > 0.5 set to 1, others to 0 (thresholded), and their cost."""

    soft: ScoreTable
    thresholded: ScoreTable
    passes: Passes


def explain_scores(
    model: VideoModel,
    clip: Tensor,
    target: int,
    true_class: int | None,
    freeze: MaskValues | None,
    reverse: MaskValues | None,
    *,
    pair: PairRule = "earlier",
    threshold: float = RUN_THRESHOLD,
) -> ExplainedScores:
    """Score a clip as it is, under its masks, fully frozen and fully reversed.

    Args:
        model: any video model.
        clip: (1, C, T, H, W) prepared clip.
        target: class that the masks explain.
        true_class: class of the label, if known.
        freeze, reverse: T values in [0, 1] of the learned masks, None when not learned.
        pair, threshold: of the reverse operator, those the reverse mask was learned with.

    Raises:
        UnknownClassError: the model has no such class.
        NonFiniteResultError: the network returned NaN or infinity.

    Source: Mänttäri et al. 2020.
    """
    rows = _rows(clip.shape[2], freeze, reverse, pair, threshold)
    probabilities = _probabilities(model, clip, torch.stack(list(rows.values())))
    (index,) = class_indices(probabilities[:1], target).tolist()
    found = dict(zip(rows, probabilities[:, index].tolist(), strict=True))
    true_score = None if true_class is None else float(probabilities[0, _true_index(probabilities, true_class)])
    return {
        "soft": _table(found, "", true_score),
        "thresholded": _table(found, "hard ", true_score),
        "passes": Passes(forward=len(rows)),
    }


def _rows(frames: int, freeze: MaskValues | None, reverse: MaskValues | None, pair: PairRule, threshold: float) -> dict[str, Tensor]:
    """Return a T x T matrix for each score that is wanted; the original comes first."""
    ones = torch.ones(1, frames, dtype=torch.float64)
    rows = {"original": freeze_matrix(torch.zeros_like(ones)), "fully_frozen": freeze_matrix(ones), "fully_reversed": reverse_matrix(ones)}
    if freeze is not None:
        soft = _mask(freeze, frames)
        for prefix, mask in (("", soft), ("hard ", (soft > ON).double())):
            rows[f"{prefix}freeze"] = freeze_matrix(mask)
            rows[f"{prefix}reverse"] = reverse_matrix(mask, threshold, pair)
    if reverse is not None:
        soft = _mask(reverse, frames)
        for prefix, mask in (("", soft), ("hard ", (soft > ON).double())):
            rows[f"{prefix}reverse_learned"] = reverse_matrix(mask, threshold, pair)
    return {name: matrix[0] for name, matrix in rows.items()}


def _mask(values: MaskValues, frames: int) -> Tensor:
    mask = torch.as_tensor(values, dtype=torch.float64).reshape(1, -1)
    if mask.shape[1] != frames:
        raise ValueError(f"a mask of {mask.shape[1]} values does not fit {frames} frames")
    return mask


def _probabilities(model: VideoModel, clip: Tensor, matrices: Tensor) -> Tensor:
    """Return (B, K) float64 softmax probabilities on the CPU."""
    parts = []
    with frozen(model), torch.no_grad():
        for start in range(0, len(matrices), ROWS):
            logits = model(apply(matrices[start : start + ROWS], clip))
            require_finite(logits, "scores")
            parts.append(torch.softmax(logits.double(), dim=1).cpu())
    return torch.cat(parts)


def _true_index(probabilities: Tensor, true_class: int) -> int:
    try:
        return int(class_indices(probabilities[:1], true_class)[0])
    except UnknownClassError as error:
        error.pointer = "/true_class"
        raise


def _table(found: Mapping[str, float], prefix: str, true_score: float | None) -> ScoreTable:
    return {
        "original": found["original"],
        "freeze": found.get(f"{prefix}freeze"),
        "reverse": found.get(f"{prefix}reverse"),
        "reverse_learned": found.get(f"{prefix}reverse_learned"),
        "fully_frozen": found["fully_frozen"],
        "fully_reversed": found["fully_reversed"],
        "true_class": true_score,
    }
