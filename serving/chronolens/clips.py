"""What a clip is before and after it is prepared for a model.

Axis words used everywhere: N clips, C channels (RGB order), T frames, H rows, W columns.
A *decoded* clip is uint8 (T, H, W, C); a *prepared* clip is float32 (N, C, T, H, W).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClipSpec:
    """The input that a model was trained on.

    Args:
        frames: number of frames T that the model takes.
        height, width: size of a frame in pixels; the aspect ratio of the source is not kept.
        sampling: name of the rule that picks the frames, see :func:`sample_indices`.
        scale: factor applied to values in 0..255 before ``mean`` and ``std``.
        mean, std: per RGB channel, after scaling; the network sees ``(value * scale - mean) / std``.
    """

    frames: int
    height: int
    width: int
    sampling: str = "centre"
    scale: float = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class CellGrid:
    """Where the cells of a layer's map lie on the prepared clip.

    Along each axis (T, H, W) the receptive field of cell ``i`` is centred at ``first + i * stride``, in frames and pixels of the model's
    input, where pixel 0 reaches from 0 to 1. Asymmetric padding moves ``first`` away from ``stride / 2``.
    """

    stride: tuple[float, float, float]
    first: tuple[float, float, float]


@dataclass(frozen=True)
class ClipInfo:
    """Facts about the source file; counts are those of the decoded truth, not of the header.

    ``start_s`` is the time of the first frame on the container's clock, ``duration_s`` reaches from there to the end of the last frame.
    """

    sha256: str
    container: str
    codec: str
    width: int
    height: int
    fps: float
    frames: int
    duration_s: float
    start_s: float = 0.0


@dataclass(frozen=True)
class DecodedClip:
    """The sampled frames of one clip.

    Args:
        frames: (T, H, W, 3) uint8 RGB at source size (at most 720 rows), in presentation order.
        indices: (T,) int64 frame numbers in the source, counted from 0 in presentation order; repeated when the source is short.
        timestamps_s: (T,) float64 presentation times in seconds from the container.
        info: facts about the source.
        warnings: sentences for the user, such as repeated frames.
    """

    frames: Frames
    indices: npt.NDArray[np.int64]
    timestamps_s: npt.NDArray[np.float64]
    info: ClipInfo
    warnings: list[str] = field(default_factory=list)


def sample_indices(total: int, frames: int, rule: str = "centre") -> npt.NDArray[np.int64]:
    """Return which frames of the source a model sees.

    Args:
        total: number of frames in the source, at least 1.
        frames: number of frames T to pick.
        rule: ``centre`` takes the middle of T equal parts, ``int(total / T * (i + 0.5))`` (TSM's rule for evaluation).

    Returns:
        (T,) int64, non-decreasing, in [0, total); frames repeat when ``total < frames``.

    Raises:
        ValueError: unknown rule, or a count below 1.
    """
    if total < 1 or frames < 1:
        raise ValueError(f"cannot sample {frames} frames out of {total}")
    if rule != "centre":
        raise ValueError(f"unknown sampling rule {rule!r}, known: centre")
    picked: npt.NDArray[np.int64] = np.floor(total / frames * (np.arange(frames) + 0.5)).astype(np.int64)
    return picked
