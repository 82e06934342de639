"""Heat maps on frames, and frames mixed by a perturbation; numpy and OpenCV only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import CellGrid, Frames

Array = npt.NDArray[Any]
Window = tuple[float, float, float, float]
"""Part of a picture: top, left, rows, columns."""
MAX_ROWS = 720
NARROWEST = 16
"""Pixels that a film is wide at least, for the sake of its encoder."""
MOST_SLENDER = 4
"""Pictures longer than this many times their short side are squeezed to it where several stand side by side."""
EVEN = CellGrid((1, 1, 1), (0.5, 0.5, 0.5))
"""Any grid whose steps divide the clip evenly."""
STRONGEST = 0.72
"""Share of the colour where the heat is 1; the picture stays visible beneath it."""


@dataclass(frozen=True)
class Heat:
    """A heat map ready to be drawn.

    Args:
        stage: name of the stage, or of the layer.
        pathway: of a network that has several, else None.
        values: (T, h, w) in [0, 1], scaled once for the clip, reaching over the whole picture.
        shares: (T,) share of all heat on each frame, see :func:`heat_shares`.
        seen: (T,) whether the map's pathway saw the frame; other frames show the map of the nearest that it saw.
    """

    stage: str
    pathway: str | None
    values: Array
    shares: npt.NDArray[np.float64]
    seen: npt.NDArray[np.bool_]

    @property
    def name(self) -> str:
        """Stage and pathway."""
        return f"{self.stage} {self.pathway}" if self.pathway else self.stage


def expand_steps(maps: Array, frames: int, grid: CellGrid = EVEN) -> Array:
    """Return one map for each frame, by repetition.

    Args:
        maps: (T', h, w) with T' at least 1.
        frames: number of frames T.
        grid: where the steps lie, see :meth:`chronolens.clips.CellGrid.steps_shown`.

    Returns:
        (T, h, w); frame t gets step ``t * T' // T`` where steps divide the clip evenly.

    Raises:
        ValueError: no steps or no frames.
    """
    expanded: Array = maps[grid.steps_shown(len(maps), frames)]
    return expanded


def heat_shares(maps: Array) -> npt.NDArray[np.float64]:
    """Return the share (T,) of all heat that lies on each frame of maps (T, h, w), not negative; all zero without heat."""
    mass = maps.sum(axis=(1, 2), dtype=np.float64)
    total = float(mass.sum())
    return mass / total if total > 0 else np.zeros_like(mass)


def unit_range(maps: Array) -> npt.NDArray[np.float32]:
    """Return maps divided by the largest value of the whole clip, in [0, 1]; all zero when nothing is positive."""
    positive: npt.NDArray[np.float32] = np.maximum(maps, 0).astype(np.float32)
    top = float(positive.max(initial=0.0))
    return positive / np.float32(top) if top > 0 and np.isfinite(top) else np.zeros_like(positive)


def lay_on_clip(maps: Array, grid: CellGrid, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return maps at the size of the model's input, each cell's value at the centre of what the cell sees.

    Between centres values are interpolated, outside the outermost ones they stay. In time nothing moves: steps are expanded by repetition.

    Args:
        maps: (T', h, w).
        grid: where the cells lie.
        height, width: of the model's input.

    Returns:
        (T', height, width) float32 in the range of the maps.
    """
    (_, rows, columns), (_, top, left) = grid.stride, grid.first
    # output pixel (x + 0.5) shows cell (x + 0.5 - first) / stride; OpenCV counts cells from 0 at their centres
    place = np.array([[1 / columns, 0, (0.5 - left) / columns], [0, 1 / rows, (0.5 - top) / rows]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    laid = [
        cv2.warpAffine(values, place, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE).clip(values.min(), values.max())
        for values in np.ascontiguousarray(maps, dtype=np.float32)
    ]
    return np.stack(laid).astype(np.float32, copy=False)


def resize_heat(heat: Array, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return a map at the size of a frame.

    A cell of the map stands for a tile of the frame. Its value is put at the middle of that tile (half-pixel centres), where the
    receptive field of a network with "same" padding lies; outside the outermost middles the value stays.

    Args:
        heat: (h, w).
        height, width: size of the frame.

    Returns:
        (height, width) float32 in the range of the map.
    """
    values = np.ascontiguousarray(heat, dtype=np.float32)
    grown = cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC)
    clipped: npt.NDArray[np.float32] = np.clip(grown, values.min(), values.max()).astype(np.float32)
    return clipped


def colour_bar(values: Array) -> Frames:
    """Return the colours of heat values in [0, 1]: (..., 3) uint8 RGB of OpenCV's Turbo map."""
    levels = np.rint(np.clip(values, 0.0, 1.0) * 255).astype(np.uint8)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    return np.ascontiguousarray(table[levels]).astype(np.uint8)


def opacity(values: Array) -> npt.NDArray[np.float32]:
    """How much colour covers the picture, for heat in [0, 1]: nothing at 0, rising evenly, the most from 0.7 on."""
    share: npt.NDArray[np.float32] = (STRONGEST * np.clip(values / 0.7, 0.0, 1.0)).astype(np.float32)
    return share


def overlay(frame: Frames, heat: Array) -> Frames:
    """Return a frame with a heat map on it; a map of zeros leaves it as it was.

    Args:
        frame: (H, W, 3) uint8 RGB.
        heat: (h, w) in [0, 1], of any size.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    grown = resize_heat(heat, frame.shape[0], frame.shape[1])
    share = opacity(grown)[..., None]
    mixed: Frames = np.rint(frame * (1 - share) + colour_bar(grown) * share).astype(np.uint8)
    return mixed


def gradcam_frames(frames: Frames, heats: Sequence[Heat]) -> Iterator[Frames]:
    """Yield every frame with its map, at most 720 px high; several maps side by side.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        heats: at least one.
    """
    for number, frame in enumerate(frames):
        fitted = fit(frame, MAX_ROWS // len(heats))
        yield np.concatenate([overlay(fitted, heat.values[number]) for heat in heats], axis=1)


def on_picture(maps: Array, window: Window, height: int, width: int) -> npt.NDArray[np.float32]:
    """Return maps of the part of a picture that the model saw as maps of the whole picture, zero where it saw nothing.

    Args:
        maps: (T', h, w) over the window.
        window: (top, left, rows, columns) in pixels of the picture.
        height, width: of the picture.

    Returns:
        (T', h', w') with as many pixels to a pixel of the picture as before, at most one; the same array when the window is the whole
        picture.
    """
    top, left, rows, columns = window
    if (top, left, rows, columns) == (0, 0, height, width):
        return maps
    if maps.shape[1] > rows:  # a model enlarges a small picture; drawing needs no more pixels than the picture has
        size = max(1, round(columns)), max(1, round(rows))
        maps = np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in maps])
    down, across = maps.shape[1] / rows, maps.shape[2] / columns
    whole = np.zeros((len(maps), max(maps.shape[1], round(height * down)), max(maps.shape[2], round(width * across))), np.float32)
    first_row = min(round(top * down), whole.shape[1] - maps.shape[1])
    first_column = min(round(left * across), whole.shape[2] - maps.shape[2])
    whole[:, first_row : first_row + maps.shape[1], first_column : first_column + maps.shape[2]] = maps
    return whole


def slender(height: int, width: int) -> float:
    """Return height / width of a picture, kept within 1 / ``MOST_SLENDER`` and ``MOST_SLENDER``."""
    return min(max(height / width, 1 / MOST_SLENDER), MOST_SLENDER)


def fit(frame: Frames, max_height: int) -> Frames:
    """Return the frame, scaled down to at most ``max_height`` rows with its proportions kept."""
    height, width = frame.shape[:2]
    if height <= max_height:
        return frame
    size = (max(NARROWEST, round(width * max_height / height)), max_height)
    smaller: Frames = cv2.resize(frame, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return smaller


def apply_matrix(frames: Frames, matrix: Array) -> Frames:
    """Return the clip that a perturbation matrix makes of a clip, for showing.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        matrix: (T, T); row t holds the share of each source frame in frame t.

    Returns:
        (T, H, W, 3) uint8, rounded.

    Raises:
        ValueError: the matrix does not fit the clip.
    """
    count = len(frames)
    if matrix.shape != (count, count):
        raise ValueError(f"expected a matrix of {count} x {count}, got {matrix.shape}")
    result = np.empty_like(frames)
    for t, row in enumerate(matrix):
        mixed = np.zeros(frames.shape[1:], dtype=np.float32)
        for s in np.flatnonzero(row):
            mixed += np.float32(row[s]) * frames[s]
        result[t] = np.rint(np.clip(mixed, 0, 255))
    return result
