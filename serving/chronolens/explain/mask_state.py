"""The state of one mask while it is learned, and the mask that comes out.

The state is complete and survives JSON bit for bit (every float is a Python float, whose text form is exact), so that learning can be
cut into slices that run in different processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from chronolens.explain.objective import total_variation
from chronolens.explain.presets import MaskSettings
from chronolens.explain.protocol import Passes

Phase = Literal["start", "steps", "done"]
PATIENCE = 10
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Objective:
    """The objective and its three terms, weights included: ``total = l1 + tv + score``. None where the network gave no number."""

    total: float | None = None
    l1: float | None = None
    tv: float | None = None
    score: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """Return the terms under their own names."""
        return asdict(self)


@dataclass(frozen=True)
class Iterate:
    """A mask that was evaluated: its T logits and its objective, all finite."""

    logits: list[float]
    total: float
    l1: float
    tv: float
    score: float


@dataclass(frozen=True)
class LearnedMask:
    """The result.

    Args:
        operator: ``freeze`` or ``reverse``.
        values: T values in [0, 1].
        objective: of exactly these values.
        steps: Adam steps taken.
        converged: the best objective of Adam's iterates gained less than 1e-4 over the last ten steps; after the exhaustive search
            without steps, that every window has a score. False after a result that was
            not finite.
        passes: what it cost, the search for a start included.
    """

    operator: str
    values: tuple[float, ...]
    objective: Objective
    steps: int
    converged: bool
    passes: Passes

    def to_json(self) -> dict[str, Any]:
        """Return the fields under their own names."""
        return {**asdict(self), "values": list(self.values), "passes": self.passes.to_json()}


@dataclass
class MaskState:
    """What is known after some steps. Made by ``begin``, moved by ``advance``; treat it as read-only.

    Args:
        logits: T logits of the next mask to evaluate.
        moment1, moment2: Adam's running means of the gradient and of its square.
        step: Adam steps taken.
        phase: ``start`` while candidates for the start are scored, ``steps`` while Adam runs, ``done``.
        windows: candidates (first, stop) of the start, scored or waiting; what they mean is up to the kind of start.
        scores: class probabilities of the first ``len(scores)`` windows; None where the network gave no number.
        radius: of the next refinement of the window search, 0 when there is none left.
        history: objective of every mask that was evaluated in the phase ``steps``.
        best, last: the best and the latest mask that was evaluated.
        passes: cost so far.
        converged: see LearnedMask.
    """

    logits: list[float]
    moment1: list[float]
    moment2: list[float]
    step: int = 0
    phase: Phase = "start"
    windows: list[tuple[int, int]] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    radius: int = 0
    history: list[float] = field(default_factory=list)
    best: Iterate | None = None
    last: Iterate | None = None
    passes: Passes = field(default_factory=Passes)
    converged: bool = False

    @property
    def done(self) -> bool:
        """No further step will change anything."""
        return self.phase == "done"

    @property
    def values(self) -> list[float]:
        """The mask so far, T values in [0, 1]: the best one evaluated, or the start."""
        return sigmoid(self.best.logits if self.best else self.logits)

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings, booleans, integers and finite floats."""
        data = asdict(self)
        return {**data, "windows": [list(window) for window in self.windows], "passes": self.passes.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MaskState:
        """Undo :meth:`to_json`.

        Raises:
            ValueError: the fields are not those of a state.
        """
        if data.keys() != {item.name for item in fields(cls)}:
            raise ValueError("not a mask state")
        nested = {
            "windows": [(int(first), int(stop)) for first, stop in data["windows"]],
            "best": Iterate(**data["best"]) if data["best"] else None,
            "last": Iterate(**data["last"]) if data["last"] else None,
            "passes": Passes.from_json(data["passes"]),
        }
        return cls(**{**data, **nested})


def sigmoid(logits: Sequence[float]) -> list[float]:
    """Return the mask values of logits, computed as the optimiser does."""
    values: list[float] = torch.sigmoid(torch.tensor(list(logits), dtype=torch.float64)).tolist()
    return values


def penalties(masks: Tensor, settings: MaskSettings) -> tuple[Tensor, Tensor]:
    """Return the weighted length and total variation (..., ) of masks (..., T)."""
    return settings.l1 * masks.sum(dim=-1), settings.tv * total_variation(masks, settings.beta)


def record(state: MaskState, settings: MaskSettings, logits: Sequence[float], score: float) -> bool:
    """Note a mask that was evaluated as the latest and perhaps the best one; return False when its objective is not finite."""
    l1, tv = (float(term) for term in penalties(torch.sigmoid(torch.tensor(list(logits), dtype=torch.float64)), settings))
    total = l1 + tv + score
    if not math.isfinite(total):
        return False
    state.last = Iterate(list(logits), total, l1, tv, score)
    if state.best is None or total < state.best.total:
        state.best = state.last
    return True


def settled(history: Sequence[float]) -> bool:
    """Tell whether the best objective gained less than 1e-4 over the last ten steps."""
    return len(history) > PATIENCE and min(history[:-PATIENCE]) - min(history) < TOLERANCE
