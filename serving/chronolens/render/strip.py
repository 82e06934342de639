"""The row of cells that shows a temporal mask: one cell a frame, red = on, green = off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import Frames
from chronolens.render.overlay import MAX_ROWS, fit

ON = (213, 48, 32)
OFF = (0, 140, 90)
LOWEST = 0.3
"""Height of the bar of a cell whose value is 0; a value of 1 fills the cell. So on and off differ for colour-blind eyes too."""
DIMMED = 0.65
"""Brightness of the cells that are not the current frame's."""
_EMPTY = (44, 44, 50)
_FRAME = (255, 255, 255)


def cell_colour(value: float, *, bright: bool = True) -> tuple[int, int, int]:
    """Return the colour of a mask value in [0, 1]: green at 0, red at 1, mixed between."""
    share = min(max(float(value), 0.0), 1.0)
    factor = 1.0 if bright else DIMMED
    red, green, blue = (round(factor * ((1 - share) * off + share * on)) for on, off in zip(ON, OFF, strict=True))
    return red, green, blue


def cell_edges(count: int, width: int) -> npt.NDArray[np.int64]:
    """Return where cells begin and end: (count + 1,) columns from 0 to ``width``."""
    return np.rint(np.linspace(0, width, count + 1)).astype(np.int64)


def mask_strip(mask: npt.NDArray[Any], width: int, height: int, current: int | None = None) -> Frames:
    """Draw a mask.

    Args:
        mask: (T,) values in [0, 1].
        width, height: size of the strip in pixels; a cell is about ``width / T`` wide.
        current: frame that is shown bright and outlined; all are bright when None.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    strip = np.full((height, width, 3), _EMPTY, dtype=np.uint8)
    edges = cell_edges(len(mask), width)
    for number, value in enumerate(mask):
        left, right = int(edges[number]), int(edges[number + 1])
        gap = 1 if right - left > 3 else 0
        bright = current is None or number == current
        share = LOWEST + (1 - LOWEST) * min(max(float(value), 0.0), 1.0)
        top = height - max(1, round(share * height))
        strip[top:, left : right - gap] = cell_colour(float(value), bright=bright)
        if current == number and right - left > 4 and height > 6:
            cv2.rectangle(strip, (left, 0), (right - gap - 1, height - 1), _FRAME, 1)
    return strip


def masked_frames(perturbed: Frames, mask: npt.NDArray[Any]) -> Iterator[Frames]:
    """Yield the perturbed frames with the strip over their lowest rows, at most 720 px high.

    Args:
        perturbed: (T, H, W, 3) uint8 RGB.
        mask: (T,) in [0, 1].
    """
    for number, frame in enumerate(perturbed):
        shown = fit(frame, MAX_ROWS).copy()
        rows = max(6, shown.shape[0] // 16)
        shown[-rows:] = mask_strip(mask, shown.shape[1], rows, number)
        yield shown
