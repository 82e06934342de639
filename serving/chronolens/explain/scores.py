"""The scores of a clip and of its perturbed versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from chronolens.explain.drops import drop
from chronolens.explain.evaluation import score_rows
from chronolens.explain.known import Known, Row
from chronolens.explain.protocol import Passes, VideoModel, require_finite
from chronolens.explain.words import ON, RUN_THRESHOLD, PairRule

__all__ = ["ExplainedScores", "ScoreTable", "drop", "explain_scores"]

MaskValues = Sequence[float]


class ScoreTable(TypedDict):
    """Softmax probabilities of the target class, in [0, 1]; None where a method was not asked for.

    original: the clip (OS). freeze: under the freeze mask (FS). reverse: the reverse operator on the *freeze* mask (RS).
    reverse_learned: under the learned reverse mask. fully_frozen: every frame is the first. fully_reversed: the clip backwards.
    """

    original: float
    freeze: float | None
    reverse: float | None
    reverse_learned: float | None
    fully_frozen: float
    fully_reversed: float


class ExplainedScores(TypedDict):
    """Scores under the masks as learned (soft) and with values > 0.5 set to 1, others to 0 (thresholded), and their cost."""

    soft: ScoreTable
    thresholded: ScoreTable
    passes: Passes


def explain_scores(
    model: VideoModel,
    clip: Tensor,
    target: int,
    freeze: MaskValues | None,
    reverse: MaskValues | None,
    *,
    pair: PairRule = "earlier",
    threshold: float = RUN_THRESHOLD,
    known: Known | None = None,
) -> ExplainedScores:
    """Score a clip as it is, under its masks, fully frozen and fully reversed.

    Args:
        model: any video model.
        clip: (1, C, T, H, W) prepared clip.
        target: class that the masks explain.
        freeze, reverse: T values in [0, 1] of the learned masks, None when not learned.
        pair, threshold: of the reverse operator, those the reverse mask was learned with.
        known: scores that need no pass; those found here are added.

    Raises:
        UnknownClassError: the model has no such class.
        NonFiniteResultError: the network returned NaN or infinity.

    Source: Mänttäri et al. 2020.
    """
    rows = score_table_rows(clip.shape[2], freeze, reverse, pair, threshold)
    scores, passes = score_rows(model, clip, target, list(rows.values()), Known() if known is None else known)
    require_finite(torch.tensor(scores, dtype=torch.float64), "scores")
    found = dict(zip(rows, scores, strict=True))
    return {"soft": _table(found, ""), "thresholded": _table(found, "hard "), "passes": passes}


def score_table_rows(
    frames: int, freeze: MaskValues | None, reverse: MaskValues | None, pair: PairRule, threshold: float
) -> dict[str, Row]:
    """Return the perturbation behind each score that is wanted; the original comes first."""
    ones = (1.0,) * frames
    rows = {"original": Row("freeze", (0.0,) * frames), "fully_frozen": Row("freeze", ones), "fully_reversed": Row("reverse", ones)}
    if freeze is not None:
        for prefix, mask in _soft_and_hard(freeze, frames):
            rows[f"{prefix}freeze"] = Row("freeze", mask)
            rows[f"{prefix}reverse"] = Row("reverse", mask, pair, threshold)
    if reverse is not None:
        for prefix, mask in _soft_and_hard(reverse, frames):
            rows[f"{prefix}reverse_learned"] = Row("reverse", mask, pair, threshold)
    return rows


def _soft_and_hard(values: MaskValues, frames: int) -> Iterator[tuple[str, tuple[float, ...]]]:
    if len(values) != frames:
        raise ValueError(f"a mask of {len(values)} values does not fit {frames} frames")
    yield "", tuple(values)
    yield "hard ", tuple(float(value > ON) for value in values)


def _table(found: Mapping[str, float], prefix: str) -> ScoreTable:
    return {
        "original": found["original"],
        "freeze": found.get(f"{prefix}freeze"),
        "reverse": found.get(f"{prefix}reverse"),
        "reverse_learned": found.get(f"{prefix}reverse_learned"),
        "fully_frozen": found["fully_frozen"],
        "fully_reversed": found["fully_reversed"],
    }
