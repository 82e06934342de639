"""Resizing with a triangle filter that widens when shrinking, as Pillow's ``BILINEAR`` does it for 8-bit pictures."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from chronolens.clips import Frames

Weights = npt.NDArray[np.int32]
_BITS = 22
"""Of the fraction in Pillow's fixed-point weights: 32, less 8 for a level and 2 to spare (``PRECISION_BITS``)."""


def resize_triangle(frames: Frames, size: tuple[int, int], window: tuple[slice, slice]) -> Frames:
    """Return a part of frames of another size, each row first and then each column, rounded to 8 bits in between.

    Args:
        frames: (T, H, W, 3) uint8.
        size: rows and columns of the whole picture to come.
        window: which rows and columns of it are wanted; the others are not computed.

    Returns:
        (T, h, w, 3) uint8, the window; equal to Pillow 10 to the last bit. Pillow 13 does columns first where that is less work, which
        differs by one level here and there.

    Source: Pillow, src/libImaging/Resample.c.
    """
    down, across = (_taps(there, wanted, part) for there, wanted, part in zip(frames.shape[1:3], size, window, strict=True))
    resized: Frames = np.empty((len(frames), down[0].shape[1], across[0].shape[1], 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        narrow = _filtered(frame.swapaxes(0, 1), *across).swapaxes(0, 1)
        resized[number] = _filtered(narrow, *down)
    return resized


def _taps(there: int, wanted: int, part: slice) -> tuple[npt.NDArray[np.int64], Weights]:
    """Return for each pixel in a part of ``wanted`` ones which of ``there`` pixels it is made of, and their weights; both (K, n)."""
    scale = there / wanted
    reach = max(scale, 1.0)
    centres = (np.arange(wanted)[part] + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + reach + 0.5).astype(np.int64), there)
    taps = first + np.arange(2 * math.ceil(reach) + 1)[:, None]
    weights = np.maximum(1 - np.abs((taps - centres + 0.5) / reach), 0)
    weights[taps >= end] = 0
    fixed = np.floor(weights / weights.sum(axis=0) * (1 << _BITS) + 0.5).astype(np.int32)
    return np.minimum(taps, there - 1), fixed


def _filtered(rows: Frames, taps: npt.NDArray[np.int64], weights: Weights) -> Frames:
    """Return weighted sums along the first axis; no sum passes 255, because weights are not negative and sum to 1."""
    total = np.full((taps.shape[1], *rows.shape[1:]), 1 << (_BITS - 1), dtype=np.int32)
    for tap, weight in zip(taps, weights, strict=True):
        total += weight[:, None, None] * rows[tap]
    return (total >> _BITS).astype(np.uint8)
