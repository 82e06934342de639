"""The golden clip: frames that every machine makes alike, so that a model can be asked whether it still answers as it did when exported.

Only integer arithmetic goes into it: no rounding, no random generator and no library version can change a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from chronolens.clips import ClipSpec, Frames
from chronolens.errors import WeightsError

LIMIT = 1e-3
"""Largest difference of a score that kernels, thread counts and devices explain in float32."""


def golden_frames(spec: ClipSpec, seed: int = 0) -> Frames:
    """Return a clip in which a bright block crosses a drifting, chequered ground and a dark one falls.

    Args:
        spec: the model's clip spec; only frames, height and width count.
        seed: another seed makes another texture, other colours and other directions.

    Returns:
        (T, height, width, 3) uint8, of the size that the model takes.
    """
    number = _numbers(seed)
    step, row, column = np.ogrid[: spec.frames, : spec.height, : spec.width]
    texture, drift = _texture(spec, next(number)), next(number) % 5 - 2
    across, down = (_way(step, spec.frames, size, next(number)) for size in (spec.width, spec.height))
    height, width = max(1, spec.height // 4), max(1, spec.width // 4)
    top, left = next(number) % max(1, spec.height - height), next(number) % max(1, spec.width - width)
    crossing = (row >= top) & (row < top + height) & (column >= across) & (column < across + width)
    falling = (column >= left) & (column < left + width) & (row >= down) & (row < down + height)
    frames: Frames = np.empty((spec.frames, spec.height, spec.width, 3), np.uint8)
    for channel in range(3):
        wave = np.abs((column * (channel + 1) + row * 2 + step * drift) % 64 - 32)
        ground = np.where(falling, 10 + 5 * channel, 60 + 15 * channel + wave + texture)
        frames[..., channel] = np.where(crossing, 180 + next(number) % 70, ground)
    return frames


def check_golden(found: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    """Compare the scores of the golden clip with those that were recorded.

    Args:
        found: (K,) softmax probabilities, of the model as it answers now.
        expected: (K,) of the network when the artefact was made.

    Raises:
        WeightsError: code ``golden-clip``: another number of classes, or a score that is off by more than ``LIMIT`` or not a number.
    """
    now, then = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if now.shape != then.shape:
        raise WeightsError(f"the model returns scores of shape {now.shape}, not {then.shape}, for the golden clip", code="golden-clip")
    worst = float(np.abs(now - then).max(initial=0.0))
    if not worst <= LIMIT:
        detail = f"the model does not answer as recorded: a score of the golden clip is off by {worst:.2g}"
        raise WeightsError(detail, code="golden-clip", limit=LIMIT, observed=worst if np.isfinite(worst) else None)


def _numbers(seed: int) -> Iterator[int]:
    """Yield numbers in [0, 2^31) that depend on the seed alone (Knuth's linear congruential generator)."""
    state = seed
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def _texture(spec: ClipSpec, salt: int) -> npt.NDArray[np.int64]:
    """Return a pattern (1, H, W) of blocks of some pixels with values in [0, 64)."""
    block = max(1, spec.width // 14)
    rows, columns = np.ogrid[: spec.height, : spec.width]
    mixed: npt.NDArray[np.int64] = (rows // block * 73856093) ^ (columns // block * 19349663) ^ salt
    return (mixed ^ (mixed >> 7))[None] % 64


def _way(step: npt.NDArray[np.int64], frames: int, size: int, number: int) -> npt.NDArray[np.int64]:
    """Return where a block begins at each step (T, 1, 1): it crosses in the middle half of the clip and rests before and after."""
    moved = np.clip(4 * step - frames, 0, 2 * frames)
    moved = 2 * frames - moved if number % 2 else moved
    way: npt.NDArray[np.int64] = moved * (size - size // 4) // (2 * frames)
    return way
