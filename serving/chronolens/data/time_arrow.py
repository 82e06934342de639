"""The arrow of time: any set of clips becomes one on which only the direction of time matters.

Every clip is there twice, as it is and played backwards, and the label says which. Pickup et al. 2014 asked the question of film;
here it gives real clips whose right answer a reversed mask must destroy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chronolens.clips import Frames
from chronolens.data.source import ClipSource

FORWARDS, BACKWARDS = "played forwards", "played backwards"
ARROW = {FORWARDS: BACKWARDS, BACKWARDS: FORWARDS}


@dataclass(frozen=True)
class ArrowSource:
    """The clips of another source, number 2 k as it is and number 2 k + 1 backwards."""

    inner: ClipSource

    @property
    def classes(self) -> Sequence[str]:
        return (FORWARDS, BACKWARDS)

    @property
    def name(self) -> str:
        return f"arrow-{self.inner.name}"

    def __len__(self) -> int:
        return 2 * len(self.inner)

    def load(self, number: int) -> tuple[Frames, int]:
        """Return frames (T, H, W, 3) uint8 RGB and 0 for forwards, 1 for backwards."""
        frames, _ = self.inner.load(number // 2)
        backwards = number % 2
        return (np.ascontiguousarray(frames[::-1]) if backwards else frames), backwards
