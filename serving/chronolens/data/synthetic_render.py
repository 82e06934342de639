"""Draws a synthetic scene at any size: one warp for the backdrop and one for each object in each frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import Frames
from chronolens.data.synthetic_scene import ASPECT, FPS, Scene, Surface, Thing
from chronolens.data.synthetic_textures import TILE, Image, colourise, field, outline

MARGIN = 0.7  # world units of backdrop beyond the frame on every side
Matrix = npt.NDArray[np.float64]
Blend = npt.NDArray[np.float32]


class Renderer:
    """Draws frames of one scene at one size.

    Args:
        scene: what to draw.
        height, width: of a frame in pixels; the aspect ratio of the scene is not kept.
    """

    def __init__(self, scene: Scene, height: int, width: int) -> None:
        self.scene, self.height, self.width = scene, height, width
        self.unit = (width / ASPECT, float(height))
        self._waves = np.random.default_rng([scene.seed, 1]).uniform(0, 2 * np.pi, (5, 3))

    @cached_property
    def _grain(self) -> Blend:
        noise = np.random.default_rng([self.scene.seed, 2]).standard_normal(2 * self.height * self.width * 3, dtype=np.float32)
        return np.asarray(noise * self.scene.noise, dtype=np.float32)

    @cached_property
    def _sprites(self) -> dict[int, Blend]:
        return {index: self._sprite(thing) for index, thing in enumerate(self.scene.things) if thing.role != "clutter"}

    @cached_property
    def _backdrop(self) -> Image:
        return self._paint_backdrop()

    @cached_property
    def _shade(self) -> Blend:
        return self._paint_shade()

    def frames(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Frames:
        """Return the frames with these numbers, (len(indices), H, W, 3) uint8 RGB."""
        return np.stack([self._frame(int(index)) for index in indices])

    def boxes(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return where the objects are.

        Returns:
            (objects, frames, 4): x0, y0, x1, y1 as fractions of the frame, cut at its border; all zeros when the object is outside.
        """
        listed = [thing for thing in self.scene.things if thing.role in ("moving", "still")]
        found = np.zeros((len(listed), len(indices), 4))
        for column, index in enumerate(indices):
            view = self._view(int(index))
            for row, thing in enumerate(listed):
                corners = outline(thing.shape) @ (matrix := view @ self._placement(thing, int(index)))[:2, :2].T + matrix[:2, 2]
                low = np.clip(corners.min(0) / (self.width, self.height), 0, 1)
                high = np.clip(corners.max(0) / (self.width, self.height), 0, 1)
                if (high > low).all():
                    found[row, column] = (*low, *high)
        return found

    def _sway(self, index: int, line: int, size: float) -> float:
        """A slow irregular movement, a sum of three sines, about ``size`` in amplitude."""
        time = index / FPS
        return float(size * np.sin(2 * np.pi * np.array((0.7, 1.9, 3.1)) * time + self._waves[line]).sum() / 1.7)

    def _view(self, index: int) -> Matrix:
        """3 x 3 matrix from world units to pixels for a frame."""
        scene = self.scene
        progress = float(scene.progress(np.array([index / FPS]))[0])
        (x0, y0, z0), (x1, y1, z1) = scene.camera
        zoom = float(z0 * (z1 / z0) ** progress)
        x = x0 + (x1 - x0) * progress + self._sway(index, 0, scene.shake)
        y = y0 + (y1 - y0) * progress + self._sway(index, 1, scene.shake)
        roll = self._sway(index, 2, scene.shake)  # radians
        scale = np.diag([self.unit[0], self.unit[1], 1.0])
        turn = zoom * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        inner = np.eye(3)
        inner[:2, :2] = turn
        inner[:2, 2] = np.array([ASPECT / 2, 0.5]) - turn @ np.array([x, y])
        return scale @ inner

    def _placement(self, thing: Thing, index: int) -> Matrix:
        """3 x 3 matrix from the object's own square [-1, 1] to world units."""
        progress = self.scene.progress(np.array([index / FPS]))
        x, y = (float(value[0]) for value in thing.position(progress))
        x += self._sway(index, 3, thing.tremble)
        y += self._sway(index, 4, thing.tremble)
        angle = np.radians(thing.turn + thing.spin * float(progress[0]))
        cos, sin = np.cos(angle) * thing.radius, np.sin(angle) * thing.radius
        return np.array([[cos, -sin, x], [sin, cos, y], [0.0, 0.0, 1.0]])

    def _texture(self, surface: Surface, height: int, width: int, unit: tuple[float, float]) -> Image:
        """A patch of texture, (height, width, 3), ``unit`` pixels per world unit."""
        turn, scale = np.radians(surface.turn), surface.scale
        matrix = np.array([
            [np.cos(turn) * scale / unit[0], -np.sin(turn) * scale / unit[1], 0.0],
            [np.sin(turn) * scale / unit[0], np.cos(turn) * scale / unit[1], 0.0],
        ])  # fmt: skip
        step = scale / max(unit)
        tile = field(surface.family, surface.variant)
        if step > 1.3:  # shrink first, or thin lines flicker
            small = cv2.resize(tile, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
            matrix *= small.shape[0] / TILE
            tile = np.asarray(small, dtype=np.uint8)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        grey = cv2.warpAffine(tile, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)
        return colourise(np.asarray(grey, dtype=np.uint8), np.array(surface.stops))

    def _sprite(self, thing: Thing) -> Blend:
        """Premultiplied RGBA of an object, (S, S, 4) float32, RGB in 0..255 and A in [0, 1]; its square is [-1, 1]."""
        zoom = max(end[2] for end in self.scene.camera)
        size = int(np.clip(2.4 * thing.radius * max(self.unit) * zoom, 12, 256))
        unit = size / (2 * thing.radius)
        colour = self._texture(thing.surface, size, size, (unit, unit)).astype(np.float32)
        corners = ((outline(thing.shape) * 0.96 + 1) * size / 2 * 16).astype(np.int32)
        mask = np.zeros((size, size), np.uint8)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, 4)
        rim = np.zeros((size, size), np.uint8)
        cv2.polylines(rim, [corners], True, 255, max(1, size // 16), cv2.LINE_AA, 4)
        edge = (rim / np.float32(255) * 0.7)[..., None]
        colour = np.asarray(colour * (1 - edge) + edge * (255.0 if colour.mean() > 127 else 0.0), dtype=np.float32)
        alpha = (mask / np.float32(255))[..., None]
        return np.concatenate([colour * alpha, alpha], axis=2).astype(np.float32)

    def _paste(self, canvas: Blend, sprite: Blend, matrix: Matrix, strength: float = 1.0) -> None:
        """Blend a sprite into a float32 RGB canvas; ``matrix`` takes its square [-1, 1] to pixels of the canvas."""
        reach = np.abs(matrix[:2, :2]).sum(axis=1) + 1
        low = np.maximum(np.floor(matrix[:2, 2] - reach), 0).astype(int)
        high = np.minimum(np.ceil(matrix[:2, 2] + reach), (canvas.shape[1], canvas.shape[0])).astype(int)
        width, height = (high - low).tolist()
        if width <= 0 or height <= 0:
            return
        size = sprite.shape[0]
        to_square = np.array([[2 / size, 0, -1 + 1 / size], [0, 2 / size, -1 + 1 / size], [0, 0, 1]])
        placed = matrix @ to_square
        placed[:2, 2] -= low
        warped = cv2.warpAffine(sprite, placed[:2], (width, height), flags=cv2.INTER_LINEAR)
        region = canvas[low[1] : high[1], low[0] : high[0]]
        region *= 1 - strength * warped[..., 3:]
        region += strength * warped[..., :3]

    def _paint_backdrop(self) -> Image:
        """The still world with a margin, at the scale of the output."""
        width, height = (round(size) for size in ((ASPECT + 2 * MARGIN) * self.unit[0], (1 + 2 * MARGIN) * self.unit[1]))
        canvas = self._texture(self.scene.background, height, width, self.unit).astype(np.float32)
        place = np.array([[self.unit[0], 0, MARGIN * self.unit[0]], [0, self.unit[1], MARGIN * self.unit[1]], [0, 0, 1]])
        for thing in self.scene.things:
            if thing.role == "clutter":
                self._paste(canvas, self._sprite(thing), place @ self._placement(thing, 0), 0.75)
        return np.asarray(np.clip(canvas, 0, 255), dtype=np.uint8)

    def _paint_shade(self) -> Blend:
        """Uneven light over the frame, (H, W, 1), about 1."""
        turn = self._waves[2, 0]
        x = np.linspace(-0.5, 0.5, self.width, dtype=np.float32)[None] * np.float32(np.cos(turn))
        y = np.linspace(-0.5, 0.5, self.height, dtype=np.float32)[:, None] * np.float32(np.sin(turn))
        return (1 + np.float32(self.scene.shade) * (x + y))[..., None].astype(np.float32)

    def _frame(self, index: int) -> Frames:
        view = self._view(index)
        to_backdrop = np.array([[1 / self.unit[0], 0, -MARGIN], [0, 1 / self.unit[1], -MARGIN], [0, 0, 1]])
        size = (self.width, self.height)
        picture = cv2.warpAffine(self._backdrop, (view @ to_backdrop)[:2], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        canvas = picture.astype(np.float32)
        for number, sprite in self._sprites.items():
            self._paste(canvas, sprite, view @ self._placement(self.scene.things[number], index))
        canvas *= self._shade * np.float32(1 + self._sway(index, 4, self.scene.light) * 0.6)
        values = canvas.size
        offset = int(np.random.default_rng([self.scene.seed, 3, index]).integers(values))
        canvas += self._grain[offset : offset + values].reshape(canvas.shape)
        return np.asarray(np.clip(canvas, 0, 255), dtype=np.uint8)
