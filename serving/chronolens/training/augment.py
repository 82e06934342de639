"""Random changes to training clips that keep direction in space and time: no flips, no reversal.

The same change applies to all frames of a clip, except noise.
"""

from __future__ import annotations

import cv2
import numpy as np

from chronolens.clips import Frames


def resize(frames: Frames, height: int, width: int) -> Frames:
    """Scale a clip (T, H, W, 3) uint8 without keeping the aspect ratio; area averaging when shrinking."""
    if frames.shape[1:3] == (height, width):
        return frames
    rule = cv2.INTER_AREA if height < frames.shape[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(frame, (width, height), interpolation=rule) for frame in frames]).astype(np.uint8)


def augment(frames: Frames, height: int, width: int, rng: np.random.Generator) -> Frames:
    """Return a changed copy of a clip at the size asked for.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        height, width: size of the result.
        rng: the only source of chance.

    Returns:
        (T, height, width, 3) uint8 RGB.
    """
    top, left, rows, columns = draw_window(frames.shape[1], frames.shape[2], rng)
    clip = resize(frames[:, top : top + rows, left : left + columns], height, width)
    if rng.random() < 0.2:
        clip = _soften(clip, rng)
    return _colour(clip, rng)


def draw_window(rows: int, columns: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return a window of 82 to 100 % a side as (top, left, rows, columns); the first thing that :func:`augment` draws."""
    tall, wide = round(rows * rng.uniform(0.82, 1)), round(columns * rng.uniform(0.82, 1))
    return int(rng.integers(rows - tall + 1)), int(rng.integers(columns - wide + 1)), tall, wide


def _soften(clip: Frames, rng: np.random.Generator) -> Frames:
    """Blur or JPEG artefacts, as in films from small cameras."""
    if rng.random() < 0.5:
        sigma = float(rng.uniform(0.3, 1.0))
        return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip]).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))]
    packed = [cv2.imencode(".jpg", frame, quality)[1] for frame in clip]
    return np.stack([np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8) for data in packed])


def _colour(clip: Frames, rng: np.random.Generator) -> Frames:
    """Order of channels, brightness, contrast, colour cast, loss of colour, noise."""
    if rng.random() < 0.3:
        clip = clip[..., rng.permutation(3)]
    levels = np.arange(256, dtype=np.float32)
    bend = rng.uniform(0.8, 1.25)
    gains = rng.uniform(0.75, 1.2) * rng.uniform(0.9, 1.1, 3)
    shift = rng.uniform(-25, 25)
    table = (255 * (levels / 255) ** bend)[:, None] * gains[None] + shift
    table = np.clip(table, 0, 255).astype(np.uint8)
    clip = np.stack([table[:, channel][clip[..., channel]] for channel in range(3)], axis=-1)
    if rng.random() < 0.15:
        clip = np.repeat(clip.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    if rng.random() < 0.3:
        noise = rng.integers(-8, 9, clip.shape, dtype=np.int16)
        clip = np.clip(clip + noise, 0, 255).astype(np.uint8)
    return clip
