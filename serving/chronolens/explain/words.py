"""The words that the temporal methods share; free of torch, so that light processes may import them."""

from __future__ import annotations

from typing import Literal

Operator = Literal["freeze", "reverse"]
PairRule = Literal["earlier", "mean"]
OPERATORS: tuple[Operator, ...] = ("freeze", "reverse")
PAIR_RULES: tuple[PairRule, ...] = ("earlier", "mean")
RUN_THRESHOLD = 0.1
"""A run of the reverse operator holds the frames whose mask value is above it."""
ON = 0.5
"""A frame counts as masked when its value is above it."""
