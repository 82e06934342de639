"""Settings of the mask optimiser and the named presets.

``paper`` and ``authors`` repeat what was published, weak points included; ``default`` and ``exhaustive`` are ours. ``exhaustive`` needs no
gradient: it scores every contiguous window of frames, fully on inside and off outside, and keeps the best; pair rule ``mean``.

============== ========================= ======================== ==================================
               paper                     authors                  default
============== ========================= ======================== ==================================
source         the paper's table         the PyTorch code         this package
start          last central mask that    first central mask that  best of some 16 windows that a
               keeps 90 % of the effect  does not                 Bayesian search asks for
optimiser      Adam on logits            Adam on logits           trust region on mask values
steps          300 of rate 0.001         300 of rate 0.2          at most 40, the first within 0.2
early stop     none                      never fires              no step promises 0.001
kept           last iterate              last iterate             best iterate
pair rule      earlier                   earlier                  mean
============== ========================= ======================== ==================================
"""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from chronolens.errors import OptionsError
from chronolens.explain.words import OPERATORS, PAIR_RULES, RUN_THRESHOLD, Operator, PairRule

Init = Literal["central", "authors-central", "window", "random", "exhaustive"]
Dataset = Literal["ssv2", "kth"]
INITS: tuple[Init, ...] = ("central", "authors-central", "window", "random", "exhaustive")
MAX_STEPS = 1000
MAX_NUMBER = sys.float_info.max


@dataclass(frozen=True)
class MaskSettings:
    """Everything that decides how one mask is learned.

    Args:
        preset: name it was made from.
        operator: ``freeze`` or ``reverse``.
        l1: weight of the mask's length, >= 0.
        tv: weight of the total variation, >= 0.
        beta: exponent of the total variation, >= 1.
        steps: most steps of the optimiser, 1 to 1000; 0 only after ``exhaustive``, whose best window then is the result.
        learning_rate: Adam's rate; of the trust region the largest change of a mask value in the first step (more than 1 is 1). > 0.
        init: ``central`` (the last mask of the series that keeps 90 % of the effect), ``authors-central`` (the first that does not),
            ``window`` (the best contiguous window that a Bayesian search finds), ``random`` (each frame on with probability 0.3) or
            ``exhaustive`` (the best of all contiguous windows).
        pair: blend rule of the reverse operator, see ``reverse_matrix``.
        threshold: a reverse run holds the frames above it, in [0, 1].
        seed: of the random start, 0 to 2^63 - 1.
        optimiser: ``adam`` on the logits of the mask, or ``trust-region`` on its values.
        keep: return the ``best`` or the ``last`` iterate.
    """

    preset: str
    operator: Operator
    l1: float
    tv: float
    beta: float
    steps: int
    learning_rate: float
    init: Init
    pair: PairRule
    threshold: float = RUN_THRESHOLD
    seed: int = 0
    optimiser: Literal["adam", "trust-region"] = "adam"
    keep: Literal["best", "last"] = "last"

    def to_json(self) -> dict[str, Any]:
        """Return the fields under their own names."""
        return asdict(self)

    @property
    def central(self) -> bool:
        """The start is one of the published series of central masks."""
        return self.init in ("central", "authors-central")

    @property
    def forward_only(self) -> bool:
        """No gradient is ever asked for."""
        return self.init == "exhaustive" and self.steps == 0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MaskSettings:
        """Undo :meth:`to_json`; every value is checked again.

        Raises:
            OptionsError: a field is unknown, missing or out of range.
        """
        names = {field.name for field in fields(cls)}
        for name in data.keys() ^ names:
            raise OptionsError(f"Mask setting {name[:40]!r} is {'unknown' if name in data else 'missing'}.", pointer=f"/mask/{name[:40]}")
        made = cls(**data)
        _check(made)
        return made


_PUBLISHED = MaskSettings(
    preset="paper",
    operator="freeze",
    l1=0.01,
    tv=0.02,
    beta=3.0,
    steps=300,
    learning_rate=0.001,
    init="central",
    pair="earlier",
)
PRESETS: dict[str, MaskSettings] = {
    "paper": _PUBLISHED,
    "authors": replace(_PUBLISHED, preset="authors", learning_rate=0.2, init="authors-central"),
    "default": replace(
        _PUBLISHED,
        preset="default",
        steps=40,
        learning_rate=0.2,
        init="window",
        pair="mean",
        optimiser="trust-region",
        keep="best",
    ),
}
PRESETS["exhaustive"] = replace(PRESETS["default"], preset="exhaustive", init="exhaustive", steps=0)
"""The presets for the freeze operator, with the weights of Something-Something."""
WEIGHTS: dict[str, tuple[float, float]] = {"ssv2": (0.01, 0.02), "kth": (0.02, 0.04)}
"""(l1, tv) that were published for each data set."""
OVERRIDES = ("l1", "tv", "beta", "steps", "learning_rate", "init", "pair", "threshold", "seed")
"""What a request may set on top of a preset."""


def settings(preset: str = "default", operator: Operator = "freeze", *, dataset: Dataset = "ssv2", **overrides: Any) -> MaskSettings:
    """Return the settings of a preset for one operator.

    Args:
        preset: ``paper``, ``authors``, ``default`` or ``exhaustive``.
        operator: ``freeze`` or ``reverse``.
        dataset: whose published weights l1 and tv to use, ``ssv2`` (Something-Something) or ``kth``.
        overrides: any of ``l1, tv, beta, steps, learning_rate, init, pair, threshold, seed``; None leaves the preset's value.

    Raises:
        OptionsError: an unknown name or a value out of range; ``pointer`` names the option, such as ``/mask/steps``.
    """
    if preset not in PRESETS:
        raise OptionsError(f"Unknown mask preset {str(preset)[:40]!r}.", pointer="/mask/preset", allowed=list(PRESETS))
    if dataset not in WEIGHTS:
        raise OptionsError(f"Unknown data set {str(dataset)[:40]!r}.", pointer="/mask/dataset", allowed=list(WEIGHTS))
    for name in overrides:
        if name not in OVERRIDES:
            raise OptionsError(f"Unknown mask option {name[:40]!r}.", pointer=f"/mask/{name[:40]}", allowed=OVERRIDES)
    l1, tv = WEIGHTS[dataset]
    given = {name: value for name, value in overrides.items() if value is not None}
    made = replace(PRESETS[preset], operator=operator, **{"l1": l1, "tv": tv, **given})
    if made.steps == 0 and made.init != "exhaustive" and "steps" not in given:
        raise OptionsError(f"The preset {preset!r} takes no steps, so another start needs steps too.", pointer="/mask/init")
    _check(made)
    return made


def _check(made: MaskSettings) -> None:
    _choice("operator", made.operator, OPERATORS, "/methods")
    _choice("init", made.init, INITS)
    _choice("pair", made.pair, PAIR_RULES)
    _choice("optimiser", made.optimiser, ("adam", "trust-region"))
    _choice("keep", made.keep, ("best", "last"))
    _whole("steps", made.steps, 0 if made.init == "exhaustive" else 1, MAX_STEPS)
    _whole("seed", made.seed, 0, 2**63 - 1)
    for name in ("l1", "tv"):
        _number(name, getattr(made, name), 0.0)
    _number("beta", made.beta, 1.0)
    _number("threshold", made.threshold, 0.0, 1.0)
    _number("learning_rate", made.learning_rate, 0.0)
    if made.operator == "reverse" and made.init in ("window", "exhaustive") and made.threshold == 1:
        detail = f"with the start {made.init!r} threshold must be below 1, or no window would reverse anything."
        raise OptionsError(detail, pointer="/mask/threshold", limit=1, observed=made.threshold)
    if made.learning_rate == 0:
        raise OptionsError("learning_rate must be above 0.", pointer="/mask/learning_rate", limit=0, observed=0)


def _choice(name: str, value: object, allowed: tuple[str, ...], pointer: str | None = None) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise OptionsError(f"{name} cannot be {str(value)[:40]!r}.", pointer=pointer or f"/mask/{name}", allowed=allowed)


def _whole(name: str, value: object, low: int, high: int) -> None:
    pointer = f"/mask/{name}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionsError(f"{name} must be a whole number.", pointer=pointer)
    if not low <= value <= high:
        limit, observed = (low if value < low else high), (value if abs(value) < 2**63 else None)
        raise OptionsError(f"{name} must lie between {low} and {high}.", pointer=pointer, limit=limit, observed=observed)


def _number(name: str, value: object, low: float, high: float = math.inf) -> None:
    pointer = f"/mask/{name}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        raise OptionsError(f"{name} must be a finite number.", pointer=pointer)
    if not low <= value <= high:
        limit, side = (low, "at least") if value < low else (high, "at most")
        raise OptionsError(f"{name} must be {side} {limit:g}.", pointer=pointer, limit=limit, observed=value)
