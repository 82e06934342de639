"""When and where something moves in a synthetic clip, on the frames that a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chronolens.data.synthetic import SyntheticClip
from chronolens.sampling import sample_indices

Steps = npt.NDArray[np.bool_]
Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MotionTruth:
    """The truth about one clip.

    Args:
        what: ``object`` when objects move, ``camera`` when the camera does, ``none``.
        moving: (T,) whether something moved since the frame before.
        boxes: (T, B, 4) x0, y0, x1, y1 as fractions of the frame around the B objects; zeros on frames without motion and for objects
            outside.
    """

    what: str
    moving: Steps
    boxes: Boxes


def motion_truth(clip: SyntheticClip, frames: int) -> MotionTruth:
    """Return the truth about a clip sampled to ``frames`` frames."""
    record = clip.record()
    numbers = sample_indices(clip.total, frames)
    moving: Steps = np.zeros(frames, dtype=np.bool_)
    if record["motion_s"] is not None:
        moving = moving_steps((numbers / record["fps"]).tolist(), *record["motion_s"])
    boxes = np.asarray(record["boxes"], dtype=np.float64).reshape(-1, clip.total, 4)[:, numbers].transpose(1, 0, 2)
    return MotionTruth(record["moving"], moving, boxes * moving[:, None, None])


def moving_steps(times: Sequence[float], start_s: float, end_s: float) -> Steps:
    """Return which frames differ from the one before by motion: those whose step (t_{i-1}, t_i] meets the interval.

    A frozen frame shows its predecessor, so the step into it is not seen when it happens. Frame 0 has no step before it and never counts.

    Args:
        times: (T,) seconds of the sampled frames, rising.
        start_s, end_s: when the motion begins and ends.
    """
    at = np.asarray(times, dtype=np.float64)
    steps = np.zeros(len(at), dtype=np.bool_)
    steps[1:] = (at[:-1] < end_s) & (at[1:] > start_s)
    return steps


def inside_boxes(boxes: Boxes, height: int, width: int) -> Steps:
    """Return which pixels (height, width) have their middle in one of the boxes (B, 4), fractions of the frame."""
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    inside = np.zeros((height, width), dtype=np.bool_)
    for x0, y0, x1, y1 in boxes:
        inside |= ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None]
    return inside
