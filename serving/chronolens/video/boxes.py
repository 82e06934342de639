"""Walk the boxes of an MP4 or QuickTime file before FFmpeg sees it.

Finds what FFmpeg would pass over in silence: media data that lies in another file, encryption, and files that are made of
nothing but boxes. Reads headers only; a few hundred seeks for an ordinary file.
Source: ISO/IEC 14496-12 (boxes 8.7.2 dref, 8.5.2 stsd, 8.12 protection).
"""

from __future__ import annotations

from typing import BinaryIO

MAX_BOXES = 50_000
"""More boxes than this, at the levels that are walked, is no clip of a minute."""

_MAX_DEPTH = 10
_PARENTS = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"dinf": 0, b"stbl": 0, b"dref": 8, b"stsd": 8}
_ENCRYPTED = (b"encv", b"drmi")
_PICTURES = (b"avc1", b"avc3", b"hvc1", b"hev1", b"vp08", b"vp09", b"av01", b"mp4v", b"jpeg", b"mjpa")


def inspect(file: BinaryIO, size: int, max_side_px: int) -> str | None:
    """Return the problem code of a file that must not be decoded, None when nothing was found.

    Args:
        file: seekable; its position is left anywhere.
        size: length of the file in bytes.
        max_side_px: a video track whose header claims a longer side is refused unread.

    Returns:
        ``external-reference``, ``encrypted``, ``too-many-pixels``, ``undecodable`` (absurdly many or deep boxes) or None.
    """
    todo = [(0, size, b"", 0)]
    seen = 0
    while todo:
        start, end, parent, depth = todo.pop()
        while start + 8 <= end:
            seen += 1
            if seen > MAX_BOXES or depth > _MAX_DEPTH:
                return "undecodable"
            kind, body, after = _header(file, start, end)
            if after <= start:
                break
            if parent == b"dref" and _points_elsewhere(file, body, after):
                return "external-reference"
            if parent == b"stsd" and kind in _ENCRYPTED:
                return "encrypted"
            if parent == b"stsd" and kind in _PICTURES and _longer_side(file, body) > max_side_px:
                return "too-many-pixels"
            if kind in _PARENTS:
                todo.append((body + _PARENTS[kind], after, kind, depth + 1))
            start = after
    return None


def _header(file: BinaryIO, start: int, end: int) -> tuple[bytes, int, int]:
    """Type of a box, where its body begins and where the box ends; the end equals the start for a size that cannot be."""
    file.seek(start)
    head = file.read(16)
    size, body = int.from_bytes(head[:4], "big"), start + 8
    if size == 1 and len(head) == 16:
        size, body = int.from_bytes(head[8:16], "big"), start + 16
    elif size == 0:
        size = end - start
    if size < body - start:
        return head[4:8], body, start
    return head[4:8], body, min(start + size, end)


def _longer_side(file: BinaryIO, body: int) -> int:
    """The larger of width and height that a visual sample entry claims (12.1.3)."""
    file.seek(body + 24)
    size = file.read(4)
    return max(int.from_bytes(size[:2], "big"), int.from_bytes(size[2:], "big"))


def _points_elsewhere(file: BinaryIO, body: int, after: int) -> bool:
    """A data reference without the flag "in this file" and with something that could be a location."""
    file.seek(body)
    flags = int.from_bytes(file.read(4), "big") & 0xFFFFFF
    return not flags & 1 and after - body > 4
