"""Which frames of a source a model sees: one named rule for each way in which models are evaluated.

Where an upstream averages several clips of a video, the one in the middle is taken. docs/preparation.md tells who uses which rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
NOMINAL_FPS = 30.0
"""Frames a second in which PySlowFast and PyTorchVideo count intervals (``DATA.TARGET_FPS``)."""


def sample_indices(total: int, frames: int, rule: str = "centre", interval: int = 1, *, fps: float = NOMINAL_FPS) -> Indices:
    """Return which frames of the source a model sees.

    Args:
        total: number of frames N in the source, at least 1.
        frames: number of frames F to pick, at least 1.
        rule: a name in :data:`WHOLE`, which spread over the whole source, or in :data:`DENSE`, which take a clip out of its middle.
        interval: from one sampled frame to the next, for dense rules; 1 for all others. Counted in frames of the source, by
            ``pyslowfast`` and ``pytorchvideo`` in thirtieths of a second.
        fps: frames a second of the source; only ``pyslowfast`` and ``pytorchvideo`` need it.

    Returns:
        (F,) int64 in [0, total), non-decreasing for all rules but ``mmaction2``; frames repeat when the source is short.

    Raises:
        ValueError: unknown rule, a count or a rate that is not positive, or an interval that the rule would ignore.
    """
    check_rule(rule, interval)
    if total < 1 or frames < 1 or not 0 < fps < math.inf:
        raise ValueError(f"cannot sample {frames} frames out of {total} at {fps} frames a second")
    if rule in WHOLE:
        return WHOLE[rule](total, frames)
    return DENSE[rule](total, frames, interval, fps)


def check_rule(rule: str, interval: int) -> None:
    """Refuse a rule that does not exist, or an interval that it would ignore.

    Raises:
        ValueError: see above.
    """
    if rule not in WHOLE and rule not in DENSE:
        raise ValueError(f"unknown sampling rule {rule!r}, known: {', '.join((*WHOLE, *DENSE))}")
    if interval < 1 or (interval > 1 and rule in WHOLE):
        raise ValueError(f"the sampling rule {rule!r} takes no interval of {interval}")


def span(frames: int, rule: str, interval: int) -> int:
    """Return how many frames a source needs, at 30 a second, for a rule to pick ``frames`` different ones."""
    return frames if rule in WHOLE else (frames - 1) * interval + 1


def _centre(total: int, frames: int) -> Indices:
    """Take the middles of F equal parts, ``floor(N / F * (i + 0.5))``.

    Source: mit-han-lab/temporal-shift-module, ops/dataset.py, ``_get_test_indices``; MMAction2's ``SampleFrames`` with clips of one frame.
    """
    picked: Indices = np.floor(total / frames * (np.arange(frames) + 0.5)).astype(np.int64)
    return picked


def _linspace(total: int, frames: int) -> Indices:
    """Go from the first frame to the last in equal steps, truncated.

    Source: facebookresearch/pytorchvideo, transforms/functional.py, ``uniform_temporal_subsample``.
    """
    return _steps(0, total - 1, frames, total)


def _ssv2(total: int, frames: int) -> Indices:
    """Take the middles of F parts between rounded borders, ``(round(s i) + round(s (i + 1))) // 2``, ``s = (N - 1) / F``, halves to even.

    Source: facebookresearch/SlowFast, slowfast/datasets/ssv2.py, ``get_seq_frames``.
    """
    borders = np.round((total - 1) / frames * np.arange(frames + 1)).astype(np.int64)
    return (borders[:-1] + borders[1:]) // 2


def _ffmpeg(total: int, frames: int) -> Indices:
    """Take what ``ffmpeg -r F/duration`` keeps: the last frame whose rounded time is due, ``ceil(N / F * (i + 0.5)) - 1``.

    Source: Mänttäri, Broomé et al. 2020, create_folders_and_extract_frames.py; FFmpeg's filter ``fps``, which rounds halves up.
    """
    picked: Indices = ((2 * np.arange(frames, dtype=np.int64) + 1) * total - 1) // (2 * frames)
    return picked


def _kth(total: int, frames: int) -> Indices:
    """Take ``ceil(N / F * i)``; out of at most F frames only N - 1, and the last one again up to F.

    Source: Mänttäri, Broomé et al. 2020, generate_tfrecords_kth.py, mode ``sample``, which counts one frame too few in a short source.
    """
    there = max(1, min(frames, total - 1))
    return -(-np.minimum(np.arange(frames), there - 1) * total // there)


def _pyslowfast(total: int, frames: int, interval: int, fps: float) -> Indices:
    """Take F truncated points, ends included, over ``F * interval * fps / 30`` frames in the middle; what lies behind the end is the end.

    Source: facebookresearch/SlowFast, slowfast/datasets/decoder.py, ``get_start_end_idx`` with ``use_offset`` and one clip,
    ``temporal_sampling``.
    """
    size = max(1.0, interval * frames / NOMINAL_FPS * fps)
    first = math.floor(max(total - size, 0) / 2)
    return _steps(first, first + size - 1, frames, total)


def _pytorchvideo(total: int, frames: int, interval: int, fps: float) -> Indices:
    """Apply ``linspace`` to the frames of ``F * interval / 30`` seconds in the middle.

    Source: facebookresearch/pytorchvideo, data/encoded_video_pyav.py, ``get_clip`` (the end is left out), then
    ``uniform_temporal_subsample``.
    """
    there = max(1, min(total, math.ceil(frames * interval * fps / NOMINAL_FPS)))
    return (total - there) // 2 + _linspace(there, frames)


def _mmaction2(total: int, frames: int, interval: int, _fps: float) -> Indices:
    """Take every ``interval``-th frame in the middle; behind the end the source begins anew.

    Source: open-mmlab/mmaction2 1.x, datasets/transforms/loading.py, ``SampleFrames`` in test mode, ``out_of_bound_opt='loop'``.
    """
    return _every(total, frames, interval) % total


def _mmaction2_repeat_last(total: int, frames: int, interval: int, _fps: float) -> Indices:
    """Take every ``interval``-th frame in the middle; behind the end the last one taken comes again (``'repeat_last'``)."""
    every = _every(total, frames, interval)
    picked: Indices = np.minimum(every, every[every < total].max())
    return picked


def _every(total: int, frames: int, interval: int) -> Indices:
    first = max(total - span(frames, "mmaction2", interval), 0) // 2
    picked: Indices = first + np.arange(frames, dtype=np.int64) * interval
    return picked


def _steps(first: float, last: float, frames: int, total: int) -> Indices:
    """Return F truncated points from ``first`` to ``last``, at most ``total - 1``, as ``torch.linspace`` makes them.

    It computes in float32 and from both ends to the middle, which decides where a point falls that should be a whole number.
    """
    if frames == 1:
        return np.full(1, min(int(first), total - 1), dtype=np.int64)
    low, high, count = np.float32(first), np.float32(last), np.arange(frames)
    step = (high - low) / np.float32(frames - 1)
    rising, falling = low + step * count.astype(np.float32), high - step * count[::-1].astype(np.float32)
    points = np.where(count < frames // 2, rising, falling)
    return np.clip(points, 0, total - 1).astype(np.int64)


WHOLE: dict[str, Callable[[int, int], Indices]] = {
    "centre": _centre,
    "linspace": _linspace,
    "pyslowfast-ssv2": _ssv2,
    "authors-something": _ffmpeg,
    "authors-kth": _kth,
}
"""Rules that spread over the whole source."""

DENSE: dict[str, Callable[[int, int, int, float], Indices]] = {
    "pyslowfast": _pyslowfast,
    "pytorchvideo": _pytorchvideo,
    "mmaction2": _mmaction2,
    "mmaction2-repeat-last": _mmaction2_repeat_last,
}
"""Rules that take a clip of a given density out of the middle of the source."""
