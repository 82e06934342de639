"""A still picture of the whole explanation: the sampled frames in a row, heat, and mask cells beneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import Frames
from chronolens.render.overlay import expand_steps, overlay
from chronolens.render.strip import mask_strip
from chronolens.render.text import BACKGROUND, GREY, WHITE, text_width, write

PER_ROW = 16
"""Frames side by side; a clip of 32 frames takes two rows."""

_TILE, _GAP, _MARGIN, _BAR, _CELL, _LABEL = 112, 4, 78, 36, 22, 34
_HEAD = 34
_HEAT = (240, 170, 40)


def filmstrip(
    frames: Frames,
    heat: npt.NDArray[Any] | None,
    shares: npt.NDArray[np.float64] | None,
    masks: Mapping[str, npt.NDArray[Any]],
    indices: Sequence[int] | npt.NDArray[np.int64],
    timestamps_s: Sequence[float] | npt.NDArray[np.float64],
    *,
    headline: str,
) -> Frames:
    """Draw a filmstrip.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        heat: (T', h, w), not negative, scaled once for the clip to [0, 1]; None leaves heat maps out.
        shares: (T,) share of all heat on each frame; None leaves the bars out.
        masks: name of the method, such as ``freeze``, to its (T,) values in [0, 1]; a row of cells each.
        indices: (T,) frame numbers in the source.
        timestamps_s: (T,) seconds.
        headline: class and score.

    Returns:
        (H', W', 3) uint8 RGB: for each frame, from top to bottom, the frame, the heat on it, its share of all heat, its mask cells,
        its number and its time.
    """
    count = len(frames)
    maps = None if heat is None else expand_steps(heat, count)
    tile = max(16, round(_TILE * frames.shape[1] / frames.shape[2]))
    block = (
        tile
        + (tile + _GAP if maps is not None else 0)
        + (_BAR + _GAP if shares is not None else 0)
        + len(masks) * (_CELL + _GAP)
        + _LABEL
        + _GAP
    )
    columns = min(count, PER_ROW)
    rows = -(-count // PER_ROW)
    image = np.full((_HEAD + rows * (block + 8), _MARGIN + columns * (_TILE + _GAP) + _GAP, 3), BACKGROUND, dtype=np.uint8)
    write(image, headline, 10, 23, 18, weight=600)
    for row in range(rows):
        span = range(row * PER_ROW, min(count, (row + 1) * PER_ROW))
        top = _HEAD + row * (block + 8)
        top = _pictures(image, frames, maps, span, top, tile)
        if shares is not None:
            top = _bars(image, shares, span, top)
        top = _cells(image, masks, span, top)
        _numbers(image, indices, timestamps_s, span, top)
    return image


def _column(number: int) -> int:
    return _MARGIN + (number % PER_ROW) * (_TILE + _GAP)


def _pictures(image: Frames, frames: Frames, maps: npt.NDArray[Any] | None, span: range, top: int, tile: int) -> int:
    """Frames, and under them the frames with heat; the row below."""
    for number in span:
        left = _column(number)
        small = cv2.resize(frames[number], (_TILE, tile), interpolation=cv2.INTER_AREA).astype(np.uint8)
        image[top : top + tile, left : left + _TILE] = small
        if maps is not None:
            image[top + tile + _GAP : top + 2 * tile + _GAP, left : left + _TILE] = overlay(small, maps[number])
    write(image[:, :_MARGIN], "frames", 10, top + tile // 2 + 5, 13, colour=GREY)
    if maps is None:
        return top + tile + _GAP
    write(image[:, :_MARGIN], "heat map", 10, top + tile + _GAP + tile // 2 + 5, 13, colour=GREY)
    return top + 2 * (tile + _GAP)


def _bars(image: Frames, mass: npt.NDArray[np.float64], span: range, top: int) -> int:
    """One bar a frame, the highest for the frame with most heat, with its per cent."""
    most = float(mass.max()) or 1.0
    for number in span:
        left, height = _column(number), round((_BAR - 2) * float(mass[number]) / most)
        image[top + _BAR - height : top + _BAR, left : left + 40] = _HEAT
        image[top + _BAR - 1, left : left + _TILE] = GREY
        write(image[:, : left + _TILE], f"{100 * mass[number]:.1f} %", left + 46, top + _BAR - 6, 13, colour=WHITE)
    write(image[:, :_MARGIN], "heat share", 10, top + _BAR - 6, 13, colour=GREY)
    return top + _BAR + _GAP


def _cells(image: Frames, masks: Mapping[str, npt.NDArray[Any]], span: range, top: int) -> int:
    for name, mask in masks.items():
        for number in span:
            left = _column(number)
            image[top : top + _CELL, left : left + _TILE] = mask_strip(mask[number : number + 1], _TILE, _CELL)
            value = f"{float(mask[number]):.2f}"
            write(image, value, left + (_TILE - text_width(value, 13)) // 2, top + _CELL - 4, 13)
        write(image[:, :_MARGIN], name, 10, top + _CELL - 6, 13, colour=GREY)
        top += _CELL + _GAP
    return top


def _numbers(
    image: Frames,
    indices: Sequence[int] | npt.NDArray[np.int64],
    timestamps_s: Sequence[float] | npt.NDArray[np.float64],
    span: range,
    top: int,
) -> None:
    for number in span:
        left = _column(number)
        words = f"#{int(indices[number])}  {float(timestamps_s[number]):.2f} s"
        write(image[:, : left + _TILE], words, left + max(0, (_TILE - text_width(words, 13)) // 2), top + 14, 13, colour=WHITE)
    write(image[:, :_MARGIN], "frame", 10, top + 14, 13, colour=GREY)
