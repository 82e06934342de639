"""Scores of one clip that are known already, so that no perturbation is scored twice in one explanation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from chronolens.explain.words import Operator

Entry = tuple[Operator, tuple[float, ...], float]


class Known:
    """Softmax probabilities of one class of one clip by operator and mask, all by one network under the same mask options.

    A mask of zeros is the clip itself, whichever the operator; freezing frame 0 changes nothing, so its value is left out of the key.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._scores: dict[tuple[str, tuple[float, ...]], float] = {}
        for operator, values, score in entries:
            self.add(operator, values, score)

    def add(self, operator: Operator, values: Sequence[float], score: float) -> None:
        """Keep one score."""
        self._scores[_key(operator, values)] = score

    def get(self, operator: Operator, values: Sequence[float]) -> float | None:
        """Return a score, None when it is not known."""
        return self._scores.get(_key(operator, values))

    def __eq__(self, other: object) -> bool:
        """Tell whether the same scores are known."""
        return isinstance(other, Known) and self._scores == other._scores

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        """Return how many are known."""
        return len(self._scores)

    def to_json(self) -> list[list[Any]]:
        """Return plain lists that survive JSON bit for bit."""
        return [[operator, list(values), score] for (operator, values), score in self._scores.items()]

    @classmethod
    def from_json(cls, data: Iterable[Sequence[Any]]) -> Known:
        """Undo :meth:`to_json`."""
        return cls((operator, tuple(float(value) for value in values), float(score)) for operator, values, score in data)


def _key(operator: Operator, values: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    effective = (0.0, *values[1:]) if operator == "freeze" else tuple(values)
    return (operator if any(effective) else "freeze", effective)
