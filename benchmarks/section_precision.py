"""Do masks learned in bfloat16 say what masks learned in float32 say?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from markdown_table import Table
from section_iteration import forward
from subjects import Subject
from torch import Tensor

from chronolens.explain.mask_state import LearnedMask
from chronolens.explain.protocol import VideoModel
from chronolens.explain.temporal_mask import MaskSettings, advance, begin, finished, rescored, settings
from chronolens.explain.words import ON, OPERATORS, Operator
from chronolens.models.precision import native_bfloat16


def learned(model: VideoModel, clip: Tensor, target: int, rule: MaskSettings) -> LearnedMask:
    """Return the mask of one clip (1, C, T, H, W)."""
    state = begin(rule, clip.shape[2])
    while not state.done:
        state = advance(model, clip, target, rule, state)
    return finished(state, rule)


def precision_tables(subjects: Sequence[Subject], count: int) -> list[Table]:
    """Return how far apart both precisions are on the first ``count`` clips of each subject, preset ``default``."""
    rows = [_of_one(subject, operator, count) for subject in subjects for operator in OPERATORS]
    device = subjects[0].clips[0].device
    notes = [
        f"bfloat16 {'is' if native_bfloat16(device) else 'is not'} native here. Masks are learned for the class that float32 predicts.",
        "Own score: objective of a mask learned in bfloat16 by the bfloat16 network, against the same mask rescored in float32. Optimum:"
        " objective of the mask learned in bfloat16 minus that of the mask learned in float32, both scored in float32; above zero is worse."
        " Frames agree when both masks have them above 0.5, or neither has.",
    ]
    return [Table("Learning in bfloat16 against float32", rows, notes)]


def _of_one(subject: Subject, operator: Operator, count: int) -> dict[str, Any]:
    rule = settings("default", operator)
    same: list[bool] = []
    apart: list[float] = []
    worse: list[float] = []
    agree: list[bool] = []
    for number, clip in enumerate(subject.clips[:count]):
        target = subject.target(number)
        same.append(int(forward(subject.rough, clip).argmax()) == target)
        exact, rough = learned(subject.network, clip, target, rule), learned(subject.rough, clip, target, rule)
        judged = rescored(subject.network, clip, target, rule, rough)
        apart.append(abs(_total(judged) - _total(rough)))
        worse.append(_total(judged) - _total(exact))
        agree += [(one > ON) == (other > ON) for one, other in zip(exact.values, rough.values, strict=True)]
    return {
        "model": subject.name,
        "operator": operator,
        "clips": len(same),
        "same_class": statistics.fmean(same),
        "own_score_apart_largest": max(apart),
        "optimum_worse_by_mean": statistics.fmean(worse),
        "optimum_worse_by_largest": max(worse),
        "optimum_apart_largest": max(abs(gain) for gain in worse),
        "frames_agree": statistics.fmean(agree),
    }


def _total(mask: LearnedMask) -> float:
    """Return the objective, NaN where the network gave no number."""
    return float("nan") if mask.objective.total is None else mask.objective.total
