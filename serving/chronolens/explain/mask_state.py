"""The state of one mask while it is learned, and the mask that comes out.

The state is complete and survives JSON bit for bit (every float is a Python float, whose text form is exact), so that learning can be
cut into slices that run in different processes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from chronolens.explain.adam import Adam
from chronolens.explain.known import Known
from chronolens.explain.objective import total_variation
from chronolens.explain.presets import MaskSettings
from chronolens.explain.protocol import Passes
from chronolens.explain.trust_region import Region

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
    """A mask that was evaluated: its T values and its objective, all finite."""

    values: list[float]
    total: float
    l1: float
    tv: float
    score: float


@dataclass(frozen=True)
class Optimum:
    """Proof that no mask of a family is better: every one was scored. Objectives of the best and of the second best, None where none is.

    ``size`` counts the masks of the family, the empty one included, ``scored`` those whose score was finite.
    """

    family: str
    size: int
    scored: int
    best: float | None
    second: float | None


@dataclass(frozen=True)
class LearnedMask:
    """The result.

    Args:
        operator: ``freeze`` or ``reverse``.
        values: T values in [0, 1].
        objective: of exactly these values.
        steps: steps of the optimiser.
        converged: of the trust region, that its model promises less than 0.002 within 0.2 of every value; of Adam, that the best
            objective gained less than 1e-4 over the last ten steps; after the exhaustive search without steps, that every window has
            a score. False after a result that was not finite.
        passes: what it cost, the search for a start included.
        optimum: the proof that the exhaustive search gives, None otherwise.
    """

    operator: str
    values: tuple[float, ...]
    objective: Objective
    steps: int
    converged: bool
    passes: Passes
    optimum: Optimum | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields under their own names."""
        return {**asdict(self), "values": list(self.values), "passes": self.passes.to_json()}


@dataclass
class MaskState:
    """What is known after some steps. Made by ``begin``, moved by ``advance``; treat it as read-only.

    Args:
        point: T values of the mask to evaluate next in the phase ``steps``.
        step: steps of the optimiser.
        phase: ``start`` while candidates for the start are scored, ``steps`` while the optimiser runs, ``done``.
        windows: candidates (first, stop) of the start, scored or waiting; what they mean is up to the kind of start.
        scores: class probabilities of the first ``len(scores)`` windows; None where the network gave no number.
        known: scores that need no pass.
        adam, region: what the optimiser remembers, None for the one that does not run.
        rivals: T mask values of further starts that wait for their turn.
        history: objective of every mask that was evaluated in the phase ``steps``, the one after Adam's last step left out.
        best, last: the best and the latest mask that was evaluated.
        passes: cost so far.
        converged: see LearnedMask.
        complete: the mask after Adam's last step has its objective.
    """

    point: list[float]
    step: int = 0
    phase: Phase = "start"
    windows: list[tuple[int, int]] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    adam: Adam | None = None
    region: Region | None = None
    rivals: list[list[float]] = field(default_factory=list)
    history: list[float] = field(default_factory=list)
    best: Iterate | None = None
    last: Iterate | None = None
    passes: Passes = field(default_factory=Passes)
    converged: bool = False
    complete: bool = False

    @property
    def done(self) -> bool:
        """No further step will change anything."""
        return self.phase == "done"

    @property
    def values(self) -> list[float]:
        """The mask so far, T values in [0, 1]: the best one evaluated, or the next."""
        return list(self.best.values if self.best else self.point)

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings, booleans, integers and finite floats."""
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        parts = {name: asdict(part) if part else None for name, part in data.items() if name in ("adam", "region", "best", "last")}
        windows = [list(window) for window in self.windows]
        return copy.deepcopy({**data, **parts, "windows": windows, "known": self.known.to_json(), "passes": self.passes.to_json()})

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
            "known": Known.from_json(data["known"]),
            "adam": Adam(**data["adam"]) if data["adam"] else None,
            "region": Region(**data["region"]) if data["region"] else None,
            "best": Iterate(**data["best"]) if data["best"] else None,
            "last": Iterate(**data["last"]) if data["last"] else None,
            "passes": Passes.from_json(data["passes"]),
        }
        return cls(**copy.deepcopy({**data, **nested}))


def sigmoid(logits: Sequence[float]) -> list[float]:
    """Return the mask values of logits, computed as the optimiser does."""
    values: list[float] = torch.sigmoid(torch.tensor(list(logits), dtype=torch.float64)).tolist()
    return values


def penalties(masks: Tensor, settings: MaskSettings) -> tuple[Tensor, Tensor]:
    """Return the weighted length and total variation (..., ) of masks (..., T)."""
    return settings.l1 * masks.sum(dim=-1), settings.tv * total_variation(masks, settings.beta)


def record(state: MaskState, settings: MaskSettings, values: Sequence[float], score: float) -> bool:
    """Note a mask that was evaluated as the latest and perhaps the best one; return False when its objective is not finite."""
    l1, tv = (float(term) for term in penalties(torch.tensor(list(values), dtype=torch.float64), settings))
    total = l1 + tv + score
    if not math.isfinite(total):
        return False
    state.last = Iterate(list(values), total, l1, tv, score)
    if state.best is None or total < state.best.total:
        state.best = state.last
    return True


def settled(history: Sequence[float]) -> bool:
    """Tell whether the best objective gained less than 1e-4 over the last ten steps."""
    return len(history) > PATIENCE and min(history[:-PATIENCE]) - min(history) < TOLERANCE
