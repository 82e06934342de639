"""Write frames as an H.264 file that every browser plays, each frame shown at its own time.

The file is fast-start MP4, yuv420p, BT.709 limited range and tagged so, without B-frames, without any metadata
(no encoder name, no date), and the same input gives the same bytes on the same library build.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

TICKS_PER_SECOND = 90_000
"""Time base of the file; exact for 24, 25, 30 and 60 frames a second, and 11 microseconds at most off elsewhere."""

_LEAST_STEP = TICKS_PER_SECOND // 1000  # frames that repeat get a millisecond each, so that time still moves forwards
_ONE_FRAME = TICKS_PER_SECOND // 25  # a single frame has no neighbour to take its duration from
_BT709 = 1  # the number of BT.709 among primaries, transfer and matrix alike (ITU-T H.273)
_SEI = 6  # NAL unit type where x264 writes its version and settings


def write_h264(
    path: Path,
    frames: Iterable[npt.NDArray[np.uint8]],
    timestamps_s: Sequence[float] | npt.NDArray[np.float64],
    *,
    crf: int = 18,
    preset: str = "veryfast",
) -> None:
    """Encode frames to an MP4 file with a variable frame rate.

    The first frame is shown at 0, the others at their distance from it, the last one as long as the one before it: 16 frames from
    the middles of 16 equal parts of 4 s play for 4 s. H.264 with 4:2:0 colour needs even sizes, so the last column or row of an
    odd frame is repeated once.

    Args:
        path: file to write; an existing one is replaced.
        frames: (H, W, 3) uint8 RGB each, all of one size, H and W at least 2; may be a generator.
        timestamps_s: one time in seconds for each frame. A time that does not pass the one before (a repeated frame)
            becomes 1 ms later than that one.
        crf: constant rate factor of x264, 0 (lossless) to 51.
        preset: speed preset of x264.

    Raises:
        ValueError: no frames, frames and times differ in number, sizes differ, or a time is not finite.
    """
    source = iter(frames)
    first = next(source, None)
    if first is None:
        raise ValueError("no frames to encode")
    ticks = to_ticks(timestamps_s)
    durations = _durations(ticks)
    with av.open(str(path), "w", format="mp4", container_options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", options={"crf": str(crf), "preset": preset})
        if not isinstance(stream, VideoStream):
            raise TypeError("libx264 gave a stream that is no video")
        _configure(stream.codec_context, *_even_size(first))
        cleaner = BitStreamFilterContext(f"filter_units=remove_types={_SEI}", stream)
        sized = _padded(itertools.chain([first], source), first.shape)
        for packet in _encode(stream.codec_context, sized, ticks):
            packet.duration = durations[packet.pts or 0]
            packet.stream = stream
            container.mux(cleaner.filter(packet))
        container.mux(cleaner.filter(None))


def to_ticks(timestamps_s: Sequence[float] | npt.NDArray[np.float64]) -> list[int]:
    """Return times as whole ticks of 1/90000 s from 0, strictly increasing.

    Raises:
        ValueError: a time is not finite.
    """
    times = np.asarray(timestamps_s, dtype=np.float64)
    if times.ndim != 1 or len(times) == 0 or not np.isfinite(times).all():
        raise ValueError("timestamps must be a row of finite numbers")
    ticks: list[int] = []
    for time in times:
        tick = round(float(time - times[0]) * TICKS_PER_SECOND)
        ticks.append(max(tick, ticks[-1] + _LEAST_STEP) if ticks else 0)
    return ticks


def _durations(ticks: list[int]) -> dict[int, int]:
    """How long each frame stays, keyed by its time; the last one as long as the last one that was no repetition."""
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    real = [step for step in steps if step > _LEAST_STEP]
    return dict(zip(ticks, [*steps, real[-1] if real else _ONE_FRAME], strict=True))


def _even_size(frame: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Height and width rounded up to even numbers."""
    if frame.ndim != 3 or frame.shape[2] != 3 or min(frame.shape[:2]) < 2:
        raise ValueError(f"a frame must be (H, W, 3) with H and W at least 2, got {frame.shape}")
    return frame.shape[0] + frame.shape[0] % 2, frame.shape[1] + frame.shape[1] % 2


def _configure(context: VideoCodecContext, height: int, width: int) -> None:
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = Fraction(1, TICKS_PER_SECOND)
    context.framerate = Fraction(25)  # only a hint for x264's rate control; the real times are those of the packets
    context.max_b_frames = 0  # then packets leave in the order of the frames and need no edit list
    context.gop_size = 12
    context.thread_count = 1  # the number of threads changes the bytes
    context.color_primaries = context.color_trc = context.colorspace = _BT709
    context.color_range = ColorRange.MPEG


def _padded(frames: Iterable[npt.NDArray[np.uint8]], shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.uint8]]:
    """Repeat the last row or column of odd frames; refuse a frame of another size."""
    pad = ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0))
    for frame in frames:
        if frame.shape != shape or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 frames of {shape}, got {frame.dtype} {frame.shape}")
        yield np.ascontiguousarray(np.pad(frame, pad, mode="edge"))


def _encode(context: VideoCodecContext, frames: Iterable[npt.NDArray[np.uint8]], ticks: list[int]) -> Iterator[Packet[VideoStream]]:
    """Convert to BT.709 limited range and encode; the stream's packets in order."""
    reformatter = VideoReformatter()
    times = iter(ticks)
    for array in frames:
        tick = next(times, None)
        if tick is None:
            raise ValueError("more frames than timestamps")
        frame = reformatter.reformat(
            VideoFrame.from_ndarray(array, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        frame.pts, frame.time_base = tick, Fraction(1, TICKS_PER_SECOND)
        yield from context.encode(frame)
    if next(times, None) is not None:
        raise ValueError("fewer frames than timestamps")
    yield from context.encode(None)
