"""Means with bootstrap intervals, and a permutation test against masks placed by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

RESAMPLES = 5_000
DRAWS = 10_000
Numbers = npt.NDArray[np.float64]


class Interval(TypedDict):
    """Mean of ``n`` values with the bounds of its 95 % bootstrap interval; None where there are no values."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Sequence[float] | Numbers, seed: int = 0) -> Interval:
    """Return the mean and its percentile bootstrap interval (Efron 1979), resampling the values.

    Args:
        values: one number a clip; clips are what is resampled, frames of a clip are not independent.
        seed: of the resampling.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return {"mean": None, "low": None, "high": None, "n": 0}
    drawn = np.random.default_rng(seed).integers(len(numbers), size=(RESAMPLES, len(numbers)))
    low, high = np.quantile(numbers[drawn].mean(axis=1), (0.025, 0.975))
    return {"mean": float(numbers.mean()), "low": float(low), "high": float(high), "n": len(numbers)}


def interval_text(found: Interval, sign: str = "") -> str:
    """Return ``mean [low, high]`` with two digits as a table shows it, a dash without values; ``sign`` may be "+"."""
    if found["mean"] is None:
        return "-"
    return f"{found['mean']:{sign}.2f} [{found['low']:{sign}.2f}, {found['high']:{sign}.2f}]"


def chance_p_value(observed: Sequence[float], alternatives: Sequence[Numbers], seed: int = 0) -> float | None:
    """Return how probable a mean as high as the observed one is when every clip's value is drawn from its alternatives.

    ``p = (1 + #{draws whose mean >= observed mean}) / (1 + draws)`` with 10,000 draws; None without clips.

    Args:
        observed: one number a clip.
        alternatives: for each clip the values that chance chooses from with equal probability, at least one.
        seed: of the draws.
    """
    if not len(observed):
        return None
    rng = np.random.default_rng(seed)
    total: Numbers = np.zeros(DRAWS)
    for values in alternatives:
        total += rng.choice(np.asarray(values, dtype=np.float64), size=DRAWS)
    as_high = int((total >= float(np.sum(observed)) - 1e-12).sum())
    return (1 + as_high) / (1 + DRAWS)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return ``mean``, ``sd`` (of the sample), ``median`` and ``n``; None where they are undefined."""
    numbers = np.asarray(values, dtype=np.float64)
    return {
        "mean": float(numbers.mean()) if len(numbers) else None,
        "sd": float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        "median": float(np.median(numbers)) if len(numbers) else None,
        "n": len(numbers),
    }
