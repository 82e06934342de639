"""Timing pieces of work against each other: they take turns, so that whatever else the machine does hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def take_turns(works: Mapping[str, Callable[[], object]], rounds: int, repeats: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return the median seconds of each piece of work.

    Args:
        works: what to do, by name; in every round each has its turn, in this order.
        rounds: rounds that count; one more before them warms up.
        repeats: how often a piece of work is done in its turn, each time timed on its own; once when not named.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(-1, rounds):
        for name, work in works.items():
            for _ in range((repeats or {}).get(name, 1)):
                took = timed(work)
                if number >= 0:
                    seconds[name].append(took)
    return {name: statistics.median(found) for name, found in seconds.items()}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of one piece of work, what it started on a GPU included."""
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
