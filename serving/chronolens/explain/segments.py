"""A temporal mask in words: which source frames and seconds are on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from chronolens.explain.words import ON


class Segment(TypedDict):
    """A maximal run of masked frames: source frame numbers, both included, and seconds from start to end."""

    first_frame: int
    last_frame: int
    start_s: float
    end_s: float


def active(values: Sequence[float], threshold: float = ON) -> list[bool]:
    """Tell for each of the T values whether the frame is masked: strictly above the threshold."""
    return [float(value) > threshold for value in values]


def length(values: Sequence[float], threshold: float = ON) -> int:
    """Return the number of masked frames, 0 to T."""
    return sum(active(values, threshold))


def segments(
    values: Sequence[float],
    indices: Sequence[int],
    timestamps_s: Sequence[float],
    threshold: float = ON,
    *,
    until_s: float | None = None,
) -> list[Segment]:
    """Return the masked runs of a clip.

    A segment ends when the next sampled frame appears; after the last one when another frame would, judged by the mean spacing, but not
    after the end of the clip. Where a sampling rule begins the clip again (MMAction2 on short clips), a new segment begins too.

    Args:
        values: T mask values in [0, 1].
        indices: T source frame numbers of the sampled frames.
        timestamps_s: their presentation times.
        threshold: a frame is masked when its value is above.
        until_s: end of the clip on the clock of the timestamps, if known.

    Raises:
        ValueError: the three sequences differ in length.
    """
    if not len(values) == len(indices) == len(timestamps_s):
        raise ValueError(f"{len(values)} values, {len(indices)} frames and {len(timestamps_s)} timestamps do not belong together")
    on = active(values, threshold)
    ends = _ends([float(time) for time in timestamps_s], until_s)
    found: list[Segment] = []
    for step, masked in enumerate(on):
        if masked and step and on[step - 1] and indices[step] >= indices[step - 1]:
            found[-1]["last_frame"], found[-1]["end_s"] = int(indices[step]), ends[step]
        elif masked:
            first = int(indices[step])
            found.append({"first_frame": first, "last_frame": first, "start_s": float(timestamps_s[step]), "end_s": ends[step]})
    return found


def _ends(times: list[float], until_s: float | None) -> list[float]:
    """Return for each sampled frame the time at which the next different one appears."""
    if not times:
        return []
    distinct = sorted(set(times))
    spacing = (distinct[-1] - distinct[0]) / max(len(distinct) - 1, 1)
    final = distinct[-1] + spacing
    if until_s is not None:
        final = max(distinct[-1], min(final, until_s) if spacing else until_s)
    following = dict(zip(distinct, [*distinct[1:], final], strict=True))
    return [following[time] for time in times]
