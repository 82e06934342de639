"""Bring decoded frames to the size and range of a model, in numpy and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import ClipSpec, Frames


def resize_frames(frames: Frames, height: int, width: int) -> Frames:
    """Return frames of another size; the aspect ratio is not kept.

    Shrinking averages over areas, so that nothing flickers between frames; enlarging interpolates linearly.

    Args:
        frames: (T, H, W, 3) uint8.
        height, width: size to come.

    Returns:
        (T, height, width, 3) uint8; the same array when nothing changes.
    """
    if frames.shape[1:3] == (height, width):
        return frames
    shrink = height * width < frames.shape[1] * frames.shape[2]
    method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    resized = [cv2.resize(frame, (width, height), interpolation=method) for frame in frames]
    return np.stack(resized).astype(np.uint8, copy=False)


def prepare(frames: Frames, spec: ClipSpec) -> npt.NDArray[np.float32]:
    """Return the tensor that a model takes.

    Args:
        frames: (T, H, W, 3) uint8 RGB with T equal to ``spec.frames``.
        spec: the model's clip spec.

    Returns:
        (1, 3, T, height, width) float32, ``(value * scale - mean) / std`` for each channel.

    Raises:
        ValueError: wrong number of frames, shape or type.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[0] != spec.frames:
        raise ValueError(f"expected uint8 ({spec.frames}, H, W, 3), got {frames.dtype} {frames.shape}")
    values = resize_frames(frames, spec.height, spec.width).astype(np.float32)
    values *= np.float32(spec.scale)
    values -= np.asarray(spec.mean, dtype=np.float32)
    values /= np.asarray(spec.std, dtype=np.float32)
    return np.ascontiguousarray(values.transpose(3, 0, 1, 2)[None])
