"""Scores of one clip that are known already, so that no perturbation is scored twice in one explanation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from chronolens.explain.words import RUN_THRESHOLD, Operator, PairRule

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """One perturbation to score: an operator and its T mask values, with the rule and threshold of the reverse operator."""

    operator: Operator
    values: tuple[float, ...]
    pair: PairRule = "earlier"
    threshold: float = RUN_THRESHOLD

    def key(self) -> Key:
        """Return what tells this perturbation from others: equal keys change a clip in the same way.

        Freezing frame 0 changes nothing, nor does a reversed run of one frame or a blend of 0; a perturbation that changes nothing is the
        clip itself, whichever the operator.
        """
        if self.operator == "freeze":
            held = (0.0, *self.values[1:])
            return ("freeze", *held) if any(held) else ("clip",)
        pairs = tuple(_blends(self.values, self.pair, self.threshold))
        return ("reverse", *pairs) if pairs else ("clip",)


class Known:
    """Softmax probabilities of one class of one clip under perturbations, all by one network."""

    def __init__(self, entries: Iterable[tuple[Row, float]] = ()) -> None:
        self._scores: dict[Key, tuple[Row, float]] = {}
        for row, score in entries:
            self.add(row, score)

    def add(self, row: Row, score: float) -> None:
        """Keep one score."""
        self._scores[row.key()] = (row, score)

    def get(self, row: Row) -> float | None:
        """Return a score, None when it is not known."""
        found = self._scores.get(row.key())
        return None if found is None else found[1]

    def __eq__(self, other: object) -> bool:
        """Tell whether the same scores are known."""
        return isinstance(other, Known) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._scores)

    def to_json(self) -> list[list[Any]]:
        """Return plain lists that survive JSON bit for bit."""
        return [[row.operator, list(row.values), row.pair, row.threshold, score] for row, score in self._scores.values()]

    @classmethod
    def from_json(cls, data: Iterable[Sequence[Any]]) -> Known:
        """Undo :meth:`to_json`."""
        return cls((Row(entry[0], tuple(float(value) for value in entry[1]), entry[2], float(entry[3])), float(entry[4])) for entry in data)


def _blends(values: Sequence[float], pair: PairRule, threshold: float) -> Iterable[tuple[int, int, float]]:
    """Yield (frame, mirror image, blend) for each pair of frames that a reverse mask changes."""
    first = 0
    while first < len(values):
        stop = first
        while stop < len(values) and values[stop] > threshold:
            stop += 1
        for early in range(first, first + (stop - first) // 2):
            late = first + stop - 1 - early
            blend = values[early] if pair == "earlier" else (values[early] + values[late]) / 2
            if blend:
                yield early, late, blend
        first = max(stop, first + 1)
