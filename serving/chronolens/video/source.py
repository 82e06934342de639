"""Open, scan and decode one untrusted file with PyAV; runs inside the sandbox process only.

Two looks at the file: the packets alone tell, at little cost, how many frames there are and when; then all frames are decoded
and only the wanted ones converted. Where the decoder disagrees with the packets, the decoder is right and decodes once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO

import av
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from chronolens.video.limits import CODECS, DECODERS, DecodeLimits


class RefusedError(Exception):
    """The file is at fault.

    Args:
        code: problem code.
        limit, observed: the numbers behind it, if any.
    """

    def __init__(self, code: str, *, limit: float | None = None, observed: float | None = None) -> None:
        super().__init__(code)
        self.code, self.limit, self.observed = code, limit, observed


@dataclass
class Scan:
    """What the packets say: times of the frames (s, ascending), time stamp of the first packet, packets missing at the end."""

    times: list[float] = field(default_factory=list)
    first_pts: int | None = None
    missing: int = 0


@dataclass
class Pass:
    """What one decoding found; lists in decoder order.

    Args:
        times: seconds of each frame.
        damaged: whether each frame shows or inherits damage.
        lost: packets that gave no frame because they are broken.
        last_duration_s: how long the last frame stays, 0 if unknown.
        notes: names of things the user should know.
    """

    times: list[float] = field(default_factory=list)
    damaged: list[bool] = field(default_factory=list)
    lost: int = 0
    last_duration_s: float = 0.0
    notes: set[str] = field(default_factory=set)


class Source:
    """One file, forced demuxer, allow-listed decoder.

    Args:
        file: seekable; FFmpeg reads through it and has no protocol of its own.
        demuxer: ``mov``, ``matroska`` or ``avi``.
        limits: see :class:`~chronolens.video.limits.DecodeLimits`.
    """

    def __init__(self, file: BinaryIO, demuxer: str, limits: DecodeLimits) -> None:
        self._file, self._demuxer, self._limits = file, demuxer, limits
        with self._opened() as (container, stream):
            context = stream.codec_context
            self.codec: str = context.codec.canonical_name
            self.width, self.height = context.width, context.height
            self.rate = stream.average_rate if stream.average_rate and stream.average_rate > 0 else Fraction(25)
            ratio = stream.sample_aspect_ratio
            self.square = not ratio or abs(ratio - 1) < Fraction(1, 50)
            self.alpha = stream.metadata.get("alpha_mode") == "1"
            self.declared_s = _declared_s(container, stream)

    def scan(self) -> Scan:
        """Read all packets without decoding.

        Raises:
            RefusedError: ``too-long``, ``too-many-frames``, ``no-frames``, ``undecodable`` (does not begin with a key frame, cut off).
        """
        found, pts = Scan(), []
        with self._opened() as (container, stream):
            first, total = None, 0
            for packet in _packets(container, stream):
                total += 1
                first = first or packet
                if not packet.is_discard:
                    pts.append(_stamp(packet))
                if len(pts) > 2 * self._limits.max_frames:  # twice: VP8 and VP9 have packets that are never shown
                    raise RefusedError("too-many-frames", limit=self._limits.max_frames, observed=len(pts))
            found.missing = max(0, len(stream.index_entries) - total) if self._demuxer == "mov" else 0
            base = stream.time_base or Fraction(1, 1000)
        if first is None or not pts:
            raise RefusedError("no-frames")
        if not first.is_keyframe:
            raise RefusedError("undecodable")
        if found.missing > self._limits.max_damaged_share * (len(pts) + found.missing):
            raise RefusedError("undecodable")
        found.first_pts = _stamp(first)
        known = sorted(stamp for stamp in pts if stamp is not None)
        if len(known) == len(pts):
            found.times = [float(stamp * base) for stamp in known]
            self._check_span(found.times)
        else:
            found.times = self._even(len(pts))
        return found

    def decode(self, scan: Scan, take: Callable[[int, VideoFrame], None]) -> Pass:
        """Decode every frame; ``take`` is called with each frame's number in decoder order.

        Raises:
            RefusedError: ``too-many-frames``, ``too-long``, ``resolution-changed``, ``no-frames``, ``undecodable``.
        """
        result, keys = Pass(), set[int]()
        stamps: list[int | None] = []
        broken: list[int | None] = []
        with self._opened() as (container, stream):
            base = stream.time_base or Fraction(1, 1000)
            for frame in self._frames(container, stream, broken, result):
                if (frame.width, frame.height) != (self.width, self.height):
                    raise RefusedError("resolution-changed")
                number = len(stamps)
                if number >= self._limits.max_frames:
                    raise RefusedError("too-many-frames", limit=self._limits.max_frames, observed=number + 1)
                stamp = frame.pts if frame.pts is not None else frame.dts
                stamps.append(stamp)
                if frame.is_corrupt:
                    broken.append(stamp)
                elif frame.key_frame:
                    keys.add(number)
                if frame.duration:
                    result.last_duration_s = float(frame.duration * base)
                _note(frame, result.notes)
                take(number, frame)
        if not stamps:
            raise RefusedError("undecodable" if result.lost else "no-frames")
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) < len(stamps):
            result.notes.add("times-missing")
            result.times = self._even(len(stamps))
            result.damaged = [bool(broken)] * len(stamps)
            return result
        if scan.first_pts is not None and scan.first_pts not in known and result.lost == 0 and min(known) > scan.first_pts:
            raise RefusedError("undecodable")  # the first packet calls itself a key frame, and the decoder knew better
        result.times = [float(stamp * base) for stamp in known]
        result.damaged = _inherit(known, keys, [stamp for stamp in broken if stamp is not None])
        self._check_span(sorted(result.times))
        return result

    def _frames(self, container: InputContainer, stream: VideoStream, broken: list[int | None], result: Pass) -> Iterator[VideoFrame]:
        """Frames of all packets; a packet that the decoder refuses is counted, and its time kept."""
        context = stream.codec_context
        context.thread_count = 1
        context.options = {"max_pixels": str(self._limits.max_pixels)}
        for packet in _packets(container, stream):
            try:
                frames = context.decode(packet)
            except av.error.InvalidDataError:
                result.lost += 1
                broken.append(_stamp(packet))
                continue
            yield from frames
        yield from context.decode(None)

    def _check_span(self, times: list[float]) -> None:
        span = times[-1] - times[0]
        if span > self._limits.max_duration_s:
            raise RefusedError("too-long", limit=self._limits.max_duration_s, observed=round(span, 3))

    def _even(self, count: int) -> list[float]:
        """Times at the declared rate, for containers that give none."""
        return [float(number / self.rate) for number in range(count)]

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        self._file.seek(0)
        options = {
            "codec_whitelist": ",".join(DECODERS),  # holds for FFmpeg's own look at the streams, before ours
            "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
            "protocol_whitelist": "none",
            "max_pixels": str(self._limits.max_pixels),
            "threads": "1",
        }
        how: dict[str, Any] = {"format": self._demuxer, "options": options, "metadata_errors": "replace", "io_open": _no_other_file}
        with av.open(self._file, "r", **how) as container:
            yield container, self._choose(container)

    def _choose(self, container: InputContainer) -> VideoStream:
        """The first video stream that is not a cover picture, if its codec is on the list."""
        if len(container.streams) > self._limits.max_streams:
            raise RefusedError("too-many-streams", limit=self._limits.max_streams, observed=len(container.streams))
        videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not videos:
            raise RefusedError("no-video-stream")
        stream = videos[0]
        context = stream.codec_context
        if context is None or context.codec.canonical_name not in CODECS:
            raise RefusedError("unsupported-codec")
        self._check_size(context.width, context.height)
        return stream

    def _check_size(self, width: int, height: int) -> None:
        limits = self._limits
        if width < 1 or height < 1:
            raise RefusedError("undecodable")
        if max(width, height) > limits.max_side_px or width * height > limits.max_pixels:
            raise RefusedError("too-many-pixels", limit=limits.max_pixels, observed=width * height)
        if min(width, height) < limits.min_side_px:
            raise RefusedError("too-small", limit=limits.min_side_px, observed=min(width, height))


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """Packets of the stream up to its end or to where the file breaks off."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except av.error.InvalidDataError:
        return


def _declared_s(container: InputContainer, stream: VideoStream) -> float:
    """Length that the header claims, 0 when it claims none; good for a warning and nothing else."""
    counted = float(stream.frames / stream.average_rate) if stream.average_rate else 0.0
    if stream.duration and stream.time_base:
        return max(counted, float(stream.duration * stream.time_base))
    return max(counted, container.duration / av.time_base if container.duration else 0.0)


def _stamp(packet: Packet[VideoStream]) -> int | None:
    return packet.pts if packet.pts is not None else packet.dts


def _inherit(stamps: list[int], keys: set[int], broken: list[int]) -> list[bool]:
    """Damage lasts, in presentation order, from a broken picture to the next sound key frame."""
    damaged = [False] * len(stamps)
    pending, hurt = sorted(broken), False
    for number in sorted(range(len(stamps)), key=lambda k: stamps[k]):
        if number in keys:
            hurt = False
        while pending and pending[0] <= stamps[number]:
            hurt = True
            pending.pop(0)
        damaged[number] = hurt
    return damaged


def _note(frame: VideoFrame, notes: set[str]) -> None:
    """Remember what the conversion to 8-bit RGB leaves out."""
    if frame.interlaced_frame:
        notes.add("interlaced")
    if frame.color_trc in (16, 18):  # SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG), ITU-T H.273
        notes.add("hdr")
    if any(component.is_alpha for component in frame.format.components):
        notes.add("alpha")


def _no_other_file(*_: object) -> None:
    """FFmpeg asks for a second file only when the first one points to it."""
    raise RefusedError("external-reference")
