"""Bring decoded frames to the size, range and channel order of a model, in numpy and OpenCV. docs/preparation.md has the sources."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import ClipSpec, Frames
from chronolens.video.triangle import resize_triangle


def fit_frames(frames: Frames, spec: ClipSpec) -> Frames:
    """Return the part of the frames that a model sees, at its size.

    Args:
        frames: (T, H, W, 3) uint8, as decoded.
        spec: ``resize``, ``short_side``, ``interpolation``, ``height`` and ``width`` count.

    Returns:
        (T, spec.height, spec.width, 3) uint8; a view of ``frames`` when nothing is scaled.
    """
    size = rows, columns = _scaled(frames.shape[1], frames.shape[2], spec)
    top, left = _corner(rows, columns, spec)
    window = slice(top, top + spec.height), slice(left, left + spec.width)
    if frames.shape[1:3] == size:
        return frames[:, *window]
    if spec.interpolation == "pil":
        return resize_triangle(frames, size, window)
    # means over areas when shrinking, so that nothing flickers between frames
    area = spec.interpolation == "area" and rows * columns < frames.shape[1] * frames.shape[2]
    method = cv2.INTER_AREA if area else cv2.INTER_LINEAR
    fitted: Frames = np.empty((len(frames), spec.height, spec.width, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):  # one whole picture at a time: that of a long strip is large
        fitted[number] = cv2.resize(frame, (columns, rows), interpolation=method)[window]
    return fitted


def crop_window(height: int, width: int, spec: ClipSpec) -> tuple[float, float, float, float]:
    """Return which part of a picture the model sees.

    The short side is scaled to ``spec.short_side``, the long side is rounded down (``crop-mmaction2``: to the nearest pixel), and the
    middle is cut out. A left-over odd pixel goes to the even side (``crop``), to the top and left (``crop-pyslowfast``) or to the bottom
    and right (``crop-mmaction2``).

    Args:
        height, width: of the picture, in pixels.
        spec: of the model.

    Returns:
        Top, left, rows and columns in pixels of the picture; ``(0, 0, height, width)`` when frames are stretched.

    Source: torchvision ``Resize`` and ``CenterCrop`` (mit-han-lab TSM, PyTorchVideo); PySlowFast ``random_short_side_scale_jitter`` and
    ``uniform_crop``; MMCV ``rescale_size`` and MMAction2 ``CenterCrop``.
    """
    rows, columns = _scaled(height, width, spec)
    top, left = _corner(rows, columns, spec)
    return top * height / rows, left * width / columns, spec.height * height / rows, spec.width * width / columns


def _scaled(height: int, width: int, spec: ClipSpec) -> tuple[int, int]:
    """Return the size of the whole picture before the middle is cut out."""
    if spec.resize == "stretch":
        return spec.height, spec.width
    short, long = min(height, width), max(height, width)
    nearest = short // 2 if spec.resize == "crop-mmaction2" else 0
    longer = (long * spec.short_side + nearest) // short
    return (spec.short_side, longer) if height <= width else (longer, spec.short_side)


def _corner(rows: int, columns: int, spec: ClipSpec) -> tuple[int, int]:
    """Return the top and left of the part that is cut out of a scaled picture."""
    spare = rows - spec.height, columns - spec.width
    if spec.resize == "crop-pyslowfast":
        return -(-spare[0] // 2), -(-spare[1] // 2)
    if spec.resize == "crop-mmaction2":
        return spare[0] // 2, spare[1] // 2
    return round(spare[0] / 2), round(spare[1] / 2)


def prepare(frames: Frames, spec: ClipSpec) -> npt.NDArray[np.float32]:
    """Return the tensor that a model takes.

    Args:
        frames: (T, height, width, 3) uint8 RGB as ``spec`` says, see :func:`fit_frames`.
        spec: the model's clip spec.

    Returns:
        (1, 3, T, height, width) float32, ``(value * scale - mean) / std`` for each channel, channels in the order of ``spec.channels``.

    Raises:
        ValueError: wrong number of frames, shape or type.
    """
    shape = (spec.frames, spec.height, spec.width, 3)
    if frames.dtype != np.uint8 or frames.shape != shape:
        raise ValueError(f"expected uint8 {shape}, got {frames.dtype} {frames.shape}")
    values = (frames if spec.channels == "rgb" else frames[..., ::-1]).astype(np.float32)
    values *= np.float32(spec.scale)
    values -= np.asarray(spec.mean, dtype=np.float32)
    values /= np.asarray(spec.std, dtype=np.float32)
    return np.ascontiguousarray(values.transpose(3, 0, 1, 2)[None])
