"""Procedural textures and object shapes of the ``synthetic`` data set.

Every texture belongs to a *family* and every object to a *shape*; each split has families and shapes of its own, so a network that
is good on ``test`` has seen none of its surfaces or outlines before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from zlib import crc32

import cv2
import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Image = npt.NDArray[np.uint8]

TILE = 256
VARIANTS = 24

TEXTURES: dict[str, tuple[str, ...]] = {
    "train": ("clouds", "planks", "bricks", "tiles", "dots", "waves", "rectangles", "lines"),
    "val": ("weave", "triangles"),
    "test": ("cells", "tartan", "marble", "rings"),
}
SHAPES: dict[str, tuple[str, ...]] = {
    "train": ("disc", "square", "triangle", "pentagon", "ellipse", "box", "plus", "kite"),
    "val": ("trapezoid", "half_disc"),
    "test": ("star", "heart", "ell", "tee"),
}


def _noise(rng: np.random.Generator, cells: int) -> Field:
    """Smooth periodic noise in [0, 1] with ``cells`` bumps a side, (TILE, TILE)."""
    grid = np.pad(rng.random((cells, cells), dtype=np.float32), 2, mode="wrap")
    pixel = TILE / cells
    big = cv2.resize(grid, None, fx=pixel, fy=pixel, interpolation=cv2.INTER_CUBIC)
    start = round(2 * pixel)
    smooth: Field = np.clip(big[start : start + TILE, start : start + TILE], 0, 1).astype(np.float32)
    return smooth


def _grid() -> tuple[Field, Field]:
    axis: Field = np.arange(TILE, dtype=np.float32) / np.float32(TILE)
    return np.tile(axis, (TILE, 1)), np.repeat(axis[:, None], TILE, axis=1)


def _clouds(rng: np.random.Generator) -> Field:
    layers = [_noise(rng, cells) * weight for cells, weight in ((4, 0.5), (8, 0.25), (16, 0.15), (64, 0.1))]
    total: Field = np.sum(layers, axis=0, dtype=np.float32)
    return total


def _planks(rng: np.random.Generator) -> Field:
    count = int(rng.integers(6, 15))
    _, v = _grid()
    levels = rng.random(count, dtype=np.float32)
    grain = cv2.resize(rng.random((TILE, 8), dtype=np.float32), (TILE, TILE))
    seam = (v * count % 1) < 0.08
    return np.where(seam, np.float32(0), levels[(v * count).astype(int) % count] * 0.7 + grain * 0.3)


def _bricks(rng: np.random.Generator) -> Field:
    rows, columns = int(rng.integers(4, 9)) * 2, int(rng.integers(4, 9))
    u, v = _grid()
    row = (v * rows).astype(int)
    along = u * columns + 0.5 * (row % 2)
    levels = rng.random((rows, columns), dtype=np.float32)[row, along.astype(int) % columns]
    mortar = ((along % 1) < 0.08) | ((v * rows % 1) < 0.12)
    return np.where(mortar, np.float32(1), levels * 0.8).astype(np.float32)


def _tiles(rng: np.random.Generator) -> Field:
    count = int(rng.integers(5, 13))
    u, v = _grid()
    levels = rng.random((count, count), dtype=np.float32)[(v * count).astype(int), (u * count).astype(int)]
    return np.where(((u * count % 1) < 0.07) | ((v * count % 1) < 0.07), np.float32(0.1), levels)


def _scatter(rng: np.random.Generator, draw: Callable[[Field, npt.NDArray[np.float64], float], None], count: int) -> Field:
    """Draw ``count`` random marks over smooth noise."""
    field = _noise(rng, 4) * 0.5 + 0.2
    for _ in range(count):
        draw(field, rng.random(5), float(rng.random()))
    return field


def _dots(rng: np.random.Generator) -> Field:
    def draw(field: Field, r: npt.NDArray[np.float64], level: float) -> None:
        cv2.circle(field, (int(r[0] * TILE), int(r[1] * TILE)), int(5 + r[2] * 16), level, -1, cv2.LINE_AA)

    return _scatter(rng, draw, int(rng.integers(40, 120)))


def _rectangles(rng: np.random.Generator) -> Field:
    def draw(field: Field, r: npt.NDArray[np.float64], level: float) -> None:
        x, y = int(r[0] * TILE), int(r[1] * TILE)
        cv2.rectangle(field, (x, y), (x + int(8 + r[2] * 60), y + int(8 + r[3] * 60)), level, -1)

    return _scatter(rng, draw, int(rng.integers(30, 80)))


def _lines(rng: np.random.Generator) -> Field:
    def draw(field: Field, r: npt.NDArray[np.float64], level: float) -> None:
        start, end = (int(r[0] * TILE), int(r[1] * TILE)), (int(r[2] * TILE), int(r[3] * TILE))
        cv2.line(field, start, end, level, int(2 + r[4] * 7), cv2.LINE_AA)

    return _scatter(rng, draw, int(rng.integers(30, 70)))


def _triangles(rng: np.random.Generator) -> Field:
    def draw(field: Field, r: npt.NDArray[np.float64], level: float) -> None:
        turn = 2 * np.pi * (r[2] + np.arange(3) / 3)
        corners = np.stack([r[0] * TILE + np.cos(turn) * (8 + r[3] * 30), r[1] * TILE + np.sin(turn) * (8 + r[3] * 30)], 1)
        cv2.fillPoly(field, [corners.astype(np.int32)], level)

    return _scatter(rng, draw, int(rng.integers(40, 90)))


def _waves(rng: np.random.Generator) -> Field:
    u, v = _grid()
    across, down = rng.integers(-8, 9), rng.integers(3, 10)
    return (0.5 + 0.5 * np.sin(2 * np.pi * (across * u + down * v) + 4 * _noise(rng, 4))).astype(np.float32)


def _weave(rng: np.random.Generator) -> Field:
    u, v = _grid()
    count = int(rng.integers(6, 12))
    over = ((u * count).astype(int) + (v * count).astype(int)) % 2 == 0
    strands = np.where(over, np.sin(np.pi * (u * count % 1)), 0.6 * np.sin(np.pi * (v * count % 1)))
    return np.asarray(strands * 0.8 + 0.2 * _noise(rng, 8), dtype=np.float32)


def _cells(rng: np.random.Generator) -> Field:
    points = rng.random((int(rng.integers(30, 90)), 2))
    seeds = np.full((TILE, TILE), 255, np.uint8)
    seeds[(points[:, 1] * TILE).astype(int), (points[:, 0] * TILE).astype(int)] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    return np.asarray(rng.random(int(labels.max()) + 1, dtype=np.float32)[labels])


def _tartan(rng: np.random.Generator) -> Field:
    def bands() -> Field:
        edges = np.repeat(rng.random(16, dtype=np.float32), rng.integers(4, 28, 16))
        return np.resize(edges, TILE).astype(np.float32)

    return 0.5 * (bands()[:, None] + bands()[None, :])


def _marble(rng: np.random.Generator) -> Field:
    u, _ = _grid()
    veins = np.abs(np.sin(2 * np.pi * (2 * u + 3 * _noise(rng, 4) + _noise(rng, 12))))
    return np.asarray(veins**0.6, dtype=np.float32)


def _rings(rng: np.random.Generator) -> Field:
    u, v = _grid()
    field = np.zeros((TILE, TILE), np.float32)
    nearest = np.full((TILE, TILE), 9.0, np.float32)
    for x, y in rng.random((7, 2)):
        far = np.hypot((u - x + 0.5) % 1 - 0.5, (v - y + 0.5) % 1 - 0.5).astype(np.float32)
        field = np.where(far < nearest, 0.5 + 0.5 * np.sin(far * rng.uniform(60, 130)), field).astype(np.float32)
        nearest = np.minimum(nearest, far)
    return field


_FIELDS: dict[str, Callable[[np.random.Generator], Field]] = {
    "clouds": _clouds, "planks": _planks, "bricks": _bricks, "tiles": _tiles, "dots": _dots, "waves": _waves,
    "rectangles": _rectangles, "lines": _lines, "weave": _weave, "triangles": _triangles,
    "cells": _cells, "tartan": _tartan, "marble": _marble, "rings": _rings,
}  # fmt: skip


@lru_cache(maxsize=512)
def field(family: str, variant: int) -> Image:
    """Return one grey texture of a family, (TILE, TILE) uint8 in 0..255; the same for ever for the same arguments."""
    rng = np.random.default_rng([crc32(family.encode()), variant])
    return (np.clip(_FIELDS[family](rng), 0, 1) * 255).astype(np.uint8)


def colourise(grey: Image, stops: npt.NDArray[np.float64]) -> Image:
    """Map grey levels through a palette.

    Args:
        grey: (H, W) uint8.
        stops: (S, 3) RGB in 0..255, spread evenly over the grey levels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    levels = np.linspace(0, 255, len(stops))
    table = np.stack([np.interp(np.arange(256), levels, stops[:, c]) for c in range(3)], axis=1)
    return table.astype(np.uint8)[grey]


def _regular(count: int, turn: float = -90.0, inner: float | None = None) -> npt.NDArray[np.float64]:
    """Corners of a regular polygon of radius 1; a star when ``inner`` gives the radius of its notches."""
    corners = count if inner is None else 2 * count
    angles = np.radians(turn + np.arange(corners) * 360 / corners)
    radius = np.ones(corners) if inner is None else np.where(np.arange(corners) % 2, inner, 1.0)
    return np.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None])


def _heart() -> npt.NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1) / 17.0


_OUTLINES: dict[str, npt.NDArray[np.float64]] = {
    "disc": _regular(40),
    "square": _regular(4, 45.0),
    "triangle": _regular(3),
    "pentagon": _regular(5),
    "ellipse": _regular(40) * (1.0, 0.6),
    "box": np.array([(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)]),
    "plus": np.array([(-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35),
                      (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35)]),
    "kite": np.array([(0, -1), (0.7, -0.2), (0, 1), (-0.7, -0.2)]),
    "trapezoid": np.array([(-0.5, -0.7), (0.5, -0.7), (1, 0.7), (-1, 0.7)]),
    "half_disc": _regular(40)[10:31] - (0.0, 0.45),
    "star": _regular(5, inner=0.5),
    "heart": _heart(),
    "ell": np.array([(-0.7, -1), (0.0, -1), (0.0, 0.3), (0.8, 0.3), (0.8, 1), (-0.7, 1)]),
    "tee": np.array([(-1, -0.9), (1, -0.9), (1, -0.2), (0.35, -0.2), (0.35, 1), (-0.35, 1), (-0.35, -0.2), (-1, -0.2)]),
    "post": np.array([(-0.16, -1), (0.16, -1), (0.16, 1), (-0.16, 1)]),
}  # fmt: skip


def outline(shape: str) -> npt.NDArray[np.float64]:
    """Return the corners of a shape, (P, 2) as x, y in [-1, 1], y downwards."""
    return _OUTLINES[shape]
