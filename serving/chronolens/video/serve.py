"""What the sandbox process does with the file: decode it, convert the wanted frames, tell the facts."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import av
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from chronolens.video import boxes, channel
from chronolens.video.channel import Sender
from chronolens.video.limits import DecodeLimits
from chronolens.video.source import Pass, RefusedError, Source

_UNTAGGED = 2  # AVCOL_SPC_UNSPECIFIED


def serve(fd: int, demuxer: str, limits: DecodeLimits, out: Sender) -> None:
    """Answer with the wanted frames of the clip, or with the reason why there are none.

    Args:
        fd: descriptor of the clip.
        demuxer: ``mov``, ``matroska`` or ``avi``.
        limits: what is accepted.
        out: where the answer goes; the wishes come on stdin.
    """
    av.logging.set_level(None)
    try:
        _decode(fd, demuxer, limits, out)
    except RefusedError as refused:
        out.send_json(channel.FAILED, {"code": refused.code, "limit": refused.limit, "observed": refused.observed})
    except (av.error.FFmpegError, ArithmeticError):  # arithmetic: a time base of 1/0
        out.send_json(channel.FAILED, {"code": "undecodable", "limit": None, "observed": None})


def _decode(fd: int, demuxer: str, limits: DecodeLimits, out: Sender) -> None:
    """Scan, ask which frames are wanted, decode; once more where the decoder disagrees with the packets."""
    with open(fd, "rb", buffering=0) as file:
        problem = boxes.inspect(file, os.fstat(fd).st_size, limits.max_side_px) if demuxer == "mov" else None
        if problem:
            raise RefusedError(problem, limit=limits.max_side_px if problem == "too-many-pixels" else None)
        source = Source(file, demuxer, limits)
        scan = source.scan()
        painter = _Painter(source, limits, out)
        painter.want(scan.times, list(range(len(scan.times))))
        result = source.decode(scan, painter.take)
        if result.times != scan.times:
            ranks = _ranks(result.times)
            painter.want(sorted(result.times), ranks)
            again = source.decode(scan, painter.take)
            if again.times != result.times:
                raise RefusedError("undecodable")
        out.send_json(channel.DONE, _facts(source, result, scan.missing, painter))


class _Painter:
    """Turns the wanted frames to RGB and sends them; one converted frame is in memory at a time."""

    def __init__(self, source: Source, limits: DecodeLimits, out: Sender) -> None:
        self._reformatter, self._out, self._rows = VideoReformatter(), out, limits.max_rows
        self._ranks: list[int] = []
        self._wanted: set[int] = set()
        self._size: tuple[int, int] | None = None
        self.matrix: list[int] | None = None
        # Untagged video: players take BT.709 for high definition and BT.601 below; swscale alone would always take BT.601.
        self._high_definition = source.height >= 720 or source.width >= 1280
        self._rate = float(source.rate)

    def want(self, times: list[float], ranks: list[int]) -> None:
        """Tell the parent what there is and learn which frames it wants; ``ranks``: place in time of each decoded frame."""
        self._out.send_json(channel.PLAN, {"times": times, "rate": self._rate})
        self._wanted, self._ranks = set(json.loads(sys.stdin.buffer.readline())["wanted"]), ranks

    def take(self, number: int, frame: VideoFrame) -> None:
        """Send the frame if it is wanted."""
        width, height = self._size or self._settle(frame)
        rank = self._ranks[number] if number < len(self._ranks) else -1
        if rank not in self._wanted:
            return
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=Colorspace.ITU709 if frame.colorspace == _UNTAGGED and self._high_definition else None,
            interpolation=Interpolation.BILINEAR if (frame.width, frame.height) == (width, height) else Interpolation.AREA,
            threads=1,
        )
        self._out.send(channel.FRAME, channel.RANK.pack(rank), _rows(rgb))

    def _settle(self, frame: VideoFrame) -> tuple[int, int]:
        """Fix the size from the first frame: at most so many rows once it stands upright."""
        self.matrix = _display_matrix(frame)
        upright = self.matrix is None or self.matrix[0] != 0
        rows = frame.height if upright else frame.width
        factor = min(1.0, self._rows / rows)
        self._size = max(1, round(frame.width * factor)), max(1, round(frame.height * factor))
        self._out.send_json(channel.SIZE, {"width": self._size[0], "height": self._size[1]})
        return self._size


def _rows(frame: VideoFrame) -> bytes | memoryview:
    """The pixels without the padding at the end of each row."""
    plane, length = frame.planes[0], frame.width * 3
    view = memoryview(plane)
    if plane.line_size == length:
        return view[: length * frame.height]
    return b"".join(view[row * plane.line_size : row * plane.line_size + length] for row in range(frame.height))


def _ranks(times: list[float]) -> list[int]:
    """Place of each decoded frame in presentation order; equal times keep the decoder's order."""
    ranks = [0] * len(times)
    for rank, number in enumerate(sorted(range(len(times)), key=lambda k: times[k])):
        ranks[number] = rank
    return ranks


def _display_matrix(frame: VideoFrame) -> list[int] | None:
    """Signs of the 2 x 2 part of the display matrix, row by row; None when it is neither a quarter turn nor a mirror image."""
    side_data: Any = frame.side_data  # PyAV's types know of motion vectors only
    try:
        data = side_data["DISPLAYMATRIX"]
    except KeyError:
        return [1, 0, 0, 1]
    values = memoryview(bytes(data)).cast("i")
    signs = [(value > 0) - (value < 0) for value in (values[0], values[1], values[3], values[4])]
    whole = sum(map(abs, signs)) == 2 and abs(signs[0] * signs[3] - signs[1] * signs[2]) == 1
    return signs if whole else None


def _facts(source: Source, result: Pass, missing: int, painter: _Painter) -> dict[str, Any]:
    """The closing message; damaged frames by rank."""
    ranks = _ranks(result.times)
    notes = set(result.notes)
    notes |= {"not-square"} if not source.square else set()
    notes |= {"alpha"} if source.alpha else set()
    notes |= {"cut-short"} if source.declared_s > 1.25 * (max(result.times) - min(result.times)) + 1 else set()
    notes |= {"odd-rotation"} if painter.matrix is None else set()
    return {
        "codec": source.codec,
        "width": source.width,
        "height": source.height,
        "damaged": sorted(ranks[number] for number, hurt in enumerate(result.damaged) if hurt),
        "lost": result.lost + missing,
        "last_duration_s": result.last_duration_s,
        "matrix": painter.matrix or [1, 0, 0, 1],
        "notes": sorted(notes),
    }
