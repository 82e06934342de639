"""Tell from the first bytes which demuxer may open a file; names and media types are never asked."""

from __future__ import annotations

HEAD_BYTES = 4096
"""How much of the file :func:`sniff` wants to see."""

_MOV_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"sidx", b"mdat", b"free", b"skip", b"wide", b"pnot")
_IMAGE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis", b"jp2 ", b"crx ")
_PLAYLISTS = (b"#extm3u", b"ffconcat", b"<asx", b"<smil", b"v=0", b"[playlist]", b"rtsptext", b"[reference]")


def sniff(head: bytes) -> str | None:
    """Return the demuxer for a file that begins with ``head``.

    Args:
        head: the first :data:`HEAD_BYTES` bytes, or the whole file if it is shorter.

    Returns:
        ``mov`` (MP4 and QuickTime), ``matroska`` (MKV and WebM), ``avi``, or None for everything else, images in MP4's clothes included.
    """
    if head[4:8] in _MOV_BOXES and _plausible_size(head):
        return None if head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS else "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3" and (b"matroska" in head or b"webm" in head):
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return None


def is_playlist(head: bytes) -> bool:
    """Whether the file is a list that points to other files: M3U8, ffconcat, DASH, ASX, SMIL, SDP."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith(_PLAYLISTS) or (text.startswith(b"<") and (b"<mpd" in text or b"<smil" in text or b"<asx" in text))


def _plausible_size(head: bytes) -> bool:
    """A box holds its own header; 0 means up to the end of the file, 1 that a 64-bit size follows."""
    size = int.from_bytes(head[:4], "big")
    return size in (0, 1) or size >= 8
