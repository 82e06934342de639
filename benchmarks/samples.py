"""Seconds measured one by one: percentiles, and what is apart between two ways of doing the same."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")
SHOWN = (50, 99)
"""Percentiles that the tables show."""


def clocked(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that a piece of work took, and what it returned."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` per cent of all are not above (nearest rank)."""
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]


def spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Return the shown percentiles as cells ``NAME_p50_ms``, ..."""
    return {f"{name}_p{percent}_ms": 1000 * percentile(seconds, percent) for percent in SHOWN}


def apart(longer: Sequence[float], shorter: Sequence[float]) -> dict[str, float]:
    """Return what the longer way costs more, told twice.

    Args:
        longer, shorter: seconds; values at the same place were measured one right after the other.

    Returns:
        ``more_p50_ms``, ...: the percentile of the one minus that of the other. ``paired_p50_ms``, ...: the percentile of the differences
        of pairs, which also holds what two measurements of the same thing are apart.
    """
    one, other = spread("more", longer), spread("more", shorter)
    pairs = [long - short for long, short in zip(longer, shorter, strict=True)]
    return {name: one[name] - other[name] for name in one} | spread("paired", pairs)


def columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return rows of the same names as one list a name."""
    return {name: [row[name] for row in rows] for name in rows[0]}
