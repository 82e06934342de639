"""Decode the frames that a model wants from an untrusted file, in a process of its own.

The process finds out how many frames there are and when; which of them are wanted is decided here. What comes back is
checked as if a stranger had sent it. Limits: :class:`~chronolens.video.limits.DecodeLimits`.

What happens to uncommon video: quarter turns and mirror images of the display matrix are applied; 10-bit, 4:2:2, 4:4:4 and full
range become 8-bit RGB by the colour matrix that the file names (BT.709 for untagged high definition, else BT.601); interlaced,
HDR, transparent and non-square video is used as stored, with a warning. The first video stream that is no cover picture is used.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from chronolens.clips import ClipInfo, DecodedClip, Frames
from chronolens.errors import OptionsError
from chronolens.sampling import sample_indices, span
from chronolens.video import channel, verdicts
from chronolens.video.limits import CODECS, CONTAINERS, DecodeLimits
from chronolens.video.magic import HEAD_BYTES, is_playlist, sniff
from chronolens.video.process import Sandbox

__all__ = ["DecodeLimits", "decode_clip"]


def decode_clip(
    path: Path,
    frames: int,
    *,
    rule: str = "centre",
    interval: int = 1,
    start_s: float = 0.0,
    end_s: float | None = None,
    limits: DecodeLimits = DecodeLimits(),  # noqa: B008 (frozen)
) -> DecodedClip:
    """Return the frames of a clip that a model sees.

    Args:
        path: the file; its name is ignored.
        frames: number of frames T to pick.
        rule, interval: which frames are picked, see :func:`chronolens.sampling.sample_indices`; the frame rate is that of the container.
        start_s, end_s: part of the clip to use, in seconds of the container's clock (the one of ``timestamps_s``); a frame at
            ``end_s`` is left out. A ``start_s`` of 0 takes in everything before it.
        limits: what is accepted.

    Returns:
        T frames, uint8 RGB, upright, at most ``limits.max_rows`` high, in presentation order, with their numbers and times.

    Raises:
        ClipTooLargeError: ``too-large``.
        UnsupportedClipError: ``unrecognised``, ``playlist``, ``unsupported-codec``.
        UnusableClipError: ``empty-file``, ``undecodable``, ``external-reference``, ``encrypted``, ``no-video-stream``,
            ``too-many-streams``, ``no-frames``, ``too-many-pixels``, ``too-many-frames``, ``too-small``, ``too-short``, ``too-long``,
            ``resolution-changed``, ``decode-timeout``.
        OptionsError: ``start_s`` and ``end_s`` leave no frame.
        ValueError: unknown rule, an interval that the rule would ignore, or ``frames`` below 1.
    """
    sample_indices(1, frames, rule, interval)
    _check_window(start_s, end_s)
    with open(path, "rb") as file:
        demuxer = _admit(file, limits)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        with Sandbox(file.fileno(), demuxer, limits) as sandbox:
            talk = _Talk(sandbox, limits, frames, rule, interval, start_s, math.inf if end_s is None else end_s)
            facts = talk.run()
    return _assemble(talk, facts, digest, CONTAINERS[demuxer], limits)


def _check_window(start_s: float, end_s: float | None) -> None:
    if not math.isfinite(start_s) or start_s < 0:
        raise OptionsError("start_s must be a number of seconds, at least 0.", pointer="/start_s")
    if end_s is not None and not (math.isfinite(end_s) and end_s > start_s):
        raise OptionsError("end_s must be a number of seconds and come after start_s.", pointer="/end_s", limit=start_s)


def _admit(file: BinaryIO, limits: DecodeLimits) -> str:
    """Judge the file by size and first bytes; the demuxer to force."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise verdicts.error("unrecognised")
    if status.st_size == 0:
        raise verdicts.error("empty-file")
    if status.st_size > limits.max_bytes:
        raise verdicts.error("too-large", limits.max_bytes, status.st_size)
    head = file.read(HEAD_BYTES)
    file.seek(0)
    demuxer = sniff(head)
    if demuxer is None:
        raise verdicts.error("playlist" if is_playlist(head) else "unrecognised")
    return demuxer


@dataclass
class _Talk:
    """One conversation with the sandbox."""

    sandbox: Sandbox
    limits: DecodeLimits
    count: int
    rule: str
    interval: int
    start_s: float
    end_s: float
    times: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    indices: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    available: int = 0
    shape: tuple[int, int] | None = None
    pictures: dict[int, Frames] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Talk until the sandbox is done; its closing message."""
        plans = 0
        while True:
            kind, length = self.sandbox.header()
            if kind == channel.PLAN and plans < 2:
                plans += 1
                self._plan(self.sandbox.message(length))
            elif kind == channel.SIZE and self.shape is None:
                self._size(self.sandbox.message(length))
            elif kind == channel.FRAME:
                self._frame(length)
            elif kind == channel.DONE:
                return self.sandbox.message(length)
            elif kind == channel.FAILED:
                message = self.sandbox.message(length)
                raise verdicts.error(str(message.get("code")), _number(message.get("limit")), _number(message.get("observed")))
            else:
                raise verdicts.error("undecodable")

    def _plan(self, message: dict[str, Any]) -> None:
        """Choose frames among those of the plan; an earlier choice is forgotten."""
        times, rate = message.get("times"), _number(message.get("rate"))
        if rate is None or rate <= 0:
            raise verdicts.error("undecodable")
        if not isinstance(times, list) or not 1 <= len(times) <= 2 * self.limits.max_frames or None in map(_number, times):
            raise verdicts.error("undecodable")
        self.times = np.array(times, dtype=np.float64)
        if np.any(np.diff(self.times) < 0):
            raise verdicts.error("undecodable")
        early = self.times < self.start_s if self.start_s > 0 else np.zeros(len(times), dtype=bool)
        inside = np.flatnonzero(~early & (self.times < self.end_s))
        self.available = len(inside)
        if len(inside):
            inside = inside[sample_indices(len(inside), self.count, self.rule, self.interval, fps=rate)]
        self.indices = inside.astype(np.int64)
        self.pictures.clear()
        self.sandbox.ask([int(index) for index in np.unique(self.indices)])

    def _size(self, message: dict[str, Any]) -> None:
        width, height = message.get("width"), message.get("height")
        side = self.limits.max_side_px
        if not (isinstance(width, int) and isinstance(height, int) and 1 <= width <= side and 1 <= height <= side):
            raise verdicts.error("undecodable")
        self.shape = (height, width)

    def _frame(self, length: int) -> None:
        """Read one picture straight into the array it stays in."""
        if self.shape is None or length != channel.RANK.size + self.shape[0] * self.shape[1] * 3:
            raise verdicts.error("undecodable")
        (rank,) = channel.RANK.unpack(self.sandbox.exactly(channel.RANK.size))
        if rank not in self.indices or rank in self.pictures:
            raise verdicts.error("undecodable")
        picture: Frames = np.empty((*self.shape, 3), dtype=np.uint8)
        self.sandbox.into(picture.data.cast("B"))
        self.pictures[rank] = picture


def _assemble(talk: _Talk, facts: dict[str, Any], digest: str, container: str, limits: DecodeLimits) -> DecodedClip:
    """Check the closing message and put everything together."""
    total = len(talk.times)
    if total > limits.max_frames:
        raise verdicts.error("too-many-frames", limits.max_frames, total)
    if total >= limits.min_frames and talk.available == 0:
        last = float(talk.times[-1])
        raise OptionsError("No frame lies between start_s and end_s.", pointer="/start_s", limit=last, observed=talk.start_s)
    if talk.available < limits.min_frames:
        raise verdicts.error("too-short", limits.min_frames, talk.available)
    if set(talk.pictures) != set(talk.indices.tolist()):
        raise verdicts.error("undecodable")
    matrix, codec = _matrix(facts.get("matrix")), facts.get("codec")
    if codec not in CODECS:
        raise verdicts.error("undecodable")
    warnings = _damage(talk, facts, limits)
    warnings += [sentence for name in facts.get("notes", []) if (sentence := verdicts.note(str(name)))]
    if len(talk.pictures) < talk.count:
        warnings.append(verdicts.repeated(talk.count, talk.available, span(talk.count, talk.rule, talk.interval)))
    frames = np.stack([upright(talk.pictures[int(index)], matrix) for index in talk.indices])
    return DecodedClip(frames, talk.indices, talk.times[talk.indices], _info(talk, facts, matrix, digest, container), warnings)


def _damage(talk: _Talk, facts: dict[str, Any], limits: DecodeLimits) -> list[str]:
    """Refuse a clip with too many damaged frames; else the warning, if any."""
    hurt = int(np.isin(talk.indices, [int(rank) for rank in facts.get("damaged", [])]).sum())
    lost = int(facts.get("lost", 0))
    if hurt > limits.max_damaged_share * talk.count or lost > limits.max_damaged_share * (len(talk.times) + lost):
        raise verdicts.error("undecodable")
    return [verdicts.damaged(talk.count, hurt, lost)] if hurt or lost else []


def _info(talk: _Talk, facts: dict[str, Any], matrix: tuple[int, int, int, int], digest: str, container: str) -> ClipInfo:
    """Facts about the source as it is shown."""
    total, span = len(talk.times), float(talk.times[-1] - talk.times[0])
    mean_step = span / (total - 1)
    last = _number(facts.get("last_duration_s")) or 0.0
    last = last if 0 < last <= max(4 * mean_step, 1.0) else mean_step
    width, height = int(facts["width"]), int(facts["height"])
    if matrix[0] == 0:
        width, height = height, width
    fps = round((total - 1) / span, 6) if span > 0 else 0.0
    return ClipInfo(
        digest, container, str(facts["codec"]), width, height, fps, total, round(span + last, 6), round(float(talk.times[0]), 6)
    )


def _matrix(value: object) -> tuple[int, int, int, int]:
    if not isinstance(value, list) or len(value) != 4 or any(entry not in (-1, 0, 1) for entry in value):
        raise verdicts.error("undecodable")
    a, b, c, d = value
    if abs(a * d - b * c) != 1 or abs(a) + abs(b) + abs(c) + abs(d) != 2:
        raise verdicts.error("undecodable")
    return a, b, c, d


def upright(frame: Frames, matrix: tuple[int, int, int, int]) -> Frames:
    """Apply a display matrix made of quarter turns and mirror images.

    Args:
        frame: (H, W, 3).
        matrix: (a, b, c, d): the pixel at column p, row q goes to column a p + c q, row b p + d q (ISO/IEC 14496-12, 8.3.2).

    Returns:
        (H, W, 3), or (W, H, 3) after a quarter turn.
    """
    a, b, c, d = matrix
    if a == 0:
        frame, a, d = frame.swapaxes(0, 1), c, b
    return np.ascontiguousarray(frame[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1])


def _number(value: object) -> float | None:
    """The value if it is a finite number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
