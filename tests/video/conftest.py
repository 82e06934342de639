"""Clips made on the fly: frame k of a clip carries its number as brightness, so order and indices are checked by value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

Frames = npt.NDArray[np.uint8]
Make = Callable[..., Path]

DARKEST, STEP = 20, 6


def numbered(count: int, height: int = 48, width: int = 64) -> Frames:
    """Grey frames; frame k has the value 20 + 6 k, at most 40 of them."""
    values = (DARKEST + STEP * np.arange(count)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, height, width, 3)).copy()


def numbers(frames: Frames) -> list[int]:
    """The numbers that decoded frames carry."""
    return [round((float(frame.mean()) - DARKEST) / STEP) for frame in frames]


def write_clip(
    path: Path,
    frames: Sequence[Frames] | Frames,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = 10,
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    **context: Any,
) -> Path:
    """Encode frames with PyAV, container by the suffix of the path."""
    base = Fraction(1, 1000) if times_ms else Fraction(1, rate)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = base
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for number, array in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = times_ms[number] if times_ms else number, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a numbered clip: ``make("a.mp4", count=20, height=48, width=64, codec=...)``."""

    def build(name: str, count: int = 20, height: int = 48, width: int = 64, **how: Any) -> Path:
        return write_clip(tmp_path / name, numbered(count, height, width), **how)

    return build


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """60 frames of noise, 128 x 96, a key frame every 10, index first; no arithmetic coding, which swallows damage silently."""
    frames = [np.random.default_rng(k).integers(0, 255, (96, 128, 3)).astype(np.uint8) for k in range(60)]
    plain = write_clip(tmp_path / "plain.mp4", frames, options={"bf": "0", "coder": "vlc", "sc_threshold": "0"}, gop_size=10)
    return remux(plain, tmp_path / "noisy.mp4", movflags="faststart")


def remux(source: Path, target: Path, skip: int = 0, **options: str) -> Path:
    """Copy the packets of a video into another container, without the first ``skip``."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(old.streams.video[0]) if packet.size]
        for packet in packets[skip:]:
            packet.stream = stream
            new.mux(packet)
    return target


def grow_box(data: bytearray, path: Sequence[bytes], extra: bytes) -> None:
    """Append bytes to the end of the box at ``path`` (from the top level) and lengthen all boxes around it."""
    start, end, places = 0, len(data), []
    for kind in path:
        while data[start + 4 : start + 8] != kind:
            start += int.from_bytes(data[start : start + 4], "big")
            assert start < end, f"no box {kind!r}"
        places.append(start)
        end = start + int.from_bytes(data[start : start + 4], "big")
        start += 8 + (8 if kind in (b"dref", b"stsd") else 0)
    for place in places:
        size = int.from_bytes(data[place : place + 4], "big") + len(extra)
        data[place : place + 4] = size.to_bytes(4, "big")
    data[end:end] = extra
