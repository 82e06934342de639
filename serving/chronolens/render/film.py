"""A still picture of the whole explanation: the sampled frames in a row, heat, and mask cells beneath."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import Frames
from chronolens.render.overlay import Heat, overlay, slender
from chronolens.render.strip import mask_strip
from chronolens.render.text import BACKGROUND, GREY, WHITE, text_width, write

PER_ROW = 16
"""Frames side by side; a clip of 32 frames takes two rows."""

_TILE, _GAP, _MARGIN, _BAR, _CELL, _LABEL = 112, 4, 78, 36, 22, 34
_HEAD = 34
_HEAT = (240, 170, 40)


def filmstrip(
    frames: Frames,
    heats: Sequence[Heat],
    masks: Mapping[str, npt.NDArray[Any]],
    indices: Sequence[int] | npt.NDArray[np.int64],
    timestamps_s: Sequence[float] | npt.NDArray[np.float64],
    *,
    headline: str,
) -> Frames:
    """Draw a filmstrip.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        heats: a row of pictures and a row of bars each.
        masks: name of the method, such as ``freeze``, to its (T,) values in [0, 1]; a row of cells each.
        indices: (T,) frame numbers in the source.
        timestamps_s: (T,) seconds.
        headline: class and score.

    Returns:
        (H', W', 3) uint8 RGB: for each frame, from top to bottom, the frame, each heat map on it with its share of all heat, its
        mask cells, its number and its time.
    """
    count = len(frames)
    tile = round(_TILE * slender(*frames.shape[1:3]))
    block = tile + len(heats) * (tile + _BAR + 2 * _GAP) + len(masks) * (_CELL + _GAP) + _LABEL + _GAP
    columns = min(count, PER_ROW)
    rows = -(-count // PER_ROW)
    image = np.full((_HEAD + rows * (block + 8), _MARGIN + columns * (_TILE + _GAP) + _GAP, 3), BACKGROUND, dtype=np.uint8)
    write(image, headline, 10, 23, 18, weight=600)
    for row in range(rows):
        span = range(row * PER_ROW, min(count, (row + 1) * PER_ROW))
        top = _HEAD + row * (block + 8)
        top = _pictures(image, frames, None, "frames", span, top, tile)
        for heat in heats:
            top = _pictures(image, frames, heat, heat.pathway or "heat map", span, top, tile)
            top = _bars(image, heat.shares, span, top)
        top = _cells(image, masks, span, top)
        _numbers(image, indices, timestamps_s, span, top)
    return image


def _column(number: int) -> int:
    return _MARGIN + (number % PER_ROW) * (_TILE + _GAP)


def _pictures(image: Frames, frames: Frames, heat: Heat | None, title: str, span: range, top: int, tile: int) -> int:
    """A row of frames, with heat on them where there is any; return where the next row begins."""
    for number in span:
        left = _column(number)
        small = cv2.resize(frames[number], (_TILE, tile), interpolation=cv2.INTER_AREA).astype(np.uint8)
        image[top : top + tile, left : left + _TILE] = small if heat is None else overlay(small, heat.values[number])
    write(image[:, :_MARGIN], title, 10, top + tile // 2 + 5, 13, colour=GREY)
    return top + tile + _GAP


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
