"""Adam on the logits of one mask, in double precision and plain numbers, so that its state survives JSON bit for bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
LOGIT_LIMIT = 50.0
"""Beyond it the sigmoid is 0 or 1 in double precision; the limit keeps a wild learning rate finite."""


@dataclass
class Adam:
    """T logits and Adam's running means of their gradient and of its square."""

    logits: list[float]
    moment1: list[float]
    moment2: list[float]

    @classmethod
    def at(cls, logits: Sequence[float]) -> Adam:
        """Return the state before the first step."""
        return cls(list(logits), [0.0] * len(logits), [0.0] * len(logits))

    def move(self, slope: Sequence[float], rate: float, step: int) -> bool:
        """Do step number ``step`` (from 1) as ``torch.optim.Adam`` does, given the slope of the objective by the logits.

        Returns False, and leaves everything alone, when a gradient or a moment is not finite.

        Source: Kingma and Ba 2015.
        """
        moment1 = [BETA1 * m + (1.0 - BETA1) * g for m, g in zip(self.moment1, slope, strict=True)]
        moment2 = [BETA2 * v + (1.0 - BETA2) * g * g for v, g in zip(self.moment2, slope, strict=True)]
        if not all(math.isfinite(value) for value in (*moment1, *moment2)):
            return False
        self.moment1, self.moment2 = moment1, moment2
        first, second = 1.0 - BETA1**step, 1.0 - BETA2**step
        for frame, (m, v) in enumerate(zip(moment1, moment2, strict=True)):
            moved = self.logits[frame] - rate * (m / first) / (math.sqrt(v / second) + EPSILON)
            self.logits[frame] = min(max(moved, -LOGIT_LIMIT), LOGIT_LIMIT)
        return True
